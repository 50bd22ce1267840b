"""in-toto Statements v1 in canonical JSON (RFC 8785): one spelling of every statement.

Re-canonicalising what was parsed must give the same bytes; with that, duplicate members, other number
spellings and unsorted members are all refused by one rule. Floats are not allowed at all.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import rfc8785

from .errors import Code, TransparencyError

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
PREDICATE_BASE: Final = "https://cloister.example/predicate"
"""A name, not an address: nothing is ever fetched from it."""

MAX_STATEMENT: Final = 48 * 1024
MAX_INTEGER: Final = 2**53
_STAGE: Final = "statement"
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", re.ASCII)


def canonical(value: object) -> bytes:
    """RFC 8785 bytes.

    Raises TransparencyError (STATEMENT_MALFORMED) for what JSON, or this profile, cannot say.
    """
    _refuse_floats(value)
    try:
        return rfc8785.dumps(value)  # type: ignore[arg-type]
    except (ValueError, TypeError, RecursionError) as error:
        raise malformed("no canonical form") from error


def parse_canonical(data: bytes, *, limit: int) -> Any:
    """The value of canonical JSON of at most ``limit`` bytes. Raises TransparencyError."""
    if len(data) > limit:
        raise TransparencyError(Code.LIMIT_EXCEEDED, "JSON too large", stage=_STAGE, expected=f"≤ {limit} B")
    try:
        value = json.loads(data.decode("utf-8"), parse_float=_no_float, parse_constant=_no_float)
    except (ValueError, RecursionError) as error:
        raise malformed("not JSON of the allowed kind") from error
    if canonical(value) != data:
        raise malformed("JSON is not canonical")
    return value


@dataclass(frozen=True, slots=True)
class Subject:
    """What a statement is about: a name and its SHA-256 (lowercase hex)."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Statement:
    """A parsed statement; ``raw`` are its canonical bytes."""

    subjects: tuple[Subject, ...]
    predicate_type: str
    predicate: Mapping[str, Any]
    raw: bytes

    @classmethod
    def build(
        cls, subjects: Sequence[Subject], predicate_type: str, predicate: Mapping[str, Any]
    ) -> "Statement":
        """A new statement. Raises TransparencyError where it would not parse again."""
        return cls.parse(
            canonical(
                {
                    "_type": STATEMENT_TYPE,
                    "subject": [{"name": s.name, "digest": {"sha256": s.sha256}} for s in subjects],
                    "predicateType": predicate_type,
                    "predicate": dict(predicate),
                }
            )
        )

    @classmethod
    def parse(cls, data: bytes) -> "Statement":
        """Read canonical bytes. Raises TransparencyError (STATEMENT_MALFORMED, LIMIT_EXCEEDED)."""
        value = record(parse_canonical(data, limit=MAX_STATEMENT), "statement")
        if (
            set(value) != {"_type", "subject", "predicateType", "predicate"}
            or value["_type"] != STATEMENT_TYPE
        ):
            raise malformed("not an in-toto Statement v1")
        subjects = []
        for entry in sequence(value["subject"], "subject", most=64):
            item = record(entry, "subject")
            digest = record(item.get("digest"), "subject digest")
            subjects.append(
                Subject(text(item.get("name"), "subject name"), hex_text(digest.get("sha256"), 64, "sha256"))
            )
        if not subjects:
            raise malformed("a statement without a subject")
        return cls(
            tuple(subjects),
            text(value["predicateType"], "predicateType"),
            record(value["predicate"], "predicate"),
            data,
        )


def predicate_of(statement: Statement, expected: str) -> Mapping[str, Any]:
    """The predicate of a statement of the type ``expected``. Raises TransparencyError (PREDICATE_TYPE)."""
    if statement.predicate_type != expected:
        raise TransparencyError(
            Code.PREDICATE_TYPE,
            "another kind of statement",
            stage=_STAGE,
            expected=expected,
            found=statement.predicate_type[:200],
        )
    return statement.predicate


def closed(value: Mapping[str, Any], members: set[str]) -> Mapping[str, Any]:
    """``value`` with exactly these members. Raises TransparencyError (STATEMENT_MALFORMED)."""
    odd = sorted(set(value) ^ members)
    if odd:
        raise malformed("a member is missing, or unknown", found=odd[0][:64])
    return value


def malformed(why: str, *, found: object = None) -> TransparencyError:
    """The error for a statement that breaks the profile."""
    return TransparencyError(Code.STATEMENT_MALFORMED, why, stage=_STAGE, found=found)


def record(value: object, what: str) -> Mapping[str, Any]:
    """``value`` as a JSON object. Raises TransparencyError."""
    if not isinstance(value, dict):
        raise malformed(f"{what} must be an object")
    return value


def sequence(value: object, what: str, *, most: int) -> list[Any]:
    """``value`` as a JSON array of at most ``most`` elements. Raises TransparencyError."""
    if not isinstance(value, list) or len(value) > most:
        raise malformed(f"{what} must be an array of at most {most}")
    return value


def text(value: object, what: str, *, most: int = 1024) -> str:
    """``value`` as a non-empty string of at most ``most`` characters. Raises TransparencyError."""
    if not isinstance(value, str) or not 0 < len(value) <= most:
        raise malformed(f"{what} must be a string of 1 to {most} characters")
    return value


def hex_text(value: object, digits: int, what: str) -> str:
    """``value`` as lowercase hex of exactly ``digits`` digits. Raises TransparencyError."""
    if not isinstance(value, str) or not re.fullmatch(f"[0-9a-f]{{{digits}}}", value):
        raise malformed(f"{what} must be {digits} lowercase hex digits")
    return value


def count(value: object, what: str) -> int:
    """``value`` as an integer from 0 to 2^53. Raises TransparencyError."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_INTEGER:
        raise malformed(f"{what} must be an integer from 0 to 2^53")
    return value


def instant(value: object, what: str) -> datetime:
    """``value`` as RFC 3339 UTC with whole seconds and a Z. Raises TransparencyError."""
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise malformed(f"{what} must be a UTC time with whole seconds")
    try:
        return datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise malformed(f"{what} is not a time") from error


def instant_text(value: datetime) -> str:
    """RFC 3339 UTC with whole seconds; a fraction is cut off."""
    return value.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"


def utc(at: datetime) -> datetime:
    """``at`` in UTC: in other zones adding seconds moves the hands of a clock, which summer time moves too.

    Raises ValueError for a time without a zone.
    """
    if at.tzinfo is None:
        raise ValueError("a time needs a zone: datetime.now(UTC), not datetime.now()")
    return at.astimezone(UTC)


def _no_float(_: str) -> None:
    raise ValueError("floats are not allowed")


def _refuse_floats(value: object) -> None:
    """Walk without recursion: depth is the sender's choice."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, float):
            raise malformed("floats are not allowed")
        if isinstance(item, dict):
            pending.extend(item.values())
        elif isinstance(item, list | tuple):
            pending.extend(item)
