"""SPDM 1.1 measurement reports: one GET_MEASUREMENTS request followed by its MEASUREMENTS response.

Source: DMTF DSP0274 1.1, GET_MEASUREMENTS request and MEASUREMENTS response message formats, with the
DMTF measurement block; NVIDIA devices answer with SHA-384 digests and sign with ECDSA P-384.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from attestation.nvidia.errors import ReportError
from attestation.nvidia.opaque import parse_opaque

MAX_REPORT = 8192
"""The longest report that NVIDIA's driver interface can return, in bytes."""

NONCE_BYTES = 32
SIGNATURE_BYTES = 96
REQUEST_BYTES = 37
DIGEST_BYTES = 48

_VERSION = 0x11
_GET_MEASUREMENTS = 0xE0
_MEASUREMENTS = 0x60
_SIGNATURE_REQUESTED = 0x01
_ALL_MEASUREMENTS = 0xFF
_DMTF_SPECIFICATION = 0x01
_MUTABLE_FIRMWARE_DIGEST = 0x01
_RESPONSE_HEADER_END = REQUEST_BYTES + 8
_BLOCK_HEADER_BYTES = 4 + 3
_MAX_VALUE = 64  # the longest digest of DSP0274, SHA-512


@dataclass(frozen=True, slots=True)
class Report:
    """A parsed report.

    ``nonce`` is the verifier's (32 bytes), ``responder_nonce`` the device's. ``measurements`` are
    digests counted from zero, as reference measurements count them (SPDM block ``i + 1``); whoever compares
    them requires SHA-384's 48 bytes of each. ``opaque`` maps
    field types to bytes. ``signature`` is raw r then s, big endian, over ``signed``.
    """

    raw: bytes
    nonce: bytes
    measurements: tuple[bytes, ...]
    responder_nonce: bytes
    opaque: Mapping[int, bytes]
    signature: bytes

    @property
    def signed(self) -> bytes:
        """The bytes that the device signed: the whole request and the response up to its signature."""
        return self.raw[:-SIGNATURE_BYTES]


def parse_report(data: bytes) -> Report:
    """Parse a report strictly: every fixed field, every length, nothing before, between or after.

    Raises `ReportError`: ``report_malformed``, ``spdm_version``, ``request_not_signed``,
    ``request_not_full``, ``request_slot``.
    """
    if len(data) > MAX_REPORT:
        raise _malformed("report too long", f"at most {MAX_REPORT} bytes", f"{len(data)} bytes")
    if len(data) < _RESPONSE_HEADER_END:
        raise _malformed("report too short", f"at least {_RESPONSE_HEADER_END} bytes", f"{len(data)} bytes")
    _check_request(data)
    _check_response_header(data)
    blocks = data[41]
    record_end = _RESPONSE_HEADER_END + int.from_bytes(data[42:45], "little")
    # The record, the responder's nonce and the opaque length must lie inside what was sent.
    opaque_start = record_end + NONCE_BYTES + 2
    if opaque_start > len(data):
        raise _malformed("measurement record runs past the end")
    measurements = _measurements(data[_RESPONSE_HEADER_END:record_end], blocks)
    opaque_end = opaque_start + int.from_bytes(data[opaque_start - 2 : opaque_start], "little")
    if opaque_end + SIGNATURE_BYTES != len(data):
        raise _malformed(
            "lengths do not add up to the report",
            f"{opaque_end + SIGNATURE_BYTES} bytes",
            f"{len(data)} bytes",
        )
    return Report(
        raw=data,
        nonce=data[4 : 4 + NONCE_BYTES],
        measurements=measurements,
        responder_nonce=data[record_end : record_end + NONCE_BYTES],
        opaque=parse_opaque(data[opaque_start:opaque_end]),
        signature=data[opaque_end:],
    )


def _check_request(data: bytes) -> None:
    if data[0] != _VERSION:
        raise ReportError(
            code="spdm_version", stage="gpu.signature", expected=f"{_VERSION:#04x}", found=f"{data[0]:#04x}"
        )
    _fixed("request code", _GET_MEASUREMENTS, data[1])
    if not data[2] & _SIGNATURE_REQUESTED:
        raise ReportError(
            code="request_not_signed",
            stage="gpu.signature",
            expected="signature requested",
            found=f"{data[2]:#04x}",
        )
    _fixed("request Param1", _SIGNATURE_REQUESTED, data[2])
    if data[3] != _ALL_MEASUREMENTS:
        raise ReportError(
            code="request_not_full",
            stage="gpu.signature",
            expected="all measurements (0xff)",
            found=f"{data[3]:#04x}",
        )
    _slot(data[36])


def _check_response_header(data: bytes) -> None:
    if data[37] != _VERSION:
        raise ReportError(
            code="spdm_version", stage="gpu.signature", expected=f"{_VERSION:#04x}", found=f"{data[37]:#04x}"
        )
    _fixed("response code", _MEASUREMENTS, data[38])
    _fixed("response Param1", 0, data[39])
    _slot(data[40])


def _measurements(record: bytes, blocks: int) -> tuple[bytes, ...]:
    if blocks == 0:
        raise _malformed("no measurement")
    values = []
    offset = 0
    for index in range(blocks):
        header = record[offset : offset + _BLOCK_HEADER_BYTES]
        if len(header) < _BLOCK_HEADER_BYTES:
            raise _malformed("measurement record is too short", f"{blocks} blocks", f"{index} blocks")
        _fixed("measurement index", index + 1, header[0])
        _fixed("measurement specification", _DMTF_SPECIFICATION, header[1])
        _fixed("measurement value type", _MUTABLE_FIRMWARE_DIGEST, header[4])
        size = int.from_bytes(header[5:7], "little")
        _fixed("measurement size", 3 + size, int.from_bytes(header[2:4], "little"))
        offset += _BLOCK_HEADER_BYTES
        values.append(record[offset : offset + size])
        if not 0 < size <= _MAX_VALUE or len(values[-1]) != size:
            raise _malformed("measurement value size", f"at most {_MAX_VALUE} bytes", f"{size} bytes")
        offset += size
    if offset != len(record):
        raise _malformed("measurement record is too long", f"{offset} bytes", f"{len(record)} bytes")
    return tuple(values)


def _slot(found: int) -> None:
    if found != 0:
        raise ReportError(code="request_slot", stage="gpu.signature", expected=0, found=found)


def _fixed(name: str, expected: int, found: int) -> None:
    if found != expected:
        raise _malformed(name, f"{expected:#04x}", f"{found:#04x}")


def _malformed(detail: str, expected: object = None, found: object = None) -> ReportError:
    return ReportError(
        code="report_malformed", stage="gpu.signature", detail=detail, expected=expected, found=found
    )
