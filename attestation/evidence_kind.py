"""Which kind of CPU evidence a file holds, by its first bytes or by its members. Nothing is verified here."""

from typing import Final

from .errors import AttestationError, EvidenceMalformed
from .sev_snp_report import REPORT_LENGTH
from .strict_json import load_object
from .tees import AZURE_SNP, AZURE_TDX, SEV_SNP, TDX, TPM

__all__ = ["AZURE_SNP", "AZURE_TDX", "SEV_SNP", "TDX", "TPM", "recognise"]

MAX_DOCUMENT: Final = 256 * 1024
_TDX_TYPE: Final = 0x81


def recognise(data: bytes) -> str:
    """The kind's name. Raises EvidenceMalformed (``evidence_unknown``).

    What it says is a guess that the verifier of that kind confirms or refuses.
    """
    if data[:1] == b"{":
        return _document(data)
    # No quote is as short as a report, whose guest_svn stands where a quote has the kind of its TEE.
    if len(data) == REPORT_LENGTH and int.from_bytes(data[:4], "little") < 16:
        return SEV_SNP
    if int.from_bytes(data[4:8], "little") == _TDX_TYPE and int.from_bytes(data[:2], "little") in (4, 5):
        return TDX
    raise EvidenceMalformed(
        code="evidence_unknown", found=data[:8], detail="not CPU evidence of a known kind"
    )


def _document(data: bytes) -> str:
    try:
        members = load_object(data, limit=MAX_DOCUMENT, code="evidence_unknown").keys()
    except AttestationError as error:
        raise EvidenceMalformed(code="evidence_unknown", detail=error.detail) from None
    if "hcl_report" in members:
        return AZURE_TDX if "td_quote" in members else AZURE_SNP
    if {"ak", "quote"} <= members:
        return TPM
    raise EvidenceMalformed(code="evidence_unknown", detail="a document that is no TPM evidence")
