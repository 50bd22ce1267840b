"""Publishing a list of nodes: an entry of the log, and the document that clients take it from."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from .checkpoint import SignedCheckpoint
from .errors import Code, TransparencyError
from .listing import ListedNodes, Listing
from .logged_list import LoggedList
from .node_list import MAX_LIST_LIFETIME, ListedNode, NodeList
from .note import VerifierKey
from .publish import ReleaseLog
from .release import open_leaf, sign_leaf
from .signing_key import SigningKey

LIST_LIFETIME: Final = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class PublishedList:
    """What ``publish_list`` did; ``renewed`` says that these nodes were listed already and only the proof is new."""

    listed: ListedNodes
    checkpoint: SignedCheckpoint
    document: LoggedList
    renewed: bool


def publish_list(
    log: ReleaseLog,
    nodes: Iterable[ListedNode],
    channel: str,
    signers: Sequence[SigningKey],
    *,
    lifetime: timedelta = LIST_LIFETIME,
) -> PublishedList:
    """Log the list of these nodes, signed by the release signers of the channel.

    The newest list is not logged again where it names the same nodes and has half of its life before it: it gets
    fresh cosignatures. Raises TransparencyError.
    """
    if not timedelta() < lifetime <= MAX_LIST_LIFETIME:
        raise TransparencyError(Code.TIME_INVALID, "list lifetime", stage="publish", expected="≤ 7 d")
    ordered = tuple(sorted(nodes, key=lambda node: node.name))
    with log.tiles.exclusive():
        before, keys, threshold = log.believed(channel, signers)
        at = log.now().astimezone(UTC).replace(microsecond=0)
        listed = _reusable(before, ordered, at, keys, threshold)
        renewed = listed is not None
        if listed is not None:
            checkpoint = log.tiles.recosign()
        else:
            last = before.newest_nodes
            node_list = NodeList(
                channel=channel,
                sequence=last.node_list.sequence + 1 if last else 1,
                issued_at=at,
                expires_at=at + lifetime,
                nodes=ordered,
                previous=last.leaf_hash.hex() if last else "",
            )
            leaf = sign_leaf(node_list.statement(), signers)
            index, checkpoint = log.tiles.append([leaf])
            listed = ListedNodes(node_list, index, leaf)
        appointed = before.newest_set
        document = LoggedList(
            leaf=listed.leaf,
            proof=log.proof(listed.index, listed.leaf, checkpoint),
            signers_leaf=appointed.leaf if appointed else b"",
            signers_proof=log.proof(appointed.index, appointed.leaf, checkpoint) if appointed else b"",
        )
    return PublishedList(listed, checkpoint, document, renewed)


def _reusable(
    before: Listing,
    nodes: tuple[ListedNode, ...],
    at: datetime,
    keys: Sequence[VerifierKey],
    threshold: int,
) -> ListedNodes | None:
    last = before.newest_nodes
    if last is None or last.node_list.nodes != nodes:
        return None
    life = last.node_list.expires_at - last.node_list.issued_at
    if last.node_list.expires_at - at < life / 2:
        return None
    with suppress(TransparencyError):
        open_leaf(last.leaf, keys, threshold)
        return last
    return None
