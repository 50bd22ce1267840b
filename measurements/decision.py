"""May this release be used now? The decisions over statements that are already proved to be signed and
logged.

Intervals are half open: [issued_at, expires_at) and [not_before, not_after). Clock skew is granted at the
start of an interval only, never at its end.
"""

from datetime import datetime, timedelta

from .errors import Code, TransparencyError
from .policy import MAX_RELEASE_VALIDITY, MAX_STATUS_LIFETIME, TransparencyPolicy
from .release import Release, Status
from .statement import instant_text


def judge_status(status: Status, policy: TransparencyPolicy, at: datetime) -> None:
    """Channel, lifetime, window and length of a status.

    Raises TransparencyError: IDENTITY_MISMATCH (another channel), TIME_INVALID (lifetime), STATUS_STALE,
    LIMIT_EXCEEDED (too many active releases: one per victim could hide among them).
    """
    _same_channel(status.channel, policy.channel, "log.status")
    if status.expires_at - status.issued_at > MAX_STATUS_LIFETIME:
        raise TransparencyError(
            Code.TIME_INVALID,
            "status lives too long",
            stage="log.status",
            expected=f"≤ {MAX_STATUS_LIFETIME.days} d",
            found=str(status.expires_at - status.issued_at),
        )
    _inside(status.issued_at, status.expires_at, at, policy.max_future_s, Code.STATUS_STALE, "log.status")
    if len(status.active) > policy.max_active:
        raise TransparencyError(
            Code.LIMIT_EXCEEDED,
            "too many active releases",
            stage="log.status",
            expected=f"≤ {policy.max_active}",
            found=len(status.active),
        )


def judge_release(release: Release, policy: TransparencyPolicy) -> None:
    """Channel and length of validity of a release.

    Raises TransparencyError: IDENTITY_MISMATCH, TIME_INVALID (valid for more than 90 days).
    """
    _same_channel(release.channel, policy.channel, "log.release")
    if release.not_after - release.not_before > MAX_RELEASE_VALIDITY:
        raise TransparencyError(
            Code.TIME_INVALID,
            "release is valid for too long",
            stage="log.release",
            expected=f"≤ {MAX_RELEASE_VALIDITY.days} d",
            found=str(release.not_after - release.not_before),
        )


def judge_active(
    release: Release, leaf: bytes, status: Status, policy: TransparencyPolicy, at: datetime
) -> None:
    """Whether ``status`` lists the release with leaf hash ``leaf``, and its own time is now.

    Raises TransparencyError: RELEASE_REVOKED, RELEASE_NOT_ACTIVE (not listed), ROLLBACK (below the minimum),
    RELEASE_EXPIRED.
    """
    identity = leaf.hex()
    for entry in status.revoked:
        if entry.release == identity:
            raise TransparencyError(
                Code.RELEASE_REVOKED,
                f"release was revoked: {entry.reason[:200]}",
                stage="log.active",
                found=identity,
            )
    if identity not in status.active:
        raise TransparencyError(
            Code.RELEASE_NOT_ACTIVE,
            f"{release.name} {release.version} is not listed as active",
            stage="log.active",
            expected=list(status.active),
            found=identity,
        )
    if release.sequence < status.min_release_sequence:
        raise TransparencyError(
            Code.ROLLBACK,
            "release sequence",
            stage="log.active",
            expected=f"≥ {status.min_release_sequence}",
            found=release.sequence,
        )
    judge_validity(release, policy, at)


def judge_validity(release: Release, policy: TransparencyPolicy, at: datetime) -> None:
    """Whether now is the release's own time. Raises TransparencyError (RELEASE_EXPIRED)."""
    _inside(
        release.not_before, release.not_after, at, policy.max_future_s, Code.RELEASE_EXPIRED, "log.active"
    )


def _same_channel(found: str, expected: str, stage: str) -> None:
    if found != expected:
        raise TransparencyError(
            Code.IDENTITY_MISMATCH, "another channel", stage=stage, expected=expected, found=found[:200]
        )


def _inside(begin: datetime, end: datetime, at: datetime, skew_s: int, code: Code, stage: str) -> None:
    # The skew is added to the present: a time at the edge of the calendar has nothing before it.
    if not (begin <= at + timedelta(seconds=skew_s) and at < end):
        raise TransparencyError(
            code,
            "outside its time",
            stage=stage,
            expected=f"{instant_text(begin)} to {instant_text(end)}",
            found=instant_text(at),
        )
