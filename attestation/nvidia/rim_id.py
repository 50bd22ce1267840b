"""Which reference manifests a device's signed report calls for, by the ids of NVIDIA's RIM service."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from attestation.nvidia.errors import FieldError
from attestation.nvidia.opaque import GpuFields, OpaqueType

_PART = re.compile(r"[0-9A-Za-z]{1,16}")
_CHIP = re.compile(r"[A-Z]{2}[0-9A-Z]{1,8}")
_HOPPER_CHIP, _BLACKWELL_CHIP, _SWITCH_CHIP = "GH100", "GB100", "LS10"


class RimKind(StrEnum):
    """What a manifest is of."""

    DRIVER = "driver"
    VBIOS = "VBIOS"
    SWITCH_BIOS = "switch BIOS"


@dataclass(frozen=True, slots=True)
class RimRequest:
    """A manifest that a device's report calls for: its id, and the version and chip that it must be of."""

    kind: RimKind
    id: str
    version: str
    product: str


def collateral_name(rim_id: str) -> str:
    """The name under which a bundle's GPU collateral carries the manifest ``rim_id``."""
    return f"rim/{rim_id}"


def gpu_rims(arch: str, opaque: Mapping[int, bytes], fields: GpuFields) -> tuple[RimRequest, RimRequest]:
    """The driver's and the VBIOS's manifest of a GPU of architecture ``arch`` ("HOPPER" or "BLACKWELL").

    Raises `FieldError`: ``field_missing``, ``field_invalid``.
    """
    if arch == "HOPPER":
        chip, family = _HOPPER_CHIP, "NV_GPU_DRIVER"
    else:
        chip, family = _chip(opaque), "NV_GPU_CC_DRIVER"
    board = (OpaqueType.PROJECT, OpaqueType.PROJECT_SKU, OpaqueType.CHIP_SKU)
    parts = [*(_part(opaque, kind) for kind in board), _undotted(fields.vbios_version)]
    return (
        RimRequest(RimKind.DRIVER, f"{family}_{chip}_{fields.driver_version}", fields.driver_version, chip),
        RimRequest(RimKind.VBIOS, "_".join(("NV_GPU_VBIOS", *parts)), fields.vbios_version, chip),
    )


def switch_rim(bios_version: str) -> RimRequest:
    """The BIOS's manifest of an NVSwitch of the LS10 kind, which exists on one board only."""
    rim_id = f"NV_SWITCH_BIOS_5612_0002_890_{_undotted(bios_version)}"
    return RimRequest(RimKind.SWITCH_BIOS, rim_id, bios_version, _SWITCH_CHIP)


def _undotted(version: str) -> str:
    return version.replace(".", "").upper()


def _part(opaque: Mapping[int, bytes], kind: OpaqueType) -> str:
    data = opaque.get(kind)
    if data is None:
        raise FieldError(code="field_missing", stage="gpu.measurements", expected=kind.name)
    return _checked(kind, data, _PART).upper()


def _chip(opaque: Mapping[int, bytes]) -> str:
    data = opaque.get(OpaqueType.CHIP_INFO)
    return _BLACKWELL_CHIP if data is None else _checked(OpaqueType.CHIP_INFO, data, _CHIP)


def _checked(kind: OpaqueType, data: bytes, form: re.Pattern[str]) -> str:
    # It names a file and an address, so its alphabet is closed here.
    text = data.decode("latin-1").rstrip("\0")
    if not form.fullmatch(text):
        raise FieldError(
            code="field_invalid",
            stage="gpu.measurements",
            expected=f"{kind.name}: letters and digits",
            found=data[:32].hex(),
        )
    return text
