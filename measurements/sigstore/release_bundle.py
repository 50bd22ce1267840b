"""The Sigstore bundle of a release: the same statement as in the log, signed by whoever built it."""

from datetime import datetime

from ..errors import Code, TransparencyError
from ..release import RELEASE_TYPE
from .policy import SigstorePolicy
from .root import TrustedRoot
from .verify import VerifiedStatement, verify_statement
from .witnessed import WitnessRule


def verify_release_bundle(
    data: bytes, policy: SigstorePolicy, *, at: datetime, max_future_s: int, payload: bytes | None = None
) -> VerifiedStatement:
    """Verify a bundle around a release statement, whose bytes must be ``payload`` where that is given.

    Raises TransparencyError: PROOF_MISSING without a bundle, LOG_ENTRY_MISMATCH where it is for another
    statement, and the codes of ``verify_statement``.
    """
    if not data:
        raise TransparencyError(Code.PROOF_MISSING, "no Sigstore bundle is stapled", stage="log.sigstore")
    root = TrustedRoot.production() if policy.root_json is None else TrustedRoot.parse(policy.root_json)
    statement = verify_statement(
        data,
        root=root,
        signer=policy.rule,
        at=at,
        predicate_types=[RELEASE_TYPE],
        witnesses=WitnessRule(policy.witnesses, policy.quorum) if policy.quorum else None,
        max_future_s=max_future_s,
    )
    if payload is not None and statement.payload != payload:
        raise TransparencyError(
            Code.LOG_ENTRY_MISMATCH, "the Sigstore bundle is for another statement", stage="log.sigstore"
        )
    return statement
