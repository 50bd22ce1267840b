"""Files that a simulated platform keeps: written whole, readable by their owner alone, made once."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from attestation.errors import PlatformFault

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make ``folder`` (mode 0700) if need be and hold it alone, so that two platforms make one set of keys."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write_file(path: Path, data: bytes) -> None:
    """Write a file with mode 0600; after a crash it is there whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def read_file(path: Path) -> bytes:
    """Read a file that must be there. Raises PlatformFault (``simulated_state``)."""
    try:
        return path.read_bytes()
    except OSError:
        raise damaged(path, "cannot be read") from None


def write_key(path: Path, key: PrivateKey) -> None:
    """Keep a private key (PKCS #8, DER)."""
    write_file(path, key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))


def read_key(path: Path) -> PrivateKey:
    """Read a private key. Raises PlatformFault (``simulated_state``)."""
    try:
        key = load_der_private_key(read_file(path), password=None)
    except (ValueError, TypeError):
        raise damaged(path, "holds no key") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise damaged(path, "holds a key of another kind")
    return key


def damaged(path: Path, detail: str) -> PlatformFault:
    """What to raise for a state file that cannot be used."""
    return PlatformFault(code="simulated_state", detail=f"state file {path.name}: {detail}")
