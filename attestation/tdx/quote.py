"""The TDX quote (Intel, "TDX DCAP Quoting Library API", appendix A.3), versions 4 and 5, read strictly.

Reading checks the form alone; who signed a quote, and whether what it says is acceptable, is ``verify``'s.
"""

from collections.abc import Mapping
from struct import Struct
from typing import Final, NamedTuple

from ..errors import EvidenceMalformed

MAX_QUOTE: Final = 128 * 1024
"""Bytes of a quote at most, padding included; platforms give some 5 to 8 KiB, authentication data may take 64."""

REPORT_DATA_LENGTH: Final = 64
REGISTER_LENGTH: Final = 48

INTEL_QE_VENDOR: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")

_HEADER: Final = Struct("<HHI4s16s20s")
_TD10: Final = Struct("<16s48s48s8sQQ48s48s48s48s48s48s48s48s64s")
_AUTHENTICATION: Final = Struct("<64s64sHI")
_CERTIFICATION: Final = Struct("<384s64sH")
_CERTIFICATES: Final = Struct("<HI")
_DESCRIPTOR: Final = Struct("<HI")
_KEY_ECDSA_P256: Final = 2
_TEE_TDX: Final = 0x81
_BODY_TD10: Final = 584
_BODY_LENGTHS: Final[Mapping[int, int]] = {2: _BODY_TD10, 3: 648, 4: 885}
"""Bytes of the body by its type: TD report 1.0, 1.5, and 1.5 with the facts of a migrated or partitioned TD."""

_QE_REPORT: Final = 384
_SIGNATURE: Final = 64
_DATA_QE_REPORT: Final = 6
_DATA_PCK_CHAIN: Final = 5


class TdReport(NamedTuple):
    """The body of a quote: what the TDX module says of a TD, under Intel's names.

    ``kind`` is the body's type (2, 3 or 4). From type 3 on, ``tee_tcb_svn2`` is the level of the module that
    runs now, where ``tee_tcb_svn`` is that of the TD's launch, and ``service_tds`` holds what binds service
    TDs: all zero where there are none. ``vmid`` is the partition that asked for the quote, 0 for the TD as a
    whole; ``td_id`` is None before type 4.
    """

    kind: int
    tee_tcb_svn: bytes
    mrseam: bytes
    mrsignerseam: bytes
    seam_attributes: bytes
    td_attributes: int
    xfam: int
    mrtd: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmr0: bytes
    rtmr1: bytes
    rtmr2: bytes
    rtmr3: bytes
    report_data: bytes
    tee_tcb_svn2: bytes | None
    service_tds: bytes
    vmid: int
    td_id: bytes | None

    @property
    def registers(self) -> Mapping[str, bytes]:
        """The measurement registers by name: ``mrtd`` and ``rtmr0`` to ``rtmr3``, 48 bytes each."""
        return {
            "mrtd": self.mrtd,
            "rtmr0": self.rtmr0,
            "rtmr1": self.rtmr1,
            "rtmr2": self.rtmr2,
            "rtmr3": self.rtmr3,
        }


class QeReport(NamedTuple):
    """What the CPU says of the quoting enclave, 384 bytes, signed by the PCK."""

    raw: bytes
    miscselect: int
    attributes: bytes
    mrsigner: bytes
    isvprodid: int
    isvsvn: int
    report_data: bytes


class Quote(NamedTuple):
    """A quote's parts. ``signed`` is what the attestation key signed; signatures are r ‖ s, big-endian.

    ``attestation_key`` is x ‖ y on P-256; ``pck_chain`` is the PEM text that came with the quote.
    """

    version: int
    signed: bytes
    body: TdReport
    signature: bytes
    attestation_key: bytes
    qe_report: QeReport
    qe_report_signature: bytes
    qe_authentication_data: bytes
    pck_chain: bytes


def parse_quote(data: bytes) -> Quote:
    """Read a quote; bytes after its authentication data are padding.

    Raises EvidenceMalformed: ``quote_malformed``, ``quote_version_unsupported``,
    ``quote_key_type_unsupported``, ``quote_tee_type``, ``quote_vendor`` or ``quote_cert_data_type``.
    """
    if len(data) > MAX_QUOTE:
        raise _malformed(f"more than {MAX_QUOTE} bytes")
    data = bytes(data)
    if len(data) < _HEADER.size:
        raise _malformed("the header is truncated")
    version, key_type, tee, _, vendor, _ = _HEADER.unpack_from(data)
    if version not in (4, 5):
        raise EvidenceMalformed(code="quote_version_unsupported", expected="4 or 5", found=version)
    if key_type != _KEY_ECDSA_P256:
        raise EvidenceMalformed(code="quote_key_type_unsupported", expected=_KEY_ECDSA_P256, found=key_type)
    if tee != _TEE_TDX:
        raise EvidenceMalformed(code="quote_tee_type", expected=f"0x{_TEE_TDX:x}", found=f"0x{tee:x}")
    if vendor != INTEL_QE_VENDOR:
        raise EvidenceMalformed(code="quote_vendor", expected=INTEL_QE_VENDOR, found=vendor)
    start, kind, length = _HEADER.size, 2, _BODY_TD10
    if version == 5:
        if len(data) < start + _DESCRIPTOR.size:
            raise _malformed("the body's descriptor is truncated")
        kind, length = _DESCRIPTOR.unpack_from(data, start)
        start += _DESCRIPTOR.size
        if _BODY_LENGTHS.get(kind) != length:
            raise _malformed(f"no body of type {kind} has {length} bytes")
    end = start + length
    if len(data) < end + 4:
        raise _malformed("the body is truncated")
    size = int.from_bytes(data[end : end + 4], "little")
    if size > len(data) - end - 4:
        raise _malformed("the authentication data is truncated")
    at, limit = end + 4, end + 4 + size
    if size < _AUTHENTICATION.size:
        raise _malformed("the authentication data ends early")
    signature, key, kind_of_data, size = _AUTHENTICATION.unpack_from(data, at)
    _require_kind(kind_of_data, _DATA_QE_REPORT)
    at += _AUTHENTICATION.size
    if at + size != limit or size < _CERTIFICATION.size:
        raise _malformed("the authentication data does not hold what it says")
    qe_report, qe_signature, size = _CERTIFICATION.unpack_from(data, at)
    at += _CERTIFICATION.size
    if at + size + _CERTIFICATES.size > limit:
        raise _malformed("the authentication data ends early")
    qe_data = data[at : at + size]
    at += size
    kind_of_data, size = _CERTIFICATES.unpack_from(data, at)
    _require_kind(kind_of_data, _DATA_PCK_CHAIN)
    at += _CERTIFICATES.size
    if at + size != limit:
        raise _malformed("the authentication data does not hold what it says")
    return Quote(
        version=version,
        signed=data[:end],
        body=_read_body(kind, data[start:end]),
        signature=signature,
        attestation_key=key,
        qe_report=_read_qe_report(qe_report),
        qe_report_signature=qe_signature,
        qe_authentication_data=qe_data,
        pck_chain=data[at:limit],
    )


def _read_body(kind: int, body: bytes) -> TdReport:
    first = _TD10.unpack_from(body)
    if kind == 2:
        return TdReport._make((kind, *first, None, b"", 0, None))
    # MRSERVICETD; then hash and attributes of the service TDs bound at first and bound now.
    service_tds = body[0x258:0x288] + body[0x2D9:0x311] + body[0x33D:0x375]
    partition = (body[0x288], body[0x289:0x2A9]) if kind == 4 else (0, None)
    return TdReport._make((kind, *first, body[0x248:0x258], service_tds, *partition))


def _read_qe_report(report: bytes) -> QeReport:
    return QeReport(
        raw=report,
        miscselect=int.from_bytes(report[0x010:0x014], "little"),
        attributes=report[0x030:0x040],
        mrsigner=report[0x080:0x0A0],
        isvprodid=int.from_bytes(report[0x100:0x102], "little"),
        isvsvn=int.from_bytes(report[0x102:0x104], "little"),
        report_data=report[0x140:0x180],
    )


def _require_kind(found: int, expected: int) -> None:
    if found != expected:
        raise EvidenceMalformed(code="quote_cert_data_type", expected=expected, found=found)


def _malformed(detail: str) -> EvidenceMalformed:
    return EvidenceMalformed(code="quote_malformed", detail=detail)
