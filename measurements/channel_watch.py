"""The rules that releases and statuses of a channel keep, checked entry by entry as the log grows.

A client sees one release and one status; only who reads everything can say that a sequence has no gap, that two
statements do not share a number, and that nothing is active which the log does not hold.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from .alerts import Alert, AlertCode, Severity
from .dsse import Envelope
from .errors import Code, TransparencyError
from .merkle import leaf_hash
from .policy import MAX_RELEASE_VALIDITY, MAX_STATUS_LIFETIME, TransparencyPolicy
from .release import RELEASE_TYPE, STATUS_TYPE, Release, Status
from .signer_history import SignerHistory
from .statement import PREDICATE_BASE, instant, instant_text


@dataclass(slots=True)
class SeenRelease:
    """A release as the log holds it; ``materials`` are digests that somebody should be able to fetch."""

    index: int
    leaf: str
    payload: str
    name: str
    version: str
    sequence: int
    not_before: str
    not_after: str
    materials: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class SeenStatus:
    """The newest status of a channel."""

    index: int
    payload: str
    sequence: int
    expires_at: str
    minimum: int
    active: list[str] = field(default_factory=list)
    revoked: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Channel:
    """One channel so far: releases by leaf hash, and which content each sequence number has had."""

    releases: dict[str, SeenRelease] = field(default_factory=dict)
    release_sequences: dict[int, str] = field(default_factory=dict)
    status_sequences: dict[int, str] = field(default_factory=dict)
    status: SeenStatus | None = None

    def to_json(self) -> dict[str, Any]:
        """For the state file."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> "Channel":
        """Read a state file's channel. Raises ValueError, TypeError, KeyError or AttributeError."""
        status = value["status"]
        return cls(
            {leaf: SeenRelease(**one) for leaf, one in value["releases"].items()},
            {int(number): text for number, text in value["release_sequences"].items()},
            {int(number): text for number, text in value["status_sequences"].items()},
            None if status is None else SeenStatus(**status),
        )


class ChannelWatch:
    """Reads entries in order and reports what breaks a rule; ``channels`` is what it knows so far.

    ``signers`` says whose entries count.
    """

    def __init__(
        self,
        policy: TransparencyPolicy,
        channels: Mapping[str, Channel],
        report: Callable[[Alert], None],
        signers: SignerHistory,
    ) -> None:
        self.channels = dict(channels)
        self.signers = signers
        self._policy = policy
        self._report = report

    def entry(self, index: int, leaf: bytes) -> None:
        """Judge entry ``index``."""
        try:
            statement = self.signers.open(leaf)
        except TransparencyError as error:
            self._unsigned(index, leaf, error)
            return
        try:
            payload = leaf_hash(statement.raw).hex()
            if statement.predicate_type == RELEASE_TYPE:
                self._release(index, leaf_hash(leaf).hex(), payload, Release.parse(statement))
            elif statement.predicate_type == STATUS_TYPE:
                self._status(index, payload, Status.parse(statement))
            elif not statement.predicate_type.startswith(f"{PREDICATE_BASE}/"):
                self._proved(AlertCode.NOT_A_STATEMENT, index, f"kind {statement.predicate_type[:200]}")
        except TransparencyError as error:
            self._proved(AlertCode.NOT_A_STATEMENT, index, str(error))

    def standing(self, at: datetime) -> None:
        """Judge what is the case now, whenever it began: statuses past their time, revoked yet active."""
        for name, channel in self.channels.items():
            status = channel.status
            if status is None:
                continue
            if at >= instant(status.expires_at, "expiresAt"):
                detail = f"status {status.sequence} of {name} ran out at {status.expires_at}"
                self._report(Alert(AlertCode.STATUS_STALE, Severity.STALE, detail, f"STATUS_STALE {name}"))

    def _unsigned(self, index: int, leaf: bytes, error: TransparencyError) -> None:
        try:
            signed = ", ".join(one.keyid[:100] for one in Envelope.parse(leaf).signatures) or "nobody"
        except TransparencyError:
            self._proved(AlertCode.NOT_A_STATEMENT, index, str(error))
            return
        if error.code in (Code.IDENTITY_MISMATCH, Code.SIGNATURE_INVALID):
            self._proved(AlertCode.UNKNOWN_SIGNER, index, f"{error}; signed by {signed}")
        else:
            self._proved(AlertCode.NOT_A_STATEMENT, index, str(error))

    def _release(self, index: int, leaf: str, payload: str, release: Release) -> None:
        channel = self.channels.setdefault(release.channel, Channel())
        what = f"release {release.sequence} of {release.channel} ({release.name} {release.version})"
        if leaf in channel.releases:
            return
        known = channel.release_sequences
        newest = max(known, default=0)
        if known.get(release.sequence, payload) != payload:
            self._proved(AlertCode.SEQUENCE_CONFLICT, index, f"{what} is there with other content")
        elif release.sequence not in known and release.sequence != newest + 1:
            self._proved(AlertCode.SEQUENCE_GAP, index, f"{what} follows release {newest}")
        before = {one.leaf for one in channel.releases.values() if one.sequence == release.sequence - 1}
        if known and release.previous not in before and release.sequence == newest + 1:
            self._proved(AlertCode.PREDECESSOR_WRONG, index, f"{what} names another release before it")
        if release.not_after - release.not_before > MAX_RELEASE_VALIDITY:
            self._proved(
                AlertCode.VALIDITY_TOO_LONG, index, f"{what} is valid until {instant_text(release.not_after)}"
            )
        known.setdefault(release.sequence, payload)
        channel.releases[leaf] = SeenRelease(
            index,
            leaf,
            payload,
            release.name,
            release.version,
            release.sequence,
            instant_text(release.not_before),
            instant_text(release.not_after),
            _materials(release),
        )

    def _status(self, index: int, payload: str, status: Status) -> None:
        channel = self.channels.setdefault(status.channel, Channel())
        what = f"status {status.sequence} of {status.channel}"
        known = channel.status_sequences
        newest = max(known, default=0)
        if known.get(status.sequence, payload) != payload:
            self._proved(AlertCode.SEQUENCE_CONFLICT, index, f"{what} is there with other content")
        elif status.sequence not in known and status.sequence != newest + 1:
            self._proved(AlertCode.SEQUENCE_GAP, index, f"{what} follows status {newest}")
        if len(status.active) > self._policy.max_active:
            self._proved(
                AlertCode.ACTIVE_SET_TOO_LARGE, index, f"{what} lists {len(status.active)} active releases"
            )
        if status.expires_at - status.issued_at > MAX_STATUS_LIFETIME:
            self._proved(
                AlertCode.STATUS_TOO_LONG, index, f"{what} lives until {instant_text(status.expires_at)}"
            )
        revoked = {entry.release for entry in status.revoked}
        earlier = set(channel.status.revoked) if channel.status else set()
        for leaf in status.active:
            if leaf in revoked | earlier:
                self._proved(AlertCode.REVOKED_YET_ACTIVE, index, f"{what} lists {leaf}, which was revoked")
            elif leaf not in channel.releases:
                self._proved(
                    AlertCode.ACTIVE_NOT_LISTED, index, f"{what} lists {leaf}, which the log does not hold"
                )
        if channel.status and status.min_release_sequence < channel.status.minimum:
            self._proved(
                AlertCode.MINIMUM_LOWERED,
                index,
                f"{what} lowers the minimum from {channel.status.minimum} to {status.min_release_sequence}",
            )
        known.setdefault(status.sequence, payload)
        if status.sequence >= newest:
            channel.status = SeenStatus(
                index,
                payload,
                status.sequence,
                instant_text(status.expires_at),
                max(status.min_release_sequence, channel.status.minimum if channel.status else 0),
                list(status.active),
                sorted(revoked | earlier),
            )

    def _proved(self, code: AlertCode, index: int, detail: str) -> None:
        self._report(Alert(code, Severity.PROVED, detail, f"{code} entry {index} {detail}", index))


def _materials(release: Release) -> dict[str, str]:
    """SHA-256 digests (hex) that the release's materials name, by the material's name."""
    found: dict[str, str] = {}
    for name, material in release.materials.items():
        if isinstance(material, dict):
            digest = material.get("digest", material)
            value = digest.get("sha256") if isinstance(digest, dict) else None
            if isinstance(value, str) and len(value) == 64 and not set(value) - set("0123456789abcdef"):
                found[name] = value
    return found
