"""Measurement reports of a simulated GPU, byte for byte in the format that real GPUs answer in.

The device signs what it is asked: any nonce, with the settings it was built with. What a verifier makes
of that is the verifier's business, so settings that no policy should allow can be given here too.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from attestation.errors import PlatformFault
from attestation.nvidia.opaque import OpaqueType

FWID = hashlib.sha384(b"cloister/sim-gpu/firmware/v1\0").digest()
"""Firmware id of the simulated GPUs: the digest of no real firmware image."""

MEASUREMENTS = 64
_REPORTED = (*range(1, 11), 11, *range(21, 41))  # places that a Hopper GPU fills; the others are zero
_DIGEST_BYTES = 48
_ENABLED, _DISABLED = 0xAA, 0x55


@dataclass(frozen=True, slots=True)
class GpuSettings:
    """What a simulated GPU reports about itself.

    ``vbios_version`` is five bytes in dotted hexadecimal. ``feature_flag``: 0 SPT, 1 MPT, 2 PPCIE.
    """

    driver_version: str = "590.12"
    vbios_version: str = "96.00.A5.00.01"
    feature_flag: int = 0
    protected_pcie: bool = False
    fwid: bytes = FWID


def measurement(index: int, settings: GpuSettings) -> bytes:
    """The digest (48 bytes) a simulated GPU reports at ``index``, counted from zero."""
    if index not in _REPORTED:
        return bytes(_DIGEST_BYTES)
    versions = f"{settings.driver_version}\0{settings.vbios_version}\0".encode("ascii")
    return hashlib.sha384(b"cloister/sim-gpu/measurement/v1\0" + bytes([index]) + versions).digest()


def sign_report(
    key: ec.EllipticCurvePrivateKey,
    nonce: bytes,
    settings: GpuSettings,
    entropy: Callable[[int], bytes],
) -> bytes:
    """Answer ``nonce`` (32 bytes): request, response and the signature of ``key`` over both.

    ``entropy(n)`` gives the responder's nonce.
    """
    if len(nonce) != 32:
        raise PlatformFault(code="nonce_length", expected=32, found=len(nonce))
    request = bytes([0x11, 0xE0, 0x01, 0xFF]) + nonce + bytes([0])
    record = b"".join(_block(index, measurement(index, settings)) for index in range(MEASUREMENTS))
    opaque = _opaque(settings)
    response = (
        bytes([0x11, 0x60, 0, 0, MEASUREMENTS])
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
    header = bytes([index + 1, 0x01]) + (3 + _DIGEST_BYTES).to_bytes(2, "little")
    return header + bytes([0x01]) + _DIGEST_BYTES.to_bytes(2, "little") + digest


def _opaque(settings: GpuSettings) -> bytes:
    counts = (int(index in _REPORTED) for index in range(MEASUREMENTS))
    fields = (
        (OpaqueType.VBIOS_VERSION, _vbios(settings.vbios_version)),
        (OpaqueType.BOARD_ID, (0x0437).to_bytes(4, "little")),
        (OpaqueType.CHIP_SKU, b"885".ljust(9, b"\0")),
        (OpaqueType.CHIP_SKU_MOD, b"0".ljust(5, b"\0")),
        (OpaqueType.PROJECT, b"SIM0\0"),
        (OpaqueType.PROJECT_SKU, b"0200\0"),
        (OpaqueType.PROJECT_SKU_MOD, bytes(2)),
        (OpaqueType.DRIVER_VERSION, settings.driver_version.encode("ascii") + b"\0"),
        (OpaqueType.GPU_INFO, (0x0180).to_bytes(8, "little")),
        (OpaqueType.MSRSCNT, b"".join(count.to_bytes(4, "little") for count in counts)),
        (OpaqueType.CPRINFO, (0x0001C000).to_bytes(4, "little")),
        (OpaqueType.NVDEC0_STATUS, bytes([_DISABLED])),
        (OpaqueType.FWID, settings.fwid),
        (OpaqueType.PROTECTED_PCIE_STATUS, bytes([_ENABLED if settings.protected_pcie else _DISABLED])),
        (OpaqueType.OPAQUE_DATA_VERSION, (1).to_bytes(2, "little")),
        (OpaqueType.FEATURE_FLAG, settings.feature_flag.to_bytes(2, "little")),
    )
    return b"".join(
        kind.to_bytes(2, "little") + len(data).to_bytes(2, "little") + data for kind, data in fields
    )


def _vbios(version: str) -> bytes:
    parts = bytes(int(part, 16) for part in version.split("."))
    return parts[3::-1] + parts[4:] + bytes(3)
