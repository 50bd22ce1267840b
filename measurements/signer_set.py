"""``signer-set``: who may sign releases now, k of n, said by offline root keys that a client's policy pins.

A set is followed by another with a higher sequence. A client that has seen a set accepts no earlier one; one that
has not, accepts the old set until it ends, so a set should not live long.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from .errors import Code, TransparencyError
from .note import ED25519, VerifierKey
from .statement import (
    PREDICATE_BASE,
    Statement,
    Subject,
    canonical,
    closed,
    count,
    hex_text,
    instant,
    instant_text,
    malformed,
    predicate_of,
    sequence,
    text,
)

SIGNER_SET_TYPE: Final = f"{PREDICATE_BASE}/signer-set/v1"
MAX_SIGNERS: Final = 16
MAX_SET_VALIDITY: Final = timedelta(days=366)
_MAX_VKEY: Final = 512


@dataclass(frozen=True, slots=True)
class SignerSet:
    """In [not_before, not_after) ``threshold`` of ``signers`` must sign what counts in ``channel``.

    ``previous`` is the leaf hash (hex) of the set before, "" for the first.
    """

    channel: str
    sequence: int
    threshold: int
    signers: tuple[VerifierKey, ...]
    not_before: datetime
    not_after: datetime
    previous: str = ""

    @classmethod
    def parse(cls, statement: Statement) -> "SignerSet":
        """Read a statement. Raises TransparencyError (PREDICATE_TYPE, STATEMENT_MALFORMED).

        Every signer has a plain Ed25519 key of its own: two names of one key would be counted as two.
        """
        predicate = closed(
            predicate_of(statement, SIGNER_SET_TYPE),
            {"channel", "sequence", "threshold", "signers", "notBefore", "notAfter", "previous"},
        )
        try:
            signers = tuple(
                VerifierKey.parse(text(vkey, "signer", most=_MAX_VKEY))
                for vkey in sequence(predicate["signers"], "signers", most=MAX_SIGNERS)
            )
        except TransparencyError as error:
            raise malformed("a signer is not a verifier key") from error
        if any(key.algorithm != ED25519 for key in signers):
            raise malformed("a signer has a plain Ed25519 key (kind 0x01)")
        if len({key.public_key for key in signers}) != len(signers):
            raise malformed("one key stands in the set twice")
        threshold = count(predicate["threshold"], "threshold")
        if not 1 <= threshold <= len(signers):
            raise malformed("threshold is at least 1 and at most the number of signers")
        not_before, not_after = (instant(predicate[name], name) for name in ("notBefore", "notAfter"))
        if not timedelta() < not_after - not_before <= MAX_SET_VALIDITY:
            raise malformed(f"a set is valid for some time, at most {MAX_SET_VALIDITY.days} days")
        previous = predicate["previous"]
        if statement.subjects != (_subject(predicate["signers"]),):
            raise malformed("the subject is not these signers")
        return cls(
            channel=text(predicate["channel"], "channel"),
            sequence=count(predicate["sequence"], "sequence"),
            threshold=threshold,
            signers=signers,
            not_before=not_before,
            not_after=not_after,
            previous=previous if previous == "" else hex_text(previous, 64, "previous"),
        )

    def statement(self) -> Statement:
        """The statement that says this. Raises TransparencyError where it would not parse again."""
        signers = [str(key) for key in self.signers]
        statement = Statement.build(
            (_subject(signers),),
            SIGNER_SET_TYPE,
            {
                "channel": self.channel,
                "sequence": self.sequence,
                "threshold": self.threshold,
                "signers": signers,
                "notBefore": instant_text(self.not_before),
                "notAfter": instant_text(self.not_after),
                "previous": self.previous,
            },
        )
        SignerSet.parse(statement)
        return statement

    def judge(self, channel: str, at: datetime, *, max_future_s: int) -> None:
        """Whether this set counts in ``channel`` now.

        Raises TransparencyError: IDENTITY_MISMATCH (another channel), TRUST_ROOT_VALIDITY.
        """
        if self.channel != channel:
            raise TransparencyError(
                Code.IDENTITY_MISMATCH,
                "another channel",
                stage="log.signers",
                expected=channel,
                found=self.channel[:200],
            )
        if not (self.not_before <= at + timedelta(seconds=max_future_s) and at < self.not_after):
            raise TransparencyError(
                Code.TRUST_ROOT_VALIDITY,
                "the set of signers does not count now",
                stage="log.signers",
                expected=f"{instant_text(self.not_before)} to {instant_text(self.not_after)}",
                found=instant_text(at),
            )


def _subject(signers: list[str]) -> Subject:
    return Subject("signers", hashlib.sha256(canonical(signers)).hexdigest())
