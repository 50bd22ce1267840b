"""What a monitor says that somebody should look at."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Severity(StrEnum):
    """What an alert does to a monitor's exit status."""

    PROVED = "proved"
    """Signed bytes show that a log or a signer broke a rule."""
    STALE = "stale"
    """Something that should be there by now is not; nothing is proved."""
    NOTICE = "notice"
    """Worth knowing; a second source could not be asked, for instance."""


class AlertCode(StrEnum):
    """The names are stable; programs may match on them."""

    SPLIT_VIEW = "SPLIT_VIEW"
    UNKNOWN_SIGNER = "UNKNOWN_SIGNER"
    NOT_A_STATEMENT = "NOT_A_STATEMENT"
    SEQUENCE_CONFLICT = "SEQUENCE_CONFLICT"
    SEQUENCE_GAP = "SEQUENCE_GAP"
    PREDECESSOR_WRONG = "PREDECESSOR_WRONG"
    MINIMUM_LOWERED = "MINIMUM_LOWERED"
    ACTIVE_SET_TOO_LARGE = "ACTIVE_SET_TOO_LARGE"
    ACTIVE_NOT_LISTED = "ACTIVE_NOT_LISTED"
    REVOKED_YET_ACTIVE = "REVOKED_YET_ACTIVE"
    VALIDITY_TOO_LONG = "VALIDITY_TOO_LONG"
    STATUS_TOO_LONG = "STATUS_TOO_LONG"
    STATUS_STALE = "STATUS_STALE"
    NODE_LIST_TOO_LONG = "NODE_LIST_TOO_LONG"
    NODE_LIST_STALE = "NODE_LIST_STALE"
    NODES_FEWER = "NODES_FEWER"
    CHECKPOINT_STALE = "CHECKPOINT_STALE"
    WITNESSES_MISSING = "WITNESSES_MISSING"
    LOG_BEHIND = "LOG_BEHIND"
    ARTEFACT_MISSING = "ARTEFACT_MISSING"
    ARTEFACT_WRONG = "ARTEFACT_WRONG"
    SIGSTORE_BUNDLE_MISSING = "SIGSTORE_BUNDLE_MISSING"
    SIGSTORE_BUNDLE_WRONG = "SIGSTORE_BUNDLE_WRONG"
    SOURCE_UNREACHABLE = "SOURCE_UNREACHABLE"
    FURTHER_ALERTS = "FURTHER_ALERTS"


@dataclass(frozen=True, slots=True)
class Alert:
    """One finding. ``index`` is an entry of the log; ``evidence`` the path of a file that proves it.

    ``key`` tells whether it was raised before: the code and what it is about, without what changes by itself.
    """

    code: AlertCode
    severity: Severity
    detail: str
    key: str
    index: int | None = None
    evidence: str | None = None

    def to_json(self) -> dict[str, Any]:
        """For ``--json`` and the state file."""
        return {
            "code": self.code,
            "severity": self.severity,
            "detail": self.detail,
            "key": self.key,
            "index": self.index,
            "evidence": self.evidence,
        }

    @classmethod
    def from_json(cls, value: Any) -> "Alert":
        """Read a state file's alert. Raises ValueError, TypeError or KeyError."""
        index, evidence = value["index"], value["evidence"]
        texts = (value["detail"], value["key"])
        if not all(isinstance(one, str) for one in texts) or not isinstance(evidence, str | None):
            raise ValueError("not an alert")
        if index is not None and type(index) is not int:
            raise ValueError("not an alert")
        return cls(AlertCode(value["code"]), Severity(value["severity"]), *texts, index, evidence)
