"""QE Identity (Intel PCS v4, GET /tdx/certification/v4/qe/identity): what the TD quoting enclave must be."""

from datetime import datetime
from typing import NamedTuple

from ..certificate import PublicKey
from ..errors import EndorsementMismatch
from .quote import QeReport
from .signed_document import Document
from .tcb_info import SvnLevel, svn_level

_NAME = "qe_identity"


class QeIdentity(NamedTuple):
    """A QE Identity document."""

    issued: datetime
    next_update: datetime
    evaluation_number: int
    miscselect: int
    miscselect_mask: int
    attributes: bytes
    attributes_mask: bytes
    mrsigner: bytes
    isvprodid: int
    levels: tuple[SvnLevel, ...]

    def check(self, report: QeReport) -> None:
        """Check that a report is of this enclave. Raises EndorsementMismatch (``qe_identity_mismatch``)."""
        attributes = bytes(a & m for a, m in zip(report.attributes, self.attributes_mask, strict=True))
        for field, expected, found in (
            ("MRSIGNER", self.mrsigner, report.mrsigner),
            ("ISVPRODID", self.isvprodid, report.isvprodid),
            ("ATTRIBUTES", self.attributes, attributes),
            ("MISCSELECT", self.miscselect, report.miscselect & self.miscselect_mask),
        ):
            if expected != found:
                raise EndorsementMismatch(
                    code="qe_identity_mismatch", expected=expected, found=found, detail=field
                )


def read_qe_identity(raw: bytes, signature: bytes, key: PublicKey | None) -> QeIdentity:
    """Check the signature over ``raw``, then read it; dates are the appraisal's.

    Raises CollateralInvalid (``qe_identity_signature``, ``qe_identity_malformed``, ``qe_identity_invalid``)
    or TcbRejected (``tcb_status_unrecognized``).
    """
    document = Document.open(raw, signature, key, _NAME)
    document.require("id", "TD_QE")
    document.require("version", 2)
    return QeIdentity(
        issued=document.time("issueDate"),
        next_update=document.time("nextUpdate"),
        evaluation_number=document.number("tcbEvaluationDataNumber", (1 << 31) - 1),
        miscselect=int.from_bytes(document.octets("miscselect", 4), "little"),
        miscselect_mask=int.from_bytes(document.octets("miscselectMask", 4), "little"),
        attributes=document.octets("attributes", 16),
        attributes_mask=document.octets("attributesMask", 16),
        mrsigner=document.octets("mrsigner", 32),
        isvprodid=document.number("isvprodid", 0xFFFF),
        levels=tuple(map(svn_level, document.list("tcbLevels"))),
    )
