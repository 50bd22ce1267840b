"""``ohttp-keys``: key configs that an operator vouches for in public, beyond what a node's evidence binds.

A node's own keys need none of this: its evidence names them. It is for keys that outlive a node, such as those of a
token issuer's or a directory's gateway: listed here, everybody is shown the same ones.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from . import strict_base64
from .statement import (
    PREDICATE_BASE,
    Statement,
    Subject,
    closed,
    count,
    instant,
    instant_text,
    malformed,
    predicate_of,
    text,
)

KEYS_TYPE: Final = f"{PREDICATE_BASE}/ohttp-keys/v1"
MEDIA_TYPE: Final = "application/ohttp-keys"
MAX_KEYS: Final = 16 * 1024
"""Bytes of key configs in one statement."""


@dataclass(frozen=True, slots=True)
class KeyListing:
    """``configs`` (application/ohttp-keys, RFC 9458 §3, not looked into here) are those of ``service`` in
    [not_before, not_after).
    """

    channel: str
    service: str
    sequence: int
    not_before: datetime
    not_after: datetime
    configs: bytes

    @classmethod
    def parse(cls, statement: Statement) -> "KeyListing":
        """Read a statement. Raises TransparencyError (PREDICATE_TYPE, STATEMENT_MALFORMED)."""
        predicate = closed(
            predicate_of(statement, KEYS_TYPE),
            {"channel", "service", "sequence", "notBefore", "notAfter", "mediaType", "keys"},
        )
        if predicate["mediaType"] != MEDIA_TYPE:
            raise malformed("key configs of another media type")
        encoded = text(predicate["keys"], "keys", most=MAX_KEYS * 2)
        try:
            configs = strict_base64.decode(encoded)
        except ValueError as error:
            raise malformed(f"keys: {error}") from error
        if not 0 < len(configs) <= MAX_KEYS:
            raise malformed(f"key configs have 1 to {MAX_KEYS} bytes")
        not_before, not_after = (instant(predicate[name], name) for name in ("notBefore", "notAfter"))
        if not_before >= not_after:
            raise malformed("keys must be valid for some time")
        if statement.subjects != (Subject("ohttp-keys", hashlib.sha256(configs).hexdigest()),):
            raise malformed("the subject is not these keys")
        return cls(
            channel=text(predicate["channel"], "channel"),
            service=text(predicate["service"], "service"),
            sequence=count(predicate["sequence"], "sequence"),
            not_before=not_before,
            not_after=not_after,
            configs=configs,
        )

    def statement(self) -> Statement:
        """The statement that says this. Raises TransparencyError where it would not parse again."""
        statement = Statement.build(
            (Subject("ohttp-keys", hashlib.sha256(self.configs).hexdigest()),),
            KEYS_TYPE,
            {
                "channel": self.channel,
                "service": self.service,
                "sequence": self.sequence,
                "notBefore": instant_text(self.not_before),
                "notAfter": instant_text(self.not_after),
                "mediaType": MEDIA_TYPE,
                "keys": strict_base64.encode(self.configs),
            },
        )
        KeyListing.parse(statement)
        return statement
