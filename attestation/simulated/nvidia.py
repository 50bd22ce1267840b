"""Simulated GPUs: a device PKI of their own, in NVIDIA's format, and GPUs that answer nonces under it.

The roots are made at first start and kept in a state folder; nothing trusts them but a policy that names
their SHA-256. Private keys are OpenSSL objects in memory and PKCS #8 files of mode 0600 in that folder, which
whoever runs the simulated platform can read: it stands for the manufacturer and protects nothing.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from attestation.nvidia.evidence import GpuEvidence, encode_evidence_list
from attestation.nvidia.fwid import COMPOSITE_DEVICE_ID, DICE_TCB_INFO
from attestation.simulated.nvidia_certificates import (
    CA,
    Authority,
    below,
    load_authority,
    load_key,
    name_of,
    new_key,
    private_pem,
    save_authority,
    self_signed,
    usage,
)
from attestation.simulated.nvidia_ocsp import Answer, answer, response_name
from attestation.simulated.nvidia_report import (
    BLACKWELL,
    HOPPER,
    LS10,
    GpuSettings,
    SwitchSettings,
    sign_report,
    sign_switch_report,
)
from attestation.simulated.nvidia_rim import SimulatedRimPki
from attestation.simulated.state_folder import damaged, locked, read_file, write_file

Entropy = Callable[[int], bytes]

_DEVICE_OTHER_NAME = x509.ObjectIdentifier("1.3.6.1.4.1.412.274.1")
_SHA384 = bytes.fromhex("0609608648016503040202")
_CHIPS = {HOPPER: ("GH100", "GSP"), BLACKWELL: ("GB100", "GSP"), LS10: ("LS_10", "FSP")}
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
        settings = settings or GpuSettings()
        return GpuEvidence(
            settings.arch, nonce, sign_report(self.key, nonce, settings, entropy), self.certificate
        )


@dataclass(frozen=True, slots=True)
class SimulatedSwitch:
    """One NVSwitch: its attestation key and its PEM chain of five certificates, leaf first."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: bytes

    def evidence(self, nonce: bytes, settings: SwitchSettings, entropy: Entropy = os.urandom) -> GpuEvidence:
        """Answer ``nonce`` (32 bytes) with a signed report, as an entry of an evidence list."""
        return GpuEvidence(
            LS10, nonce, sign_switch_report(self.key, nonce, settings, entropy), self.certificate
        )


@dataclass(frozen=True, slots=True)
class SimulatedDevicePki:
    """The authorities above a simulated GPU: root, chip family and provisioner."""

    root: Authority
    family: Authority
    provisioner: Authority

    @classmethod
    def create(cls) -> "SimulatedDevicePki":
        """Make a root and the two authorities below it, with new keys."""
        root = self_signed("Simulated Device Identity CA")
        family = below(root, "Simulated GH100 Identity")
        return cls(root, family, below(family, "Simulated GH100 Provisioner ICA 1"))

    @property
    def root_sha256(self) -> str:
        """SHA-256 of the root certificate's DER, in lower-case hexadecimal: what a policy names."""
        return self.root.sha256

    def make_identity(self, arch: str = HOPPER) -> Authority:
        """Make a device identity: what a device's ROM holds for life, whatever firmware it starts."""
        key = new_key()
        name = _device_name("BROM", key, arch)
        return Authority(key, self.provisioner.issue(key.public_key(), name, *CA))

    def make_gpu(
        self, settings: GpuSettings | None = None, identity: Authority | None = None
    ) -> SimulatedGpu:
        """Start a GPU, new unless ``identity`` is given, with an attestation key for its firmware."""
        settings = settings or GpuSettings()
        return SimulatedGpu(*self._device(settings.arch, settings.fwid, identity))

    def make_switch(self, settings: SwitchSettings) -> SimulatedSwitch:
        """Start a new NVSwitch."""
        return SimulatedSwitch(*self._device(LS10, settings.fwid, None))

    def ocsp(self, certificate: bytes, at: datetime, how: Answer | None = None) -> dict[str, bytes]:
        """OCSP responses about a PEM chain's certificates but leaf and root, made at ``at``, as collateral.

        ``how`` is the answer about the device identity; the others are good.
        """
        chain = x509.load_pem_x509_certificates(certificate)
        responses = {}
        issuers = (self.provisioner, self.family, self.root)
        for place, ((subject, _), issuer) in enumerate(zip(list(pairwise(chain))[1:], issuers, strict=True)):
            stated = how if how is not None and place == 0 else Answer()
            responses[response_name(subject)] = answer(subject, issuer, at, stated)
        return responses

    def save(self, folder: Path) -> None:
        """Write keys and certificates into ``folder``; the root last, as the mark of a complete set."""
        for name in ("provisioner", "family", "root"):
            save_authority(folder, name, getattr(self, name))

    @classmethod
    def load(cls, folder: Path) -> "SimulatedDevicePki":
        """Read what `save` wrote. Raises `PlatformFault` (``simulated_state``) where it is damaged."""
        return cls(**{name: load_authority(folder, name) for name in ("root", "family", "provisioner")})

    def _device(
        self, arch: str, fwid: bytes, identity: Authority | None
    ) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
        identity = identity or self.make_identity(arch)
        identity_key, key = identity.key.public_key(), new_key()
        firmware = _tcb_info(fwid) if arch == BLACKWELL else _composite_device_id(identity_key, fwid)
        leaf = identity.issue(
            key.public_key(),
            _device_name("FMC LF", key, arch),
            (usage(digital_signature=True), True),
            (_alternative_name(identity_key, arch), False),
            (firmware, False),
        )
        above = (identity, self.provisioner, self.family, self.root)
        chain = (leaf, *(authority.certificate for authority in above))
        return key, b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain)


class SimulatedGpus:
    """The GPUs of a simulated platform: a `GpuDevices` whose evidence ends at this platform's own roots."""

    def __init__(
        self,
        gpus: tuple[SimulatedGpu, ...],
        pki: SimulatedDevicePki,
        rims: SimulatedRimPki,
        *,
        entropy: Entropy = os.urandom,
    ) -> None:
        self._gpus = gpus
        self._pki = pki
        self._rims = rims
        self._entropy = entropy

    @classmethod
    def open(cls, state_dir: Path, count: int, *, entropy: Entropy = os.urandom) -> "SimulatedGpus":
        """Open the GPUs kept in ``state_dir``, making the PKI and any GPU that is not there yet.

        The same folder gives the same roots and the same devices. Raises `AttestationError`
        (``simulated_state``) where the folder is damaged, and ValueError for a count outside 0 to 32.
        """
        if not 0 <= count <= _MAX_GPUS:
            raise ValueError(f"0 to {_MAX_GPUS} simulated GPUs")
        folder = state_dir / "nvidia"
        with locked(folder):
            if (folder / "root.pem").exists():
                pki = SimulatedDevicePki.load(folder)
            else:
                pki = SimulatedDevicePki.create()
                pki.save(folder)
            rims = SimulatedRimPki.open(folder)
            gpus = tuple(_open_gpu(pki, folder, index) for index in range(count))
        return cls(gpus, pki, rims, entropy=entropy)

    @property
    def root_sha256(self) -> str:
        """SHA-256 of the device root's certificate: what a policy names."""
        return self._pki.root_sha256

    @property
    def rim_root_sha256(self) -> str:
        """SHA-256 of the reference-value root's certificate: what a policy names."""
        return self._rims.root_sha256

    def count(self) -> int:
        """How many GPUs this platform has."""
        return len(self._gpus)

    def evidence(self, nonce: bytes) -> bytes:
        """The GPU section: every GPU's answer to ``nonce`` (32 bytes), in NVIDIA's JSON form."""
        if not self._gpus:
            return b""
        return encode_evidence_list([gpu.evidence(nonce, entropy=self._entropy) for gpu in self._gpus])

    def collateral(self, at: datetime) -> dict[str, bytes]:
        """Reference manifests, and OCSP responses made at ``at``, under the names that a bundle gives them."""
        if not self._gpus:
            return {}
        pieces = self._rims.gpu_rims(GpuSettings())
        pieces.update(self._rims.ocsp(at))
        for gpu in self._gpus:
            pieces.update(self._pki.ocsp(gpu.certificate, at))
        return pieces


def _open_gpu(pki: SimulatedDevicePki, folder: Path, index: int) -> SimulatedGpu:
    chain_path, key_path = folder / f"gpu-{index}.pem", folder / f"gpu-{index}.key"
    if not chain_path.exists():
        gpu = pki.make_gpu()
        write_file(key_path, private_pem(gpu.key))
        write_file(chain_path, gpu.certificate)
        return gpu
    chain = read_file(chain_path)
    # A chain under a root that was replaced since would be refused later, far from the cause.
    if not chain.endswith(pki.root.certificate.public_bytes(Encoding.PEM)):
        raise damaged(chain_path, "its chain ends at another root")
    return SimulatedGpu(load_key(key_path), chain)


def _device_name(part: str, key: ec.EllipticCurvePrivateKey, arch: str) -> x509.Name:
    chip, processor = _CHIPS[arch]
    serial = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest.hex().upper()
    return name_of(f"{chip} A01 {processor} {part}", x509.NameAttribute(NameOID.SERIAL_NUMBER, serial))


def _alternative_name(identity_key: ec.EllipticCurvePublicKey, arch: str) -> x509.SubjectAlternativeName:
    device_id = x509.SubjectKeyIdentifier.from_public_key(identity_key).digest[:8].hex().upper()
    text = f"NVIDIA:{_CHIPS[arch][0]}:{device_id}".encode("ascii")
    return x509.SubjectAlternativeName([x509.OtherName(_DEVICE_OTHER_NAME, _der(0x0C, text))])


def _composite_device_id(identity_key: ec.EllipticCurvePublicKey, fwid: bytes) -> x509.UnrecognizedExtension:
    spki = identity_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    content = _der(0x02, b"\x01") + spki + _der(0x30, _SHA384 + _der(0x04, fwid))
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(COMPOSITE_DEVICE_ID), _der(0x30, content))


def _tcb_info(fwid: bytes) -> x509.UnrecognizedExtension:
    ids = b"".join(_der(0x30, _SHA384 + _der(0x04, digest)) for digest in (fwid, bytes(len(fwid))))
    content = _der(0x80, b"NVIDIA") + _der(0x81, b"GB100") + _der(0xA6, ids)
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(DICE_TCB_INFO), _der(0x30, content))


def _der(tag: int, content: bytes) -> bytes:
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content
