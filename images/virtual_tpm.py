"""A virtual TPM for a machine: swtpm with a certificate authority of its own, and an attestation key in it.

The authority is a laboratory's: whoever holds this folder could certify any key, so a policy that names its root says
that it trusts this folder, and nothing about hardware. The quotes are a TPM's own. (TCG TPM 2.0 Library part 3:
TPM2_Startup, TPM2_CreatePrimary, TPM2_EvictControl; swtpm_setup(8), swtpm(8).)
"""

import contextlib
import datetime
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import Struct

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from images.errors import MachineError

AK_HANDLE = 0x81010020
"""The persistent handle of the attestation key, in the owner's range."""

_HEADER = Struct(">HII")
_STARTUP, _CREATE_PRIMARY, _EVICT_CONTROL, _READ_PUBLIC, _FLUSH = 0x144, 0x131, 0x120, 0x173, 0x165
_NO_SESSIONS, _SESSIONS = 0x8001, 0x8002
_OWNER = 0x40000001
_EMPTY_PASSWORD = Struct(">IIHBH").pack(9, 0x40000009, 0, 0, 0)
# fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, sign.
_AK_ATTRIBUTES = 0x00050472
_ECC, _SHA256, _ECDSA, _P256, _NULL = 0x0023, 0x000B, 0x0018, 0x0003, 0x0010
_PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class VirtualTpm:
    """A TPM's state in a folder; ``ak_chain`` are the attestation key's certificate and its issuers', DER."""

    folder: Path
    ak_chain: bytes

    @property
    def root_sha256(self) -> str:
        """SHA-256 of the authority's root certificate, as a policy's ``[cpu.tpm.ak] ca`` names it."""
        return (self.folder / "root.sha256").read_text().strip()


def create(folder: Path, now: Callable[[], datetime.datetime]) -> VirtualTpm:
    """Make a TPM with its authority and its attestation key, or open the one in ``folder``. Raises MachineError."""
    chain = folder / "ak_chain.der"
    if chain.exists():
        return VirtualTpm(folder, chain.read_bytes())
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "state").mkdir(parents=True)
    (folder / "ca").mkdir(mode=0o700)
    _setup(folder)
    with running(folder) as path, _connected(path.with_name("data")) as tpm:
        public = _make_ak(tpm)
    certificates = [_certify(folder / "ca", public, now()), *_issuers(folder / "ca")]
    encoded = [certificate.public_bytes(serialization.Encoding.DER) for certificate in certificates]
    (folder / "root.sha256").write_text(certificates[-1].fingerprint(hashes.SHA256()).hex() + "\n")
    chain.write_bytes(b"".join(encoded))
    return VirtualTpm(folder, chain.read_bytes())


@contextlib.contextmanager
def running(folder: Path, scratch: Path | None = None) -> Iterator[Path]:
    """Start the TPM; the Unix socket through which a hypervisor commands it. Raises MachineError."""
    place = scratch or folder
    control, data = place / "control", place / "data"
    for path in (control, data):
        path.unlink(missing_ok=True)
    words = [_program("swtpm"), "socket", "--tpm2", "--tpmstate", f"dir={folder / 'state'}"]
    words += ["--ctrl", f"type=unixio,path={control}"]
    if scratch is None:
        words += ["--server", f"type=unixio,path={data}", "--flags", "not-need-init"]
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + _PATIENCE_S
        while not control.exists() or (scratch is None and not data.exists()):
            if process.poll() is not None or time.monotonic() > deadline:
                words_of = process.stderr.read().decode("utf-8", "replace").strip() if process.stderr else ""
                raise MachineError("tpm_ended", f"swtpm did not start: {words_of[-200:]}")
            time.sleep(0.05)
        yield control
    finally:
        process.terminate()
        process.wait()


def _setup(folder: Path) -> None:
    ca = folder / "ca"
    (folder / "localca.conf").write_text(
        f"statedir = {ca}\nsigningkey = {ca}/signkey.pem\nissuercert = {ca}/issuercert.pem\ncertserial = {ca}/serial\n"
    )
    (folder / "localca.options").write_text("--platform-manufacturer Cloister\n--platform-version 1\n")
    (folder / "setup.conf").write_text(
        f"create_certs_tool = {_program('swtpm_localca')}\n"
        f"create_certs_tool_config = {folder / 'localca.conf'}\n"
        f"create_certs_tool_options = {folder / 'localca.options'}\n"
    )
    words = [_program("swtpm_setup"), "--tpm2", "--tpmstate", str(folder / "state"), "--create-ek-cert"]
    words += ["--config", str(folder / "setup.conf"), "--pcr-banks", "sha256,sha384", "--overwrite"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()
        raise MachineError("tpm_setup", f"swtpm_setup: {said[-1] if said else 'failed'}")


def _make_ak(tpm: socket.socket) -> ec.EllipticCurvePublicKey:
    _call(tpm, _STARTUP, _NO_SESSIONS, b"\0\0")
    template = (
        _ECC.to_bytes(2, "big") + _SHA256.to_bytes(2, "big") + _AK_ATTRIBUTES.to_bytes(4, "big") + b"\0\0"
    )
    template += Struct(">HHHHH").pack(_NULL, _ECDSA, _SHA256, _P256, _NULL) + bytes(4)
    sensitive = bytes(4)
    body = len(sensitive).to_bytes(2, "big") + sensitive + len(template).to_bytes(2, "big") + template
    body += bytes(2) + bytes(4)  # no outside information, no PCRs of the creation
    answer = _call(tpm, _CREATE_PRIMARY, _SESSIONS, body, (_OWNER,))
    handle = int.from_bytes(answer[:4], "big")
    size = int.from_bytes(answer[8:10], "big")
    area = answer[10 : 10 + size]
    _call(tpm, _EVICT_CONTROL, _SESSIONS, AK_HANDLE.to_bytes(4, "big"), (_OWNER, handle))
    _call(tpm, _FLUSH, _NO_SESSIONS, handle.to_bytes(4, "big"))
    at = len(template) - 4  # where the template's empty point stands
    x_size = int.from_bytes(area[at : at + 2], "big")
    x, rest = area[at + 2 : at + 2 + x_size], area[at + 2 + x_size :]
    y = rest[2 : 2 + int.from_bytes(rest[:2], "big")]
    return ec.EllipticCurvePublicNumbers(
        int.from_bytes(x, "big"), int.from_bytes(y, "big"), ec.SECP256R1()
    ).public_key()


def _certify(ca: Path, key: ec.EllipticCurvePublicKey, now: datetime.datetime) -> x509.Certificate:
    issuer = x509.load_pem_x509_certificate((ca / "issuercert.pem").read_bytes())
    signer = serialization.load_pem_private_key((ca / "signkey.pem").read_bytes(), None)
    if not isinstance(signer, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise MachineError("tpm_setup", "the laboratory's authority has a key of another kind")
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "laboratory attestation key")]))
        .issuer_name(issuer.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=365))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
    )
    return builder.sign(signer, hashes.SHA256())


def _issuers(ca: Path) -> list[x509.Certificate]:
    chain = [x509.load_pem_x509_certificate((ca / "issuercert.pem").read_bytes())]
    root = ca / "swtpm-localca-rootca-cert.pem"
    if root.exists() and chain[0].issuer != chain[0].subject:
        chain.append(x509.load_pem_x509_certificate(root.read_bytes()))
    return chain


def _call(tpm: socket.socket, code: int, tag: int, body: bytes, handles: tuple[int, ...] = ()) -> bytes:
    content = b"".join(handle.to_bytes(4, "big") for handle in handles)
    content += (_EMPTY_PASSWORD if tag == _SESSIONS else b"") + body
    tpm.sendall(_HEADER.pack(tag, _HEADER.size + len(content), code) + content)
    answer = tpm.recv(4096)
    if len(answer) < _HEADER.size or _HEADER.unpack_from(answer)[2]:
        raise MachineError("tpm_setup", f"the TPM refused command 0x{code:x}: {answer[6:10].hex()}")
    return answer[_HEADER.size :]


@contextlib.contextmanager
def _connected(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_PATIENCE_S)
        connection.connect(str(path))
        yield connection


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise MachineError("tpm_missing", f"{name} is not installed (Debian packages swtpm, swtpm-tools)")
    return found
