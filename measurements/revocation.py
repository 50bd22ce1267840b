"""``cvm-revocation``: the public notice that a release was withdrawn, and why; for monitors and for people.

Clients do not depend on seeing it: a release without a fresh status that lists it is refused anyway.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from .statement import (
    PREDICATE_BASE,
    Statement,
    Subject,
    closed,
    count,
    hex_text,
    instant,
    instant_text,
    malformed,
    predicate_of,
    text,
)

REVOCATION_TYPE: Final = f"{PREDICATE_BASE}/cvm-revocation/v1"
MAX_REASON: Final = 1024


@dataclass(frozen=True, slots=True)
class RevocationNotice:
    """The release with leaf hash ``release`` (hex) was withdrawn at ``revoked_at``; ``status_sequence`` is the
    first status without it.
    """

    channel: str
    release: str
    reason: str
    revoked_at: datetime
    status_sequence: int

    @classmethod
    def parse(cls, statement: Statement) -> "RevocationNotice":
        """Read a statement. Raises TransparencyError (PREDICATE_TYPE, STATEMENT_MALFORMED)."""
        predicate = closed(
            predicate_of(statement, REVOCATION_TYPE),
            {"channel", "release", "reason", "revokedAt", "statusSequence"},
        )
        notice = cls(
            channel=text(predicate["channel"], "channel"),
            release=hex_text(predicate["release"], 64, "release"),
            reason=text(predicate["reason"], "reason", most=MAX_REASON),
            revoked_at=instant(predicate["revokedAt"], "revokedAt"),
            status_sequence=count(predicate["statusSequence"], "statusSequence"),
        )
        if statement.subjects != (Subject("release", notice.release),):
            raise malformed("a revocation is about one release")
        return notice

    def statement(self) -> Statement:
        """The statement that says this. Raises TransparencyError where it would not parse again."""
        statement = Statement.build(
            (Subject("release", self.release),),
            REVOCATION_TYPE,
            {
                "channel": self.channel,
                "release": self.release,
                "reason": self.reason,
                "revokedAt": instant_text(self.revoked_at),
                "statusSequence": self.status_sequence,
            },
        )
        RevocationNotice.parse(statement)
        return statement
