"""The error family of this room: one root, a closed list of codes, nothing secret inside.

TransparencyError
├── LogError         the writer of a log (lock, journal, tiles, keys)
└── ImageError       an image, a model or their measurement
"""

from enum import StrEnum
from typing import Final


class Code(StrEnum):
    """Why something was refused. The names are stable; programs may match on them."""

    PROOF_MISSING = "PROOF_MISSING"
    PROOF_MALFORMED = "PROOF_MALFORMED"
    TRUST_ROOT_INVALID = "TRUST_ROOT_INVALID"
    TRUST_ROOT_VALIDITY = "TRUST_ROOT_VALIDITY"
    LOG_UNKNOWN = "LOG_UNKNOWN"
    CHECKPOINT_SIGNATURE = "CHECKPOINT_SIGNATURE"
    INCLUSION_INVALID = "INCLUSION_INVALID"
    CONSISTENCY_INVALID = "CONSISTENCY_INVALID"
    WITNESS_QUORUM = "WITNESS_QUORUM"
    WITNESS_STALE = "WITNESS_STALE"
    SPLIT_VIEW = "SPLIT_VIEW"
    ROLLBACK = "ROLLBACK"
    SIGNATURE_INVALID = "SIGNATURE_INVALID"
    IDENTITY_MISMATCH = "IDENTITY_MISMATCH"
    CERT_UNTRUSTED = "CERT_UNTRUSTED"
    SCT_INVALID = "SCT_INVALID"
    TIME_INVALID = "TIME_INVALID"
    LOG_ENTRY_MISMATCH = "LOG_ENTRY_MISMATCH"
    STATEMENT_MALFORMED = "STATEMENT_MALFORMED"
    PREDICATE_TYPE = "PREDICATE_TYPE"
    RELEASE_NOT_ACTIVE = "RELEASE_NOT_ACTIVE"
    RELEASE_EXPIRED = "RELEASE_EXPIRED"
    RELEASE_REVOKED = "RELEASE_REVOKED"
    STATUS_MISSING = "STATUS_MISSING"
    STATUS_STALE = "STATUS_STALE"
    NODE_LIST_EXPIRED = "NODE_LIST_EXPIRED"
    MEASUREMENT_MISMATCH = "MEASUREMENT_MISMATCH"
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
    NOT_AVAILABLE = "NOT_AVAILABLE"
    MEMORY_UNREADABLE = "MEMORY_UNREADABLE"
    LOG_BUSY = "LOG_BUSY"
    LOG_CORRUPT = "LOG_CORRUPT"
    LOG_UNREADABLE = "LOG_UNREADABLE"
    LOG_EXISTS = "LOG_EXISTS"
    KEY_UNUSABLE = "KEY_UNUSABLE"
    IMAGE_MALFORMED = "IMAGE_MALFORMED"


RETRYABLE: Final = frozenset(
    {Code.STATUS_MISSING, Code.STATUS_STALE, Code.WITNESS_QUORUM, Code.WITNESS_STALE}
)
"""Another node may have stapled better; nothing else is worth a second try."""


class TransparencyError(Exception):
    """A check of this room failed.

    ``stage`` names the step (a row id, or the thing being read); ``expected`` and ``found`` are public
    values; ``evidence`` holds signed bytes that prove misbehaviour of a log or a signer, where there are
    any.
    """

    def __init__(
        self,
        code: Code,
        detail: str = "",
        *,
        stage: str,
        expected: object = None,
        found: object = None,
        evidence: tuple[bytes, ...] = (),
    ) -> None:
        self.code = code
        self.stage = stage
        self.detail = detail
        self.expected = expected
        self.found = found
        self.evidence = evidence
        super().__init__(detail)

    @property
    def retryable(self) -> bool:
        """Whether asking another node may help."""
        return self.code in RETRYABLE

    def __str__(self) -> str:
        parts = [self.detail or self.code.value]
        if self.expected is not None:
            parts.append(f"expected {self.expected}")
        if self.found is not None:
            parts.append(f"found {self.found}")
        return "; ".join(parts)


class LogError(TransparencyError):
    """The writer of a log could not, or must not, go on."""


class ImageError(TransparencyError):
    """An image description or a model cannot be measured."""
