"""What a log says of one channel, oldest first: releases, statuses, revocations, sets of signers, lists of nodes."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum

from .dsse import Envelope
from .errors import TransparencyError
from .merkle import leaf_hash
from .node_list import NodeList
from .note import VerifierKey
from .release import Release, Status, open_leaf
from .revocation import RevocationNotice
from .signer_set import SignerSet
from .statement import Statement
from .statement_kinds import parse_kind


@dataclass(frozen=True, slots=True)
class ListedRelease:
    """A release in the log. ``leaf_hash`` is its identity in statuses."""

    release: Release
    index: int
    leaf: bytes

    @property
    def leaf_hash(self) -> bytes:
        """The Merkle leaf hash of the entry."""
        return leaf_hash(self.leaf)


@dataclass(frozen=True, slots=True)
class ListedStatus:
    """A status in the log."""

    status: Status
    index: int
    leaf: bytes


@dataclass(frozen=True, slots=True)
class ListedSet:
    """A set of signers in the log."""

    signer_set: SignerSet
    index: int
    leaf: bytes


@dataclass(frozen=True, slots=True)
class ListedNodes:
    """A list of nodes in the log."""

    node_list: NodeList
    index: int
    leaf: bytes

    @property
    def leaf_hash(self) -> bytes:
        """The Merkle leaf hash of the entry."""
        return leaf_hash(self.leaf)


@dataclass(frozen=True, slots=True)
class Listing:
    """A channel as the log holds it, oldest first.

    ``ignored`` entries were not signed by the given signers, or are no statements of a known kind. ``sets`` are signed
    by roots: by whom is not looked at here. ``counting`` are the leaf hashes of releases that the right keys signed.
    """

    releases: tuple[ListedRelease, ...] = ()
    statuses: tuple[ListedStatus, ...] = ()
    revocations: tuple[RevocationNotice, ...] = ()
    sets: tuple[ListedSet, ...] = ()
    ignored: int = 0
    counting: frozenset[bytes] = frozenset()
    node_lists: tuple[ListedNodes, ...] = ()

    def find(self, identity: bytes) -> ListedRelease | None:
        """The release with this leaf hash."""
        return next((entry for entry in self.releases if entry.leaf_hash == identity), None)

    @property
    def newest_set(self) -> ListedSet | None:
        """The set with the highest sequence; None where there is none."""
        return max(self.sets, key=lambda listed: listed.signer_set.sequence, default=None)

    @property
    def newest_nodes(self) -> ListedNodes | None:
        """The list of nodes with the highest sequence; None where there is none."""
        return max(self.node_lists, key=lambda listed: listed.node_list.sequence, default=None)

    @property
    def newest_status(self) -> Status | None:
        """The status with the highest sequence; None where there is none."""
        return max((entry.status for entry in self.statuses), key=lambda s: s.sequence, default=None)

    def extended(self, entries: Sequence["Entry | None"]) -> "Listing":
        """This listing with the entries that follow it; None stands for one that is ignored."""
        releases = tuple(entry for entry in entries if isinstance(entry, ListedRelease))
        return Listing(
            (*self.releases, *releases),
            (*self.statuses, *(entry for entry in entries if isinstance(entry, ListedStatus))),
            (*self.revocations, *(entry for entry in entries if isinstance(entry, RevocationNotice))),
            (*self.sets, *(entry for entry in entries if isinstance(entry, ListedSet))),
            self.ignored + sum(entry is None for entry in entries),
            self.counting | {entry.leaf_hash for entry in releases},
            (*self.node_lists, *(entry for entry in entries if isinstance(entry, ListedNodes))),
        )

    def counted(self, signers: Sequence[VerifierKey], threshold: int) -> "Listing":
        """This listing where only active releases by ``threshold`` of ``signers`` count."""
        active = self.newest_status.active if self.newest_status else ()
        counting = set()
        for entry in (release for release in self.releases if release.leaf_hash.hex() in active):
            with suppress(TransparencyError):
                open_leaf(entry.leaf, signers, threshold)
                counting.add(entry.leaf_hash)
        return replace(self, counting=frozenset(counting))


class Elsewhere(Enum):
    """A good statement that does not belong to the listing: of another channel, or a key listing."""

    ELSEWHERE = 0


Entry = ListedRelease | ListedStatus | ListedSet | ListedNodes | RevocationNotice | Elsewhere


def read_entry(
    index: int, leaf: bytes, channel: str, signers: Sequence[VerifierKey] | None, threshold: int = 1
) -> Entry | None:
    """What a leaf is in the listing of ``channel``; None where it is to be ignored.

    With ``signers`` None nobody's signature is asked for.
    """
    try:
        kind = parse_kind(Statement.parse(Envelope.parse(leaf).payload))
        if kind.channel != channel:
            return Elsewhere.ELSEWHERE
        if isinstance(kind, SignerSet):
            return ListedSet(kind, index, leaf)
        if signers is not None:
            open_leaf(leaf, signers, threshold)
    except TransparencyError:
        return None
    if isinstance(kind, Release):
        return ListedRelease(kind, index, leaf)
    if isinstance(kind, Status):
        return ListedStatus(kind, index, leaf)
    if isinstance(kind, NodeList):
        return ListedNodes(kind, index, leaf)
    return kind if isinstance(kind, RevocationNotice) else Elsewhere.ELSEWHERE
