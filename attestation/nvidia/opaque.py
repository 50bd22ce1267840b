"""Opaque data of an NVIDIA measurements response: type-length-value fields and what they mean.

Layout: ``type`` (2 bytes, little endian), ``size`` (2 bytes, little endian), ``size`` bytes; fields follow
one another to the end. Type numbers are those of NVIDIA's attestation SDK (``OPAQUE_FIELD_ID_*``).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from types import MappingProxyType

from attestation.nvidia.errors import FieldError, ModeError, ReportError

FWID_BYTES = 48
_ENABLED = 0xAA
_DISABLED = 0x55
_DRIVER_VERSION = re.compile(r"[0-9]{1,5}(?:\.[0-9]{1,5}){1,3}")
_SWITCH_BIOS_VERSION = re.compile(r"[0-9A-Fa-f]{2}(?:\.[0-9A-Fa-f]{2}){4}")


class OpaqueType(IntEnum):
    """Types of opaque fields that GPUs and NVSwitches report."""

    DRIVER_VERSION = 3
    GPU_INFO = 4
    VBIOS_VERSION = 6
    NVDEC0_STATUS = 11
    MSRSCNT = 12
    CPRINFO = 13
    BOARD_ID = 14
    CHIP_SKU = 15
    CHIP_SKU_MOD = 16
    PROJECT = 17
    PROJECT_SKU = 18
    PROJECT_SKU_MOD = 19
    FWID = 20
    PROTECTED_PCIE_STATUS = 21
    SWITCH_PDI = 22
    DISABLED_PORTS = 23
    SWITCH_POSITION_ID = 24
    SWITCH_LOCK_STATUS = 25
    SWITCH_GPU_PDIS = 26
    SYS_ENABLE_STATUS = 33
    OPAQUE_DATA_VERSION = 34
    CHIP_INFO = 35
    FEATURE_FLAG = 36


class Mode(StrEnum):
    """Confidential-computing mode of a GPU, as its own report says.

    SPT: one GPU passed through. MPT: several GPUs, encrypted NVLink. PPCIE: protected PCIe, a whole HGX
    board whose NVLink is inside the trust boundary.
    """

    SPT = "SPT"
    MPT = "MPT"
    PPCIE = "PPCIE"


_FEATURE_FLAGS = {0: Mode.SPT, 1: Mode.MPT, 2: Mode.PPCIE}


@dataclass(frozen=True, slots=True)
class GpuFields:
    """What a GPU's opaque data says about it.

    ``driver_version`` is dotted decimal ("580.159.03"), ``vbios_version`` five dotted bytes in upper-case
    hexadecimal ("96.00.9F.00.01"), ``fwid`` 48 bytes or None (drivers before 550 do not report it).
    """

    driver_version: str
    vbios_version: str
    nvdec_enabled: bool
    mode: Mode
    fwid: bytes | None


def parse_opaque(data: bytes) -> Mapping[int, bytes]:
    """Split opaque data into its fields, by type.

    Types not named in `OpaqueType` are kept. Raises `ReportError` (``report_malformed``) where a field
    runs past the end or a type occurs twice.
    """
    fields: dict[int, bytes] = {}
    offset = 0
    while offset < len(data):
        if len(data) - offset < 4:
            raise _malformed("opaque data ends inside a field header")
        kind = int.from_bytes(data[offset : offset + 2], "little")
        size = int.from_bytes(data[offset + 2 : offset + 4], "little")
        offset += 4
        if len(data) - offset < size:
            raise _malformed(f"opaque field {kind} runs past the end")
        if kind in fields:
            raise _malformed(f"opaque field {kind} occurs twice")
        fields[kind] = data[offset : offset + size]
        offset += size
    return MappingProxyType(fields)


def read_fwid(opaque: Mapping[int, bytes]) -> bytes | None:
    """The firmware id a device reports (48 bytes), or None where it reports none.

    Raises `FieldError` (``field_invalid``) for another size.
    """
    fwid = opaque.get(OpaqueType.FWID)
    if fwid is not None and len(fwid) != FWID_BYTES:
        raise _invalid(OpaqueType.FWID, f"{FWID_BYTES} bytes", f"{len(fwid)} bytes")
    return fwid


def read_gpu_fields(opaque: Mapping[int, bytes]) -> GpuFields:
    """Read a GPU's fields.

    Raises `FieldError` (``field_missing``, ``field_invalid``) and `ModeError` (``mode_unknown``).
    """
    return GpuFields(
        driver_version=_driver_version(_required(opaque, OpaqueType.DRIVER_VERSION)),
        vbios_version=_vbios_version(_required(opaque, OpaqueType.VBIOS_VERSION)),
        nvdec_enabled=_switch(OpaqueType.NVDEC0_STATUS, _required(opaque, OpaqueType.NVDEC0_STATUS)),
        mode=_mode(opaque),
        fwid=read_fwid(opaque),
    )


def read_switch_bios_version(opaque: Mapping[int, bytes]) -> str:
    """The BIOS version of an NVSwitch, which it reports as text ("96.10.55.00.01").

    Raises `FieldError` (``field_missing``, ``field_invalid``).
    """
    data = _required(opaque, OpaqueType.VBIOS_VERSION)
    text = data.decode("latin-1").rstrip("\0")
    if not _SWITCH_BIOS_VERSION.fullmatch(text):
        raise _invalid(OpaqueType.VBIOS_VERSION, "five dotted hexadecimal bytes", data.hex())
    return text.upper()


def _driver_version(data: bytes) -> str:
    text = data.decode("latin-1").rstrip("\0")
    # It will name files and addresses of reference measurements, so its alphabet is closed here.
    if not _DRIVER_VERSION.fullmatch(text):
        raise _invalid(OpaqueType.DRIVER_VERSION, "dotted decimal", data[:32].hex())
    return text


def _vbios_version(data: bytes) -> str:
    if len(data) != 8 or any(data[5:]):
        raise _invalid(OpaqueType.VBIOS_VERSION, "5 bytes and 3 zero bytes", data[:16].hex())
    return ".".join(f"{byte:02X}" for byte in (data[3], data[2], data[1], data[0], data[4]))


def _switch(kind: OpaqueType, data: bytes) -> bool:
    if data == bytes([_ENABLED]):
        return True
    if data == bytes([_DISABLED]):
        return False
    raise _invalid(kind, "0xAA or 0x55", data[:8].hex())


def _mode(opaque: Mapping[int, bytes]) -> Mode:
    protected_pcie: bool | None = None
    if (status := opaque.get(OpaqueType.PROTECTED_PCIE_STATUS)) is not None:
        protected_pcie = _switch(OpaqueType.PROTECTED_PCIE_STATUS, status)
    version = 0
    if (stated := opaque.get(OpaqueType.OPAQUE_DATA_VERSION)) is not None:
        version = _u16(OpaqueType.OPAQUE_DATA_VERSION, stated)
    flag = opaque.get(OpaqueType.FEATURE_FLAG)
    if flag is None:
        if version >= 1:
            raise FieldError(
                code="field_missing",
                stage="gpu.mode",
                expected=OpaqueType.FEATURE_FLAG.name,
                detail=f"opaque data version {version} carries a feature flag",
            )
        return Mode.PPCIE if protected_pcie else Mode.SPT
    value = _u16(OpaqueType.FEATURE_FLAG, flag)
    mode = _FEATURE_FLAGS.get(value)
    if mode is None:
        raise ModeError(code="mode_unknown", stage="gpu.mode", expected="SPT, MPT or PPCIE", found=value)
    if protected_pcie is not None and protected_pcie != (mode is Mode.PPCIE):
        raise ModeError(
            code="mode_unknown",
            stage="gpu.mode",
            expected=f"protected PCIe {'on' if mode is Mode.PPCIE else 'off'} in mode {mode}",
            found=f"protected PCIe {'on' if protected_pcie else 'off'}",
            detail="feature flag and protected PCIe status contradict each other",
        )
    return mode


def _u16(kind: OpaqueType, data: bytes) -> int:
    if len(data) != 2:
        raise _invalid(kind, "2 bytes", f"{len(data)} bytes")
    return int.from_bytes(data, "little")


def _required(opaque: Mapping[int, bytes], kind: OpaqueType) -> bytes:
    data = opaque.get(kind)
    if data is None:
        raise FieldError(code="field_missing", stage="gpu.mode", expected=kind.name)
    return data


def _invalid(kind: OpaqueType, expected: str, found: str) -> FieldError:
    return FieldError(
        code="field_invalid", stage="gpu.mode", expected=f"{kind.name}: {expected}", found=found
    )


def _malformed(detail: str) -> ReportError:
    return ReportError(code="report_malformed", stage="gpu.signature", detail=detail)
