"""Signing keys of logs, witnesses and release signers, and the files that hold them.

A key file is one line, ``PRIVATE+KEY+name+id+base64(kind ‖ seed)``, the form that note signers commonly
use. In memory the secret lives in an OpenSSL object only.
"""

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from . import strict_base64
from .errors import Code, LogError
from .note import (
    COSIGNATURE_ED25519,
    COSIGNATURE_MLDSA44,
    ED25519,
    NoteSignature,
    VerifierKey,
    check_key_name,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

_PREFIX: Final = "PRIVATE+KEY+"
_MAX_FILE: Final = 4096


class SigningKey:
    """A named key; ``public`` is all that is ever shown of it.

    ``algorithm`` is ED25519 for logs and release signers, COSIGNATURE_ED25519 or COSIGNATURE_MLDSA44 for
    witnesses: the kind is part of the key's id, so that a key made for one role is unknown in the other.
    """

    __slots__ = ("_key", "public")

    def __init__(self, name: str, algorithm: int, key: "Ed25519PrivateKey | MLDSA44PrivateKey") -> None:
        self._key = key
        self.public = VerifierKey(check_key_name(name), algorithm, key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls, name: str, algorithm: int = ED25519) -> "SigningKey":
        """A new key from the system's randomness.

        Raises LogError: KEY_UNUSABLE (unknown kind), NOT_AVAILABLE (this OpenSSL has no ML-DSA-44).
        """
        return cls(name, algorithm, _private_key(algorithm, None))

    @classmethod
    def parse(cls, text: str) -> "SigningKey":
        """Read a key line. Raises LogError (KEY_UNUSABLE), which never quotes the line."""
        name, _, rest = text.removeprefix(_PREFIX).partition("+")
        identifier, _, encoded = rest.partition("+")
        try:
            material = strict_base64.decode(encoded)
        except ValueError:
            material = b""
        if not text.startswith(_PREFIX) or len(material) != 33:
            raise LogError(Code.KEY_UNUSABLE, "not a private key line", stage="key")
        key = cls(name, material[0], _private_key(material[0], material[1:]))
        if key.public.id.hex() != identifier:
            raise LogError(Code.KEY_UNUSABLE, "the key's id does not belong to it", stage="key")
        return key

    @classmethod
    def load(cls, path: Path) -> "SigningKey":
        """Read a key file.

        Raises LogError: unreadable, readable by others (mode beyond 0600), or malformed.
        """
        try:
            with path.open("rb") as file:
                if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                    raise LogError(
                        Code.KEY_UNUSABLE, f"{path} must be readable by its owner alone", stage="key"
                    )
                data = file.read(_MAX_FILE + 1)
        except OSError as error:
            raise LogError(Code.KEY_UNUSABLE, f"{path}: {error.strerror}", stage="key") from error
        try:
            return cls.parse(data.decode("utf-8").strip())
        except UnicodeDecodeError:
            raise LogError(Code.KEY_UNUSABLE, f"{path} is not a key file", stage="key") from None

    def save(self, path: Path) -> None:
        """Write a new key file with mode 0600. Raises LogError where one is there already."""
        material = bytes([self.public.algorithm]) + self._key.private_bytes_raw()
        line = f"{_PREFIX}{self.public.name}+{self.public.id.hex()}+{strict_base64.encode(material)}\n"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise LogError(Code.KEY_UNUSABLE, f"{path}: {error.strerror}", stage="key") from error

    def sign(self, message: bytes) -> bytes:
        """Ed25519 (RFC 8032) or pure ML-DSA-44 (FIPS 204) over ``message``."""
        return self._key.sign(message)

    def sign_note(self, text: str) -> NoteSignature:
        """A plain signature line over a note's text. Raises LogError for a witness key."""
        if self.public.algorithm != ED25519:
            raise LogError(Code.KEY_UNUSABLE, "a witness key signs cosignatures only", stage="key")
        return NoteSignature(self.public.name, self.public.id, self.sign(text.encode()))

    def __repr__(self) -> str:
        return f"<SigningKey {self.public}>"


def _private_key(algorithm: int, seed: bytes | None) -> "Ed25519PrivateKey | MLDSA44PrivateKey":
    """The key of a seed, a new one without."""
    if algorithm in (ED25519, COSIGNATURE_ED25519):
        return Ed25519PrivateKey.from_private_bytes(seed) if seed else Ed25519PrivateKey.generate()
    if algorithm != COSIGNATURE_MLDSA44:
        raise LogError(Code.KEY_UNUSABLE, "unknown kind of signing key", stage="key")
    try:
        from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

        return MLDSA44PrivateKey.from_seed_bytes(seed) if seed else MLDSA44PrivateKey.generate()
    except (ImportError, UnsupportedAlgorithm) as error:
        raise LogError(Code.NOT_AVAILABLE, "this build of OpenSSL has no ML-DSA-44", stage="key") from error
