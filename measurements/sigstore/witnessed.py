"""Witnesses of a Rekor v2 log: which cosignatures its checkpoint must carry, beyond the log's own signature."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ..checkpoint import SignedCheckpoint
from ..errors import Code, TransparencyError
from ..note import ED25519, VerifierKey
from ..tlog_policy import TlogPolicy
from .log_entry import ProvedEntry
from .root import log_key


@dataclass(frozen=True, slots=True)
class WitnessRule:
    """At least ``quorum`` of ``witnesses`` must have cosigned, at any time up to now."""

    witnesses: Sequence[VerifierKey]
    quorum: int

    def check(self, entry: ProvedEntry, *, at: datetime, max_future_s: int) -> None:
        """Raises TransparencyError: WITNESS_QUORUM, WITNESS_STALE (times in the future)."""
        key = log_key(entry.log.public_key)
        if not isinstance(key, Ed25519PublicKey):
            raise TransparencyError(
                Code.WITNESS_QUORUM, "a log of this kind is not cosigned by witnesses", stage="sigstore.log"
            )
        log = VerifierKey(entry.checkpoint.origin, ED25519, key.public_bytes_raw())
        policy = TlogPolicy.threshold(log, self.witnesses, self.quorum)
        signed = SignedCheckpoint(entry.checkpoint, entry.note, log)
        policy.check_witnesses(signed, at=at, max_age_s=None, max_future_s=max_future_s)
