"""How TPM evidence travels in a bundle's ``cpu`` section: one JSON object, its members base64 of exact bytes.

Kind ``tpm``: ``v`` (1), ``ak`` (TPM2B_PUBLIC), ``quote`` (TPMS_ATTEST), ``signature`` (TPMT_SIGNATURE) and
``pcrs``, the quoted values by bank and index in hexadecimal. The Azure kinds have ``hcl_report`` in place of
``ak``, and ``azure-tdx`` also has ``td_quote``. Collateral: ``eventlog``; ``ak_chain`` and ``ak_crl`` (``tpm``);
that of the hardware below (Azure).
"""

import base64
import json
from dataclasses import dataclass
from typing import Any, Final

from ..errors import EvidenceMalformed
from ..strict_json import base64_bytes, exact_members, load_object
from ..tdx.quote import MAX_QUOTE
from .ak import MAX_PUBLIC_AREA
from .attest import MAX_ATTEST
from .azure import MAX_HCL_REPORT
from .pcr import PcrValues, read_values

MAX_TPM_EVIDENCE: Final = 256 * 1024

_VERSION: Final = 1
_MALFORMED: Final = "tpm_malformed"
_MAX_SIGNATURE: Final = 1024


@dataclass(frozen=True, slots=True)
class Quote:
    """A TPM's answer: TPMS_ATTEST, TPMT_SIGNATURE over it, and the values of the PCRs it covers."""

    message: bytes
    signature: bytes
    pcrs: PcrValues


@dataclass(frozen=True, slots=True)
class TpmEvidence:
    """Evidence of kind ``tpm``: a quote and the TPM2B_PUBLIC of the key that signed it."""

    quote: Quote
    ak_public: bytes

    def encode(self) -> bytes:
        """The evidence as it travels."""
        return _encoded(self.quote, ak=self.ak_public)

    @classmethod
    def parse(cls, data: bytes) -> "TpmEvidence":
        """Read it again. Raises EvidenceMalformed (``tpm_malformed``, ``pcr_malformed``)."""
        members = _members(data, "ak")
        return cls(_quote(members), _bytes(members, "ak", MAX_PUBLIC_AREA + 2))


@dataclass(frozen=True, slots=True)
class AzureEvidence:
    """Evidence of an Azure kind: a quote by the AK that the HCL report names; a TD quote where TDX is below."""

    quote: Quote
    hcl_report: bytes
    td_quote: bytes | None = None

    def encode(self) -> bytes:
        """The evidence as it travels."""
        td_quote = {} if self.td_quote is None else {"td_quote": self.td_quote}
        return _encoded(self.quote, hcl_report=self.hcl_report, **td_quote)

    @classmethod
    def parse(cls, data: bytes, *, tdx: bool) -> "AzureEvidence":
        """Read it again. Raises EvidenceMalformed (``tpm_malformed``, ``pcr_malformed``)."""
        members = _members(data, "hcl_report", *(("td_quote",) if tdx else ()))
        td_quote = _bytes(members, "td_quote", MAX_QUOTE) if tdx else None
        return cls(_quote(members), _bytes(members, "hcl_report", MAX_HCL_REPORT), td_quote)


def _encoded(quote: Quote, **members: bytes) -> bytes:
    document: dict[str, Any] = {"v": _VERSION}
    for name, data in (*members.items(), ("quote", quote.message), ("signature", quote.signature)):
        document[name] = base64.b64encode(data).decode("ascii")
    document["pcrs"] = {
        bank: {str(index): value.hex() for index, value in sorted(pcrs.items())}
        for bank, pcrs in sorted(quote.pcrs.items())
    }
    return json.dumps(document, separators=(",", ":")).encode("ascii")


def _members(data: bytes, *names: str) -> dict[str, Any]:
    document = load_object(data, limit=MAX_TPM_EVIDENCE, code=_MALFORMED)
    version = document.get("v")
    if type(version) is not int or version != _VERSION:
        raise EvidenceMalformed(code="tpm_version_unsupported", expected=_VERSION, found=version)
    required = ("v", *names, "quote", "signature", "pcrs")
    return exact_members(document, required, code=_MALFORMED, where="TPM evidence")


def _quote(members: dict[str, Any]) -> Quote:
    pcrs = members["pcrs"]
    if not isinstance(pcrs, dict):
        raise EvidenceMalformed(code="pcr_malformed", detail="pcrs is not an object")
    return Quote(
        _bytes(members, "quote", MAX_ATTEST), _bytes(members, "signature", _MAX_SIGNATURE), read_values(pcrs)
    )


def _bytes(members: dict[str, Any], name: str, limit: int) -> bytes:
    return base64_bytes(members[name], limit=limit, code=_MALFORMED, where=name)
