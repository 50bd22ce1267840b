"""The rules that releases, statuses and lists of nodes of a channel keep, checked entry by entry as the log grows.

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
from .node_list import MAX_LIST_LIFETIME, NodeList
from .note import VerifierKey
from .policy import MAX_RELEASE_VALIDITY, MAX_STATUS_LIFETIME, TransparencyPolicy
from .release import Release, Status, open_leaf
from .revocation import RevocationNotice
from .signer_history import SignerHistory
from .signer_set import SignerSet
from .statement import Statement, instant, instant_text
from .statement_kinds import Kind, parse_kind


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
class SeenSet:
    """The newest set of signers of a channel: vkeys, and how many of them must sign."""

    leaf: str
    payload: str
    sequence: int
    threshold: int
    signers: list[str] = field(default_factory=list)


@dataclass(slots=True)
class SeenNodes:
    """A list of nodes as the log holds it: ``count`` nodes, ``digest`` the SHA-256 of the list by itself."""

    index: int
    leaf: str
    payload: str
    sequence: int
    issued_at: str
    expires_at: str
    count: int
    digest: str


@dataclass(slots=True)
class Channel:
    """One channel so far: releases by leaf hash, and which content each sequence number has had.

    ``withdrawn`` are the releases (leaf hashes) that revocations name, ``node_lists`` all that were ever shown.
    """

    releases: dict[str, SeenRelease] = field(default_factory=dict)
    release_sequences: dict[int, str] = field(default_factory=dict)
    status_sequences: dict[int, str] = field(default_factory=dict)
    status: SeenStatus | None = None
    signers: SeenSet | None = None
    withdrawn: list[str] = field(default_factory=list)
    node_lists: list[SeenNodes] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """For the state file."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> "Channel":
        """Read a state file's channel. Raises ValueError, TypeError, KeyError or AttributeError."""
        status, signers = value["status"], value["signers"]
        return cls(
            {leaf: SeenRelease(**one) for leaf, one in value["releases"].items()},
            {int(number): text for number, text in value["release_sequences"].items()},
            {int(number): text for number, text in value["status_sequences"].items()},
            None if status is None else SeenStatus(**status),
            None if signers is None else SeenSet(**signers),
            list(value["withdrawn"]),
            [SeenNodes(**one) for one in value.get("node_lists", ())],  # absent before there were any
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
            envelope = Envelope.parse(leaf)
            statement = Statement.parse(envelope.payload)
            kind = parse_kind(statement)
        except TransparencyError as error:
            self._proved(AlertCode.NOT_A_STATEMENT, index, str(error))
            return
        if isinstance(kind, SignerSet) and not self._policy.roots:
            return  # who trusts no roots takes no signers from them
        channel = self.channels.get(kind.channel, Channel())
        try:
            self._authenticate(kind, channel, leaf)
        except TransparencyError as error:
            signed = ", ".join(one.keyid[:100] for one in envelope.signatures) or "nobody"
            self._proved(AlertCode.UNKNOWN_SIGNER, index, f"{error}; signed by {signed}")
            return
        self.channels[kind.channel] = channel
        identity, payload = leaf_hash(leaf).hex(), leaf_hash(statement.raw).hex()
        if isinstance(kind, Release):
            self._release(index, identity, payload, kind)
        elif isinstance(kind, Status):
            self._status(index, payload, kind)
        elif isinstance(kind, SignerSet):
            self._signer_set(index, identity, payload, kind)
        elif isinstance(kind, NodeList):
            self._node_list(index, identity, payload, kind, statement.subjects[0].sha256)
        elif isinstance(kind, RevocationNotice):
            channel.withdrawn.append(kind.release)

    def standing(self, at: datetime) -> None:
        """Judge what is the case now, whenever it began: statuses past their time, revoked yet active."""
        for name, channel in self.channels.items():
            nodes = max(channel.node_lists, key=lambda one: one.sequence, default=None)
            if nodes is not None and at >= instant(nodes.expires_at, "expiresAt"):
                code, detail = (
                    AlertCode.NODE_LIST_STALE,
                    f"list {nodes.sequence} of the nodes of {name} ran out",
                )
                self._report(Alert(code, Severity.STALE, f"{detail} at {nodes.expires_at}", f"{code} {name}"))
            status = channel.status
            if status is None:
                continue
            if at >= instant(status.expires_at, "expiresAt"):
                detail = f"status {status.sequence} of {name} ran out at {status.expires_at}"
                self._report(Alert(AlertCode.STATUS_STALE, Severity.STALE, detail, f"STATUS_STALE {name}"))
            # A status that came after a revocation knows of it, and was judged as an entry; this one came before.
            for leaf in sorted({*status.active} & {*channel.withdrawn} - {*status.revoked}):
                code = AlertCode.REVOKED_YET_ACTIVE
                detail = f"{leaf} was revoked, and no status of {name} says so yet"
                self._report(Alert(code, Severity.STALE, detail, f"{code} {name} {leaf}"))

    def _authenticate(self, kind: Kind, channel: Channel, leaf: bytes) -> None:
        policy = self._policy
        if isinstance(kind, SignerSet):
            open_leaf(leaf, policy.roots, policy.root_threshold)
        elif not policy.roots:
            self.signers.open(leaf)
        elif channel.signers is None:
            raise TransparencyError(Code.IDENTITY_MISMATCH, "no set of signers before it", stage="monitor")
        else:
            keys = [VerifierKey.parse(vkey) for vkey in channel.signers.signers]
            open_leaf(leaf, keys, channel.signers.threshold)

    def _signer_set(self, index: int, leaf: str, payload: str, found: SignerSet) -> None:
        channel = self.channels[found.channel]
        what, newest = f"set {found.sequence} of the signers of {found.channel}", channel.signers
        if newest is not None and found.sequence <= newest.sequence:
            if (found.sequence, payload) != (newest.sequence, newest.payload):
                self._proved(AlertCode.SEQUENCE_CONFLICT, index, f"{what} comes after set {newest.sequence}")
            return
        if newest is not None and found.sequence != newest.sequence + 1:
            self._proved(AlertCode.SEQUENCE_GAP, index, f"{what} follows set {newest.sequence}")
        elif found.previous != (newest.leaf if newest else ""):
            self._proved(AlertCode.PREDECESSOR_WRONG, index, f"{what} names another set before it")
        signers = [str(key) for key in found.signers]
        channel.signers = SeenSet(leaf, payload, found.sequence, found.threshold, signers)

    def _release(self, index: int, leaf: str, payload: str, release: Release) -> None:
        channel = self.channels[release.channel]
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
        channel = self.channels[status.channel]
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
        earlier = {*channel.withdrawn, *(channel.status.revoked if channel.status else ())}
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

    def _node_list(self, index: int, leaf: str, payload: str, found: NodeList, digest: str) -> None:
        channel = self.channels[found.channel]
        what = f"list {found.sequence} of the nodes of {found.channel}"
        newest = max(channel.node_lists, key=lambda one: one.sequence, default=None)
        if newest is not None and found.sequence <= newest.sequence:
            if any((one.sequence, one.payload) == (found.sequence, payload) for one in channel.node_lists):
                return
            self._proved(AlertCode.SEQUENCE_CONFLICT, index, f"{what} comes after list {newest.sequence}")
        elif found.sequence != (newest.sequence if newest else 0) + 1:
            self._proved(
                AlertCode.SEQUENCE_GAP, index, f"{what} follows list {newest.sequence if newest else 0}"
            )
        elif found.previous != (newest.leaf if newest else ""):
            self._proved(AlertCode.PREDECESSOR_WRONG, index, f"{what} names another list before it")
        if found.expires_at - found.issued_at > MAX_LIST_LIFETIME:
            until = instant_text(found.expires_at)
            self._proved(AlertCode.NODE_LIST_TOO_LONG, index, f"{what} lives until {until}")
        if newest is not None and len(found.nodes) * 2 <= newest.count:
            # No rule forbids it; but a list that leaves little choice is what a victim would be shown.
            code, detail = AlertCode.NODES_FEWER, f"{what} names {len(found.nodes)}, not {newest.count} nodes"
            self._report(Alert(code, Severity.NOTICE, detail, f"{code} entry {index} {detail}", index))
        times = instant_text(found.issued_at), instant_text(found.expires_at)
        channel.node_lists.append(
            SeenNodes(index, leaf, payload, found.sequence, *times, len(found.nodes), digest)
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
