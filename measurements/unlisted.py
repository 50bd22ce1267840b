"""The profile ``sigstore-only``: a release that its builder signed, and that no log lists for all to see.

Sigstore's log notes that something was signed, not what: a digest. Nobody can list a builder's releases by it,
nothing can be withdrawn, and a client cannot tell that it is shown an old release. Every result says so.
"""

from datetime import datetime
from typing import TYPE_CHECKING

from .decision import judge_release, judge_validity
from .errors import Code, TransparencyError
from .merkle import leaf_hash
from .policy import TransparencyPolicy
from .release import Release
from .results import NOT_EVALUATED, Appraisal, Outcome, Row
from .statement import Statement, instant_text
from .verified_release import VerifiedRelease, verified

if TYPE_CHECKING:
    from .sigstore.verify import VerifiedStatement

NOT_LISTED = "NOT LISTED: no public log holds this release's statement"


def check_unlisted(bundle: bytes, policy: TransparencyPolicy, at: datetime) -> Appraisal[VerifiedRelease]:
    """Check a release by its Sigstore bundle alone; the rows are those of ``check_staple``."""
    rows = [
        Row("log.signature", Outcome.NOT_REQUIRED, f"{NOT_LISTED} (profile {policy.profile})"),
        Row("log.witness", Outcome.NOT_REQUIRED, "no log, no witness"),
        Row("log.signers", Outcome.NOT_REQUIRED, "the Sigstore identity stands for the signers"),
        Row("log.status", Outcome.NOT_REQUIRED, "no status: a withdrawn release stays usable until it ends"),
    ]
    error: TransparencyError | None = None
    value: VerifiedRelease | None = None
    try:
        found = _verify(bundle, policy, at)
    except TransparencyError as refusal:
        error = refusal
        rows += [
            Row(row, Outcome.FAIL, "needs a verified Sigstore bundle", NOT_EVALUATED)
            for row in ("log.release", "log.active")
        ]
        rows.append(Row("log.sigstore", Outcome.FAIL, str(refusal), refusal.code))
    else:
        stage = "log.release"
        try:
            release = Release.parse(Statement.parse(found.payload))
            judge_release(release, policy)
            rows.append(Row(stage, Outcome.PASS, f"{release.name} {release.version}, {NOT_LISTED}"))
            stage = "log.active"
            judge_validity(release, policy, at)
            rows.append(
                Row(
                    stage,
                    Outcome.PASS,
                    f"valid until {instant_text(release.not_after)}; whether it was withdrawn is unknown",
                )
            )
            value = _value(release, found)
        except TransparencyError as refusal:
            error = refusal
            rows.append(Row(stage, Outcome.FAIL, str(refusal), refusal.code))
            if stage == "log.release":
                rows.append(Row("log.active", Outcome.FAIL, "an earlier check failed", NOT_EVALUATED))
        rows.append(Row("log.sigstore", Outcome.PASS, found.signature.sentence()))
    rows.append(Row("log.rollback", Outcome.NOT_REQUIRED, "no log state to remember"))
    return Appraisal(tuple(rows), error, value if error is None else None)


def _verify(bundle: bytes, policy: TransparencyPolicy, at: datetime) -> "VerifiedStatement":
    if policy.not_after is not None and at >= policy.not_after:
        raise TransparencyError(
            Code.TRUST_ROOT_VALIDITY,
            "the policy's trust has ended",
            stage="log.sigstore",
            expected=f"before {instant_text(policy.not_after)}",
            found=instant_text(at),
        )
    if policy.sigstore is None:
        raise TransparencyError(
            Code.TRUST_ROOT_INVALID, "the policy names no Sigstore identity", stage="log.sigstore"
        )
    from .sigstore.release_bundle import verify_release_bundle

    return verify_release_bundle(bundle, policy.sigstore, at=at, max_future_s=policy.max_future_s)


def _value(release: Release, found: "VerifiedStatement") -> VerifiedRelease:
    return verified(
        release,
        leaf_hash=leaf_hash(found.payload),
        index=found.signature.log_index,
        log=found.signature.log,
        tree_size=0,
        status_sequence=0,
        status_issued_at=found.signature.signed_at,
        status_expires_at=release.not_after,
        listed=False,
    )
