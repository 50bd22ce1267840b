"""Measurement reports of simulated GPUs and switches, byte for byte in the format that real ones answer in.

The device signs what it is asked: any nonce, with the settings it was built with. What a verifier makes
of that is the verifier's business, so settings that no policy should allow can be given here too.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from attestation.errors import PlatformFault
from attestation.nvidia.opaque import OpaqueType

HOPPER, BLACKWELL, LS10 = "HOPPER", "BLACKWELL", "LS10"

FWID = hashlib.sha384(b"cloister/sim-gpu/firmware/v1\0").digest()
"""Firmware id of the simulated GPUs: the digest of no real firmware image."""

MEASUREMENTS = 64
SWITCH_MEASUREMENTS = 31
DRIVER_INDICES = (7, *range(21, 41))
VBIOS_INDICES = (*range(7), *range(8, 13))
"""The indices that a driver's and a VBIOS's manifest cover, as NVIDIA's do for Hopper."""

PROJECT = ("SIM0", "0200", "885")
"""Project, project SKU and chip SKU of the simulated board, which name its VBIOS manifest."""

_DIGEST_BYTES = 48
_ENABLED, _DISABLED = 0xAA, 0x55
_LINKS = 18


@dataclass(frozen=True, slots=True)
class GpuSettings:
    """What a simulated GPU reports about itself.

    ``vbios_version`` is five bytes in dotted hexadecimal. ``feature_flag``: 0 SPT, 1 MPT, 2 PPCIE.
    ``switch_pdis``: ids of the switches at its links, in a switch's byte order. ``changed``: measurements
    that differ from those of its versions, as pairs of index and digest.
    """

    driver_version: str = "590.12"
    vbios_version: str = "96.00.A5.00.01"
    feature_flag: int = 0
    protected_pcie: bool = False
    fwid: bytes = FWID
    arch: str = HOPPER
    nvdec_enabled: bool = False
    switch_pdis: tuple[bytes, ...] = ()
    changed: tuple[tuple[int, bytes], ...] = ()

    @property
    def chip(self) -> str:
        """The chip's name as its manifests have it."""
        return "GB100" if self.arch == BLACKWELL else "GH100"


@dataclass(frozen=True, slots=True)
class SwitchSettings:
    """What a simulated NVSwitch reports about itself; ``pdi`` and ``gpu_pdis`` are ids of 8 bytes.

    ``reported_fwid``: a firmware id in the report, where real switches have none.
    """

    pdi: bytes
    gpu_pdis: tuple[bytes, ...]
    bios_version: str = "96.10.73.00.01"
    fwid: bytes = FWID
    reported_fwid: bytes | None = None


def board_settings() -> tuple[GpuSettings, tuple[SwitchSettings, ...]]:
    """Settings of a board in protected PCIe mode: of each of its eight GPUs, and of its four switches."""
    gpus = tuple(_pdi("gpu", place) for place in range(8))
    switches = tuple(SwitchSettings(_pdi("switch", place), gpus) for place in range(4))
    links = tuple(switch.pdi for switch in switches)
    return GpuSettings(feature_flag=2, protected_pcie=True, switch_pdis=links), switches


def measurement(index: int, settings: GpuSettings) -> bytes:
    """The digest (48 bytes) a simulated GPU reports at ``index``, counted from zero."""
    for place, digest in settings.changed:
        if place == index:
            return digest
    if index not in DRIVER_INDICES and index not in VBIOS_INDICES:
        return bytes(_DIGEST_BYTES)
    versions = f"{settings.driver_version}\0{settings.vbios_version}\0".encode("ascii")
    return hashlib.sha384(b"cloister/sim-gpu/measurement/v1\0" + bytes([index]) + versions).digest()


def switch_measurement(index: int, settings: SwitchSettings) -> bytes:
    """The digest (48 bytes) a simulated switch reports at ``index``, counted from zero."""
    version = settings.bios_version.encode("ascii")
    return hashlib.sha384(b"cloister/sim-switch/measurement/v1\0" + bytes([index]) + version).digest()


def sign_report(
    key: ec.EllipticCurvePrivateKey,
    nonce: bytes,
    settings: GpuSettings,
    entropy: Callable[[int], bytes],
) -> bytes:
    """Answer ``nonce`` (32 bytes): request, response and the signature of ``key`` over both.

    ``entropy(n)`` gives the responder's nonce.
    """
    digests = [measurement(index, settings) for index in range(MEASUREMENTS)]
    return _sign(key, nonce, digests, _opaque(settings), entropy)


def sign_switch_report(
    key: ec.EllipticCurvePrivateKey,
    nonce: bytes,
    settings: SwitchSettings,
    entropy: Callable[[int], bytes],
) -> bytes:
    """Answer ``nonce`` (32 bytes) as an NVSwitch does."""
    digests = [switch_measurement(index, settings) for index in range(SWITCH_MEASUREMENTS)]
    fields: tuple[tuple[OpaqueType, bytes], ...] = (
        (OpaqueType.VBIOS_VERSION, settings.bios_version.encode("ascii")),
        (OpaqueType.SWITCH_PDI, settings.pdi),
        (OpaqueType.SWITCH_GPU_PDIS, b"".join(settings.gpu_pdis).ljust(128, b"\xff")),
        (OpaqueType.DISABLED_PORTS, bytes.fromhex("ec00")),
        (OpaqueType.SWITCH_POSITION_ID, bytes(2)),
        (OpaqueType.SWITCH_LOCK_STATUS, (1).to_bytes(2, "little")),
    )
    if settings.reported_fwid is not None:
        fields = (*fields, (OpaqueType.FWID, settings.reported_fwid))
    return _sign(key, nonce, digests, _encoded(fields), entropy)


def _sign(
    key: ec.EllipticCurvePrivateKey,
    nonce: bytes,
    digests: Sequence[bytes],
    opaque: bytes,
    entropy: Callable[[int], bytes],
) -> bytes:
    if len(nonce) != 32:
        raise PlatformFault(code="nonce_length", expected=32, found=len(nonce))
    request = bytes([0x11, 0xE0, 0x01, 0xFF]) + nonce + bytes([0])
    record = b"".join(_block(index, digest) for index, digest in enumerate(digests))
    response = (
        bytes([0x11, 0x60, 0, 0, len(digests)])
        + len(record).to_bytes(3, "little")
        + record
        + entropy(32)
        + len(opaque).to_bytes(2, "little")
        + opaque
    )
    signed = request + response
    r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA384())))
    return signed + r.to_bytes(48, "big") + s.to_bytes(48, "big")


def _block(index: int, digest: bytes) -> bytes:
    header = bytes([index + 1, 0x01]) + (3 + len(digest)).to_bytes(2, "little")
    return header + bytes([0x01]) + len(digest).to_bytes(2, "little") + digest


def _opaque(settings: GpuSettings) -> bytes:
    project, project_sku, chip_sku = (part.encode("ascii") for part in PROJECT)
    counts = (int(any(measurement(index, settings))) for index in range(MEASUREMENTS))
    links = [settings.switch_pdis[place % 4][::-1] for place in range(_LINKS)] if settings.switch_pdis else []
    fields = [
        (OpaqueType.VBIOS_VERSION, _vbios(settings.vbios_version)),
        (OpaqueType.BOARD_ID, (0x0437).to_bytes(4, "little")),
        (OpaqueType.CHIP_SKU, chip_sku.ljust(9, b"\0")),
        (OpaqueType.CHIP_SKU_MOD, b"0".ljust(5, b"\0")),
        (OpaqueType.PROJECT, project + b"\0"),
        (OpaqueType.PROJECT_SKU, project_sku + b"\0"),
        (OpaqueType.PROJECT_SKU_MOD, bytes(2)),
        (OpaqueType.DRIVER_VERSION, settings.driver_version.encode("ascii") + b"\0"),
        (OpaqueType.GPU_INFO, (0x0180).to_bytes(8, "little")),
        (OpaqueType.MSRSCNT, b"".join(count.to_bytes(4, "little") for count in counts)),
        (OpaqueType.CPRINFO, (0x0001C000).to_bytes(4, "little")),
        (OpaqueType.NVDEC0_STATUS, bytes([_ENABLED if settings.nvdec_enabled else _DISABLED])),
        (OpaqueType.FWID, settings.fwid),
        (OpaqueType.PROTECTED_PCIE_STATUS, bytes([_ENABLED if settings.protected_pcie else _DISABLED])),
        *([(OpaqueType.SWITCH_PDI, b"".join(links))] if links else []),
        (OpaqueType.OPAQUE_DATA_VERSION, (1).to_bytes(2, "little")),
        (OpaqueType.FEATURE_FLAG, settings.feature_flag.to_bytes(2, "little")),
    ]
    if settings.arch == BLACKWELL:
        fields.append((OpaqueType.SYS_ENABLE_STATUS, bytes.fromhex("0707")))
        fields.append((OpaqueType.CHIP_INFO, settings.chip.encode("ascii").ljust(16, b"\0")))
    return _encoded(fields)


def _encoded(fields: Sequence[tuple[OpaqueType, bytes]]) -> bytes:
    return b"".join(
        kind.to_bytes(2, "little") + len(data).to_bytes(2, "little") + data for kind, data in fields
    )


def _pdi(kind: str, place: int) -> bytes:
    return hashlib.sha256(f"cloister/sim-pdi/v1 {kind} {place}".encode("ascii")).digest()[:8]


def _vbios(version: str) -> bytes:
    parts = bytes(int(part, 16) for part in version.split("."))
    return parts[3::-1] + parts[4:] + bytes(3)
