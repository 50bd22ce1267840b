"""The SEV-SNP attestation report (AMD 56860, ATTESTATION_REPORT), versions 2 to 5, read strictly.

Reading checks the form alone; who signed it, and whether what it says is acceptable, is ``sev_snp``'s.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from struct import Struct
from typing import Final

from .errors import EvidenceMalformed

REPORT_LENGTH: Final = 0x4A0
SIGNED_LENGTH: Final = 0x2A0
REPORT_DATA_LENGTH: Final = 64
MEASUREMENT_LENGTH: Final = 48

_ALGORITHM_ECDSA_P384_SHA384: Final = 1
_SCALAR: Final = 72
_U32: Final = Struct("<I")
_U64: Final = Struct("<Q")

_POLICY_FLAGS: Final = {
    16: "smt",
    18: "migration_agent",
    19: "debug",
    20: "single_socket",
    21: "cxl",
    22: "aes256_xts",
    23: "rapl_dis",
    24: "ciphertext_hiding",
    25: "page_swap_disable",
}
GUEST_POLICY_FLAGS: Final = frozenset(_POLICY_FLAGS.values())
"""Names of the guest policy's bits."""

_PLATFORM_FLAGS: Final = {
    0: "smt",
    1: "tsme",
    2: "ecc",
    3: "rapl_dis",
    4: "ciphertext_hiding",
    5: "alias_check_complete",
    7: "tio",
}
PLATFORM_FLAGS: Final = frozenset(_PLATFORM_FLAGS.values())
"""Names of the bits of PLATFORM_INFO; bit 6 has none, yet genuine Turin reports set it."""

_POLICY_MUST_BE_ONE: Final = 1 << 17
_POLICY_KNOWN: Final = 0xFFFF | _POLICY_MUST_BE_ONE | sum(1 << bit for bit in _POLICY_FLAGS)
_PLATFORM_KNOWN: Final = sum(1 << bit for bit in _PLATFORM_FLAGS)


class Product(StrEnum):
    """A processor line: each has a root of its own at AMD."""

    MILAN = "milan"
    GENOA = "genoa"
    TURIN = "turin"


@dataclass(frozen=True, slots=True)
class Tcb:
    """Security patch levels of the firmware's parts (``fmc`` is Turin's), compared part by part."""

    bl: int
    tee: int
    snp: int
    ucode: int
    fmc: int = 0

    def below(self, floor: "Tcb") -> tuple[str, ...]:
        """The parts that lie below ``floor``."""
        return tuple(name for name in TCB_PARTS if getattr(self, name) < getattr(floor, name))

    def __str__(self) -> str:
        fmc = f"fmc {self.fmc} " if self.fmc else ""
        return f"{fmc}bl {self.bl} tee {self.tee} snp {self.snp} ucode {self.ucode}"


TCB_PARTS: Final = ("fmc", "bl", "tee", "snp", "ucode")

_TCB_LAYOUT: Final[Mapping[Product, Mapping[str, int]]] = {
    Product.MILAN: {"bl": 0, "tee": 1, "snp": 6, "ucode": 7},
    Product.GENOA: {"bl": 0, "tee": 1, "snp": 6, "ucode": 7},
    Product.TURIN: {"fmc": 0, "bl": 1, "tee": 2, "snp": 3, "ucode": 7},
}


def read_tcb(data: bytes, product: Product) -> Tcb:
    """A TCB_VERSION of 8 bytes; what each byte means depends on the processor line."""
    return Tcb(**{name: data[at] for name, at in _TCB_LAYOUT[product].items()})


def reserved_tcb(data: bytes, product: Product) -> bytes:
    """The bytes of a TCB_VERSION that stand for no part of this processor line."""
    named = _TCB_LAYOUT[product].values()
    return bytes(level for at, level in enumerate(data) if at not in named)


def write_tcb(tcb: Tcb, product: Product) -> bytes:
    """The 8 bytes that ``read_tcb`` reads."""
    data = bytearray(8)
    for name, at in _TCB_LAYOUT[product].items():
        data[at] = getattr(tcb, name)
    return bytes(data)


@dataclass(frozen=True, slots=True)
class CpuId:
    """Family, model and stepping as a version 3 report states them (family 19h, not 0Fh + 0Ah)."""

    family: int
    model: int
    stepping: int

    @property
    def product(self) -> Product:
        """The processor line. Raises EvidenceMalformed (``product_unknown``)."""
        if self.family == 0x19 and self.model <= 0x0F:
            return Product.MILAN
        # Models A0h to AFh are Bergamo and Siena, whose keys AMD issues under Genoa's root.
        if self.family == 0x19 and (0x10 <= self.model <= 0x1F or 0xA0 <= self.model <= 0xAF):
            return Product.GENOA
        if self.family == 0x1A and self.model <= 0x11:
            return Product.TURIN
        raise EvidenceMalformed(code="product_unknown", stage="chain", found=str(self))

    def __str__(self) -> str:
        return f"family {self.family:02X}h model {self.model:02X}h stepping {self.stepping:X}h"


@dataclass(frozen=True, slots=True)
class FirmwareVersion:
    """Version of the secure processor's SNP firmware."""

    major: int
    minor: int
    build: int

    @property
    def order(self) -> tuple[int, int, int]:
        """What versions compare by."""
        return self.major, self.minor, self.build

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.build}"


@dataclass(frozen=True, slots=True)
class Report:
    """A report's fields, under AMD's names. TCB versions stay raw until the processor line is known."""

    raw: bytes
    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    platform_info: int
    author_key_en: bool
    mask_chip_key: bool
    signing_key: int
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    current_tcb: bytes
    reported_tcb: bytes
    committed_tcb: bytes
    launch_tcb: bytes
    cpuid: CpuId | None
    chip_id: bytes
    current_version: FirmwareVersion
    committed_version: FirmwareVersion
    launch_mitigation_vector: int
    current_mitigation_vector: int
    signature_r: bytes
    signature_s: bytes

    @property
    def signed(self) -> bytes:
        """The bytes that the signature covers."""
        return self.raw[:SIGNED_LENGTH]

    @property
    def abi(self) -> tuple[int, int]:
        """Lowest firmware ABI, major and minor, that the guest policy allows."""
        return self.policy >> 8 & 0xFF, self.policy & 0xFF

    @property
    def guest_policy(self) -> frozenset[str]:
        """Names of the guest policy's bits that are set."""
        return frozenset(name for bit, name in _POLICY_FLAGS.items() if self.policy >> bit & 1)

    @property
    def platform(self) -> frozenset[str]:
        """Names of the bits of PLATFORM_INFO that are set."""
        return frozenset(name for bit, name in _PLATFORM_FLAGS.items() if self.platform_info >> bit & 1)

    @property
    def unknown_platform_bits(self) -> int:
        """Bits of PLATFORM_INFO that are set and have no name."""
        return self.platform_info & ~_PLATFORM_KNOWN

    @property
    def chip_id_masked(self) -> bool:
        """Whether the host hides which chip this is."""
        return not any(self.chip_id)


def parse_report(data: bytes) -> Report:
    """Read a report of exactly 1184 bytes.

    Raises EvidenceMalformed: ``report_malformed``, ``report_version``, ``signature_algorithm`` or
    ``guest_policy_reserved``.
    """
    if len(data) != REPORT_LENGTH:
        raise EvidenceMalformed(code="report_malformed", expected=f"{REPORT_LENGTH} bytes", found=len(data))
    data = bytes(data)
    version = _u32(data, 0x000)
    if not 2 <= version <= 5:
        raise EvidenceMalformed(code="report_version", expected="2 to 5", found=version)
    algorithm = _u32(data, 0x034)
    if algorithm != _ALGORITHM_ECDSA_P384_SHA384:
        raise EvidenceMalformed(
            code="signature_algorithm", expected=_ALGORITHM_ECDSA_P384_SHA384, found=algorithm
        )
    policy = _u64(data, 0x008)
    if not policy & _POLICY_MUST_BE_ONE or policy & ~_POLICY_KNOWN:
        raise EvidenceMalformed(code="guest_policy_reserved", found=f"0x{policy:x}")
    key_info = _u32(data, 0x048)
    if key_info >> 5:
        raise _nonzero(0x048)
    _must_be_zero(data, version)
    return Report(
        raw=data,
        version=version,
        guest_svn=_u32(data, 0x004),
        policy=policy,
        family_id=data[0x010:0x020],
        image_id=data[0x020:0x030],
        vmpl=_u32(data, 0x030),
        platform_info=_u64(data, 0x040),
        author_key_en=bool(key_info & 1),
        mask_chip_key=bool(key_info & 2),
        signing_key=key_info >> 2 & 7,
        report_data=data[0x050:0x090],
        measurement=data[0x090:0x0C0],
        host_data=data[0x0C0:0x0E0],
        id_key_digest=data[0x0E0:0x110],
        author_key_digest=data[0x110:0x140],
        report_id=data[0x140:0x160],
        report_id_ma=data[0x160:0x180],
        current_tcb=data[0x038:0x040],
        reported_tcb=data[0x180:0x188],
        committed_tcb=data[0x1E0:0x1E8],
        launch_tcb=data[0x1F0:0x1F8],
        cpuid=CpuId(data[0x188], data[0x189], data[0x18A]) if version >= 3 else None,
        chip_id=data[0x1A0:0x1E0],
        current_version=FirmwareVersion(build=data[0x1E8], minor=data[0x1E9], major=data[0x1EA]),
        committed_version=FirmwareVersion(build=data[0x1EC], minor=data[0x1ED], major=data[0x1EE]),
        launch_mitigation_vector=_u64(data, 0x1F8),
        current_mitigation_vector=_u64(data, 0x200),
        signature_r=data[SIGNED_LENGTH : SIGNED_LENGTH + _SCALAR],
        signature_s=data[SIGNED_LENGTH + _SCALAR : SIGNED_LENGTH + 2 * _SCALAR],
    )


def _must_be_zero(data: bytes, version: int) -> None:
    ranges = [(0x04C, 0x050), (0x18B, 0x1A0), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x208, 0x2A0)]
    ranges.append((SIGNED_LENGTH + 2 * _SCALAR, REPORT_LENGTH))
    if version < 3:
        ranges.append((0x188, 0x18B))  # CPUID came with version 3
    if version < 5:
        ranges.append((0x1F8, 0x208))  # mitigation vectors came with version 5
    for start, end in ranges:
        if any(data[start:end]):
            raise _nonzero(start)


def _nonzero(offset: int) -> EvidenceMalformed:
    return EvidenceMalformed(code="report_malformed", detail=f"reserved bits at 0x{offset:03x} are not zero")


def _u32(data: bytes, at: int) -> int:
    return int(_U32.unpack_from(data, at)[0])


def _u64(data: bytes, at: int) -> int:
    return int(_U64.unpack_from(data, at)[0])
