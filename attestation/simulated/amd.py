"""A simulated AMD platform: its own ARK and ASK, one chip's VCEK, and reports signed by it, all in AMD's format.

Keys are made at first start and kept in a state folder that whoever runs the platform can read. They stand for
the manufacturer's and protect nothing: only a policy that names the root's SHA-256 trusts what they sign.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from struct import Struct
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from attestation.bundle import CpuSection
from attestation.certificate import Certificate
from attestation.errors import AttestationError
from attestation.policy import SEV_SNP
from attestation.sev_snp_report import (
    REPORT_LENGTH,
    SIGNED_LENGTH,
    CpuId,
    FirmwareVersion,
    Product,
    Tcb,
    write_tcb,
)

from .amd_certificates import sign_authority, sign_revocation_list, sign_vcek
from .state_folder import damaged, locked, read_file, read_key, write_file, write_key

Clock = Callable[[], datetime]

PRODUCT: Final = Product.GENOA
GENOA_B1: Final = CpuId(family=0x19, model=0x11, stepping=0x1)
CURRENT_TCB: Final = Tcb(bl=10, tee=0, snp=0x1B, ucode=0x58)
"""Firmware of the simulated chip: not below the floor of any bulletin in ``sev_snp_bulletins``."""

CURRENT_FIRMWARE: Final = FirmwareVersion(major=1, minor=58, build=3)

GUEST_POLICY: Final = 1 << 8 | 58 | 1 << 16 | 1 << 17 | 1 << 24 | 1 << 25
"""ABI 1.58, SMT allowed, ciphertext hiding and no page swaps; no debugging, no migration agent."""

PLATFORM_INFO: Final = 1 << 0 | 1 << 2 | 1 << 4 | 1 << 5
"""SMT, ECC memory, ciphertext hiding, alias check complete."""

_ARK_NAME: Final = f"ARK-{PRODUCT.capitalize()}"
_ASK_NAME: Final = f"SEV-{PRODUCT.capitalize()}"
_ASK_SERIAL: Final = 0x10000
_HWID_LENGTH: Final = 64
_SCALAR: Final = 72
_SKEW: Final = timedelta(hours=1)
_LIST_LIFETIME: Final = timedelta(days=30)
_LIST_REFRESH: Final = timedelta(days=1)
_U32: Final = Struct("<I")
_U64: Final = Struct("<Q")


@dataclass(frozen=True, slots=True)
class ReportSettings:
    """What a report says besides REPORT_DATA. The defaults are an ordinary production guest's."""

    measurement: bytes
    chip_id: bytes
    report_id: bytes
    policy: int = GUEST_POLICY
    vmpl: int = 0
    platform_info: int = PLATFORM_INFO
    tcb: Tcb = CURRENT_TCB
    cpuid: CpuId = GENOA_B1
    firmware: FirmwareVersion = CURRENT_FIRMWARE
    guest_svn: int = 0
    host_data: bytes = bytes(32)


@dataclass(frozen=True, slots=True)
class SimulatedAmd:
    """The manufacturer and its one chip. ``ark``, ``ask`` and ``vcek`` are DER; ``chip_id`` is 64 bytes."""

    ark: bytes
    ask: bytes
    vcek: bytes
    chip_id: bytes
    now: Clock
    _ark_key: rsa.RSAPrivateKey = field(repr=False)
    _vcek_key: ec.EllipticCurvePrivateKey = field(repr=False)
    _list: list[tuple[datetime, bytes]] = field(default_factory=list, repr=False)

    @classmethod
    def open(cls, state_dir: Path, now: Clock) -> "SimulatedAmd":
        """The platform kept in ``state_dir``, made if it is not there yet, which takes some seconds.

        Raises PlatformFault (``simulated_state``) where the folder is damaged.
        """
        folder = state_dir / "amd"
        with locked(folder):
            if not (folder / "vcek.der").exists():
                _make(folder, now() - _SKEW)
            ark_key, vcek_key = read_key(folder / "ark.key"), read_key(folder / "vcek.key")
            ark, ask, vcek = (read_file(folder / f"{name}.der") for name in ("ark", "ask", "vcek"))
            chip_id = read_file(folder / "chip-id")
        if not isinstance(ark_key, rsa.RSAPrivateKey):
            raise damaged(folder / "ark.key", "holds a key of another kind")
        if not isinstance(vcek_key, ec.EllipticCurvePrivateKey):
            raise damaged(folder / "vcek.key", "holds a key of another kind")
        if len(chip_id) != _HWID_LENGTH:
            raise damaged(folder / "chip-id", f"is not of {_HWID_LENGTH} bytes")
        for name, data in (("ark", ark), ("ask", ask), ("vcek", vcek)):
            try:
                Certificate.parse(data)
            except AttestationError:
                raise damaged(folder / f"{name}.der", "holds no certificate") from None
        return cls(ark, ask, vcek, chip_id, now, ark_key, vcek_key)

    @property
    def root_sha256(self) -> str:
        """SHA-256 of the ARK certificate in hexadecimal: what a policy's ``[simulated]`` table names."""
        return hashlib.sha256(self.ark).hexdigest()

    def settings(self, measurement: bytes) -> ReportSettings:
        """Settings of an ordinary guest that was launched just now, of this 48-byte launch digest."""
        return ReportSettings(measurement=measurement, chip_id=self.chip_id, report_id=os.urandom(32))

    def section(self, report_data: bytes, settings: ReportSettings) -> CpuSection:
        """Evidence of a guest over 64 bytes of REPORT_DATA, with all its collateral."""
        report = sign_report(self._vcek_key, report_data, settings)
        collateral = {"vek": self.vcek, "ask": self.ask, "ark": self.ark, "crl": self._revocation_list()}
        return CpuSection(SEV_SNP, report, collateral)

    def _revocation_list(self) -> bytes:
        now = self.now()
        if not self._list or not timedelta() <= now - self._list[0][0] < _LIST_REFRESH:
            begin = now - _SKEW
            fresh = sign_revocation_list(
                _ARK_NAME,
                self._ark_key,
                number=int(begin.timestamp()),
                revoked=(),
                this_update=begin,
                next_update=begin + _LIST_LIFETIME,
            )
            self._list[:] = [(now, fresh)]
        return self._list[0][1]


def sign_report(key: ec.EllipticCurvePrivateKey, report_data: bytes, settings: ReportSettings) -> bytes:
    """A version 5 report (AMD 56860, ATTESTATION_REPORT) over ``report_data``, signed by a VCEK."""
    tcb = write_tcb(settings.tcb, settings.cpuid.product)
    version = settings.firmware
    firmware = bytes([version.build, version.minor, version.major, 0])
    fields = {
        0x000: _U32.pack(5),
        0x004: _U32.pack(settings.guest_svn),
        0x008: _U64.pack(settings.policy),
        0x030: _U32.pack(settings.vmpl),
        0x034: _U32.pack(1),
        0x038: tcb,
        0x040: _U64.pack(settings.platform_info),
        0x050: report_data,
        0x090: settings.measurement,
        0x0C0: settings.host_data,
        0x140: settings.report_id,
        0x160: b"\xff" * 32,
        0x180: tcb,
        0x188: bytes([settings.cpuid.family, settings.cpuid.model, settings.cpuid.stepping]),
        0x1A0: settings.chip_id,
        0x1E0: tcb,
        0x1E8: firmware + firmware,
        0x1F0: tcb,
    }
    report = bytearray(REPORT_LENGTH)
    for at, value in fields.items():
        report[at : at + len(value)] = value
    r, s = decode_dss_signature(key.sign(bytes(report[:SIGNED_LENGTH]), ec.ECDSA(hashes.SHA384())))
    report[SIGNED_LENGTH : SIGNED_LENGTH + 2 * _SCALAR] = b"".join(
        scalar.to_bytes(_SCALAR, "little") for scalar in (r, s)
    )
    return bytes(report)


def _make(folder: Path, not_before: datetime) -> None:
    ark_key, ask_key = (rsa.generate_private_key(65537, 4096) for _ in range(2))
    vcek_key = ec.generate_private_key(ec.SECP384R1())
    chip_id = os.urandom(_HWID_LENGTH)
    ark = sign_authority(_ARK_NAME, ark_key.public_key(), _ARK_NAME, ark_key, serial=1, not_before=not_before)
    ask = sign_authority(
        _ASK_NAME, ask_key.public_key(), _ARK_NAME, ark_key, serial=_ASK_SERIAL, not_before=not_before
    )
    vcek = sign_vcek(
        vcek_key.public_key(),
        _ASK_NAME,
        ask_key,
        product=PRODUCT,
        tcb=CURRENT_TCB,
        hwid=chip_id,
        not_before=not_before,
    )
    write_key(folder / "ark.key", ark_key)
    write_key(folder / "ask.key", ask_key)
    write_key(folder / "vcek.key", vcek_key)
    write_file(folder / "chip-id", chip_id)
    write_file(folder / "ark.der", ark)
    write_file(folder / "ask.der", ask)
    write_file(folder / "vcek.der", vcek)  # last, as the mark of a complete set
