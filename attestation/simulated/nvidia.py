"""Simulated GPUs: a device PKI of their own, in NVIDIA's format, and GPUs that answer nonces under it.

The root is made at first start and kept in a state folder; nothing trusts it but a policy that names its
SHA-256. Private keys are OpenSSL objects in memory and PKCS #8 files of mode 0600 in that folder, which
whoever runs the simulated platform can read: it stands for the manufacturer and protects nothing.
"""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from attestation.errors import PlatformFault
from attestation.nvidia.evidence import GpuEvidence, encode_evidence_list
from attestation.nvidia.fwid import COMPOSITE_DEVICE_ID
from attestation.simulated.nvidia_report import GpuSettings, sign_report

Entropy = Callable[[int], bytes]

_ORGANISATION = "Cloister simulated platform (not NVIDIA)"
_BEGIN = datetime(2023, 1, 1, tzinfo=UTC)
_END = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
_DEVICE_OTHER_NAME = x509.ObjectIdentifier("1.3.6.1.4.1.412.274.1")
_MAX_GPUS = 32


@dataclass(frozen=True, slots=True)
class SimulatedGpu:
    """One GPU: its attestation key and its PEM chain of five certificates, leaf first."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: bytes

    def evidence(
        self, nonce: bytes, settings: GpuSettings | None = None, entropy: Entropy = os.urandom
    ) -> GpuEvidence:
        """Answer ``nonce`` (32 bytes) with a signed report, as an entry of an evidence list."""
        report = sign_report(self.key, nonce, settings or GpuSettings(), entropy)
        return GpuEvidence("HOPPER", nonce, report, self.certificate)


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate and its key, which issues the certificates below it."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: x509.Certificate

    def issue(
        self,
        public_key: ec.EllipticCurvePublicKey,
        subject: x509.Name,
        *extensions: tuple[x509.ExtensionType, bool],
    ) -> x509.Certificate:
        """Issue a certificate for ``public_key``; extensions are given with whether they are critical."""
        return _certificate(public_key, subject, self.certificate.subject, self.key, extensions)


@dataclass(frozen=True, slots=True)
class SimulatedDevicePki:
    """The authorities above a simulated GPU: root, chip family and provisioner."""

    root: Authority
    family: Authority
    provisioner: Authority

    @classmethod
    def create(cls) -> "SimulatedDevicePki":
        """Make a root and the two authorities below it, with new keys."""
        root_key = _new_key()
        name = _name("Simulated Device Identity CA")
        root = Authority(root_key, _certificate(root_key.public_key(), name, name, root_key, _CA))
        family = _below(root, _name("Simulated GH100 Identity"))
        return cls(root, family, _below(family, _name("Simulated GH100 Provisioner ICA 1")))

    @property
    def root_sha256(self) -> str:
        """SHA-256 of the root certificate's DER, in lower-case hexadecimal: what a policy names."""
        return hashlib.sha256(self.root.certificate.public_bytes(Encoding.DER)).hexdigest()

    def make_identity(self) -> Authority:
        """Make a device identity: what a GPU's ROM holds for life, whatever firmware it starts."""
        key = _new_key()
        return Authority(key, self.provisioner.issue(key.public_key(), _device_name("BROM", key), *_CA))

    def make_gpu(
        self, settings: GpuSettings | None = None, identity: Authority | None = None
    ) -> SimulatedGpu:
        """Start a GPU, new unless ``identity`` is given, with an attestation key for its firmware."""
        identity = identity or self.make_identity()
        identity_key, key = identity.key.public_key(), _new_key()
        leaf = identity.issue(
            key.public_key(),
            _device_name("FMC LF", key),
            (_usage(digital_signature=True), True),
            (_alternative_name(identity_key), False),
            (_composite_device_id(identity_key, (settings or GpuSettings()).fwid), False),
        )
        above = (identity, self.provisioner, self.family, self.root)
        chain = (leaf, *(authority.certificate for authority in above))
        return SimulatedGpu(key, b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain))

    def save(self, folder: Path) -> None:
        """Write keys and certificates into ``folder``; the root last, as the mark of a complete set."""
        for name in ("provisioner", "family", "root"):
            authority: Authority = getattr(self, name)
            _write(folder / f"{name}.key", _private_pem(authority.key))
            _write(folder / f"{name}.pem", authority.certificate.public_bytes(Encoding.PEM))

    @classmethod
    def load(cls, folder: Path) -> "SimulatedDevicePki":
        """Read what `save` wrote. Raises `PlatformFault` (``simulated_state``) where it is damaged."""
        return cls(**{name: _load_authority(folder, name) for name in ("root", "family", "provisioner")})


class SimulatedGpus:
    """The GPUs of a simulated platform: a `GpuDevices` whose evidence ends at this platform's own root."""

    def __init__(
        self, gpus: tuple[SimulatedGpu, ...], root_sha256: str, *, entropy: Entropy = os.urandom
    ) -> None:
        self._gpus = gpus
        self._entropy = entropy
        self.root_sha256 = root_sha256

    @classmethod
    def open(cls, state_dir: Path, count: int, *, entropy: Entropy = os.urandom) -> "SimulatedGpus":
        """Open the GPUs kept in ``state_dir``, making the PKI and any GPU that is not there yet.

        The same folder gives the same root and the same devices. Raises `AttestationError`
        (``simulated_state``) where the folder is damaged, and ValueError for a count outside 0 to 32.
        """
        if not 0 <= count <= _MAX_GPUS:
            raise ValueError(f"0 to {_MAX_GPUS} simulated GPUs")
        folder = state_dir / "nvidia"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(folder):
            if (folder / "root.pem").exists():
                pki = SimulatedDevicePki.load(folder)
            else:
                pki = SimulatedDevicePki.create()
                pki.save(folder)
            gpus = tuple(_open_gpu(pki, folder, index) for index in range(count))
        return cls(gpus, pki.root_sha256, entropy=entropy)

    def count(self) -> int:
        """How many GPUs this platform has."""
        return len(self._gpus)

    def evidence(self, nonce: bytes) -> bytes:
        """The GPU section: every GPU's answer to ``nonce`` (32 bytes), in NVIDIA's JSON form."""
        if not self._gpus:
            return b""
        return encode_evidence_list([gpu.evidence(nonce, entropy=self._entropy) for gpu in self._gpus])


def _open_gpu(pki: SimulatedDevicePki, folder: Path, index: int) -> SimulatedGpu:
    chain_path, key_path = folder / f"gpu-{index}.pem", folder / f"gpu-{index}.key"
    if not chain_path.exists():
        gpu = pki.make_gpu()
        _write(key_path, _private_pem(gpu.key))
        _write(chain_path, gpu.certificate)
        return gpu
    chain = _read(chain_path)
    # A chain under a root that was replaced since would be refused later, far from the cause.
    if not chain.endswith(pki.root.certificate.public_bytes(Encoding.PEM)):
        raise _damaged(chain_path, "its chain ends at another root")
    return SimulatedGpu(_load_key(key_path), chain)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    # Two platforms that start at once over one folder must not each make a root.
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _below(issuer: Authority, name: x509.Name) -> Authority:
    key = _new_key()
    return Authority(key, issuer.issue(key.public_key(), name, *_CA))


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def _name(common_name: str, *attributes: x509.NameAttribute[str]) -> x509.Name:
    return x509.Name(
        [
            *attributes,
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANISATION),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _device_name(part: str, key: ec.EllipticCurvePrivateKey) -> x509.Name:
    serial = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest.hex().upper()
    return _name(f"GH100 A01 GSP {part}", x509.NameAttribute(NameOID.SERIAL_NUMBER, serial))


def _certificate(
    public_key: ec.EllipticCurvePublicKey,
    subject: x509.Name,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    extensions: tuple[tuple[x509.ExtensionType, bool], ...],
) -> x509.Certificate:
    builder = x509.CertificateBuilder(
        subject_name=subject,
        issuer_name=issuer,
        public_key=public_key,
        serial_number=x509.random_serial_number(),
        not_valid_before=_BEGIN,
        not_valid_after=_END,
    )
    identifiers: tuple[tuple[x509.ExtensionType, bool], ...] = (
        (x509.SubjectKeyIdentifier.from_public_key(public_key), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False),
    )
    for extension, critical in (*extensions, *identifiers):
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, hashes.SHA384())


def _usage(*, digital_signature: bool = False, certificates: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )


_CA: tuple[tuple[x509.ExtensionType, bool], ...] = (
    (x509.BasicConstraints(ca=True, path_length=None), True),
    (_usage(certificates=True), True),
)


def _alternative_name(identity_key: ec.EllipticCurvePublicKey) -> x509.SubjectAlternativeName:
    device_id = x509.SubjectKeyIdentifier.from_public_key(identity_key).digest[:8].hex().upper()
    text = f"NVIDIA:GH100:{device_id}".encode("ascii")
    return x509.SubjectAlternativeName([x509.OtherName(_DEVICE_OTHER_NAME, _der(0x0C, text))])


def _composite_device_id(identity_key: ec.EllipticCurvePublicKey, fwid: bytes) -> x509.UnrecognizedExtension:
    spki = identity_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    sha384 = bytes.fromhex("0609608648016503040202")
    content = _der(0x02, b"\x01") + spki + _der(0x30, sha384 + _der(0x04, fwid))
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(COMPOSITE_DEVICE_ID), _der(0x30, content))


def _der(tag: int, content: bytes) -> bytes:
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, data: bytes) -> None:
    # A temporary file is made with mode 0600 and moved in place whole.
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


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _damaged(path, "cannot be read") from error


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError) as error:
        raise _damaged(path, "holds no key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _damaged(path, "holds a key of another kind")
    return key


def _load_authority(folder: Path, name: str) -> Authority:
    path = folder / f"{name}.pem"
    try:
        certificate = x509.load_pem_x509_certificate(_read(path))
    except ValueError as error:
        raise _damaged(path, "holds no certificate") from error
    return Authority(_load_key(folder / f"{name}.key"), certificate)


def _damaged(path: Path, detail: str) -> PlatformFault:
    return PlatformFault(code="simulated_state", detail=f"state file {path.name}: {detail}")
