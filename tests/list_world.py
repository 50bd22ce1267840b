"""An operator who logs lists of nodes, and everything that is needed to show a client something else."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from measurements.log import TileLog
from measurements.logged_list import LoggedList
from measurements.node_list import ListedNode, NodeList
from measurements.policy import TransparencyPolicy
from measurements.publish import ReleaseLog, create_log
from measurements.publish_list import PublishedList, publish_list
from measurements.release import sign_leaf
from measurements.signing_key import SigningKey

START = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def nodes(*names: str) -> tuple[ListedNode, ...]:
    """Nodes of these names, with keys of their own."""
    return tuple(ListedNode(name, hashlib.sha256(name.encode()).digest()) for name in sorted(names))


HONEST = nodes("node-a", "node-b", "node-c")
VICTIMS = nodes("mine-1", "mine-2", "node-a")


class Lists:
    """A log with one witness and one signer. ``at`` is the time for all of them."""

    def __init__(self, folder: Path) -> None:
        self.at = START
        self.signer = SigningKey.generate("releases.example")
        self.log: ReleaseLog = create_log(
            folder, origin="log.example/r", witness="witness.example", now=lambda: self.at
        )

    def policy(self, **changes: Any) -> TransparencyPolicy:
        table = {
            "log": str(self.log.tiles.key),
            "witnesses": [str(key) for key in self.log.tiles.witnesses],
            "quorum": 1,
            "signers": [str(self.signer.public)],
            "channel": "prod",
        }
        return replace(TransparencyPolicy.from_table(table), **changes)

    def publish(self, listed: tuple[ListedNode, ...] = HONEST, **options: Any) -> PublishedList:
        return publish_list(self.log, listed, "prod", [self.signer], **options)

    def leaf(
        self, listed: tuple[ListedNode, ...] = HONEST, *, key: SigningKey | None = None, **changes: Any
    ) -> bytes:
        """A signed list; it is in no log."""
        made = NodeList("prod", 1, self.at, self.at + DAY, listed)
        return sign_leaf(replace(made, **changes).statement(), [key or self.signer])

    def append(self, *leaves: bytes, tiles: TileLog | None = None) -> list[LoggedList]:
        """Log anything; a document for each entry."""
        tiles = tiles or self.log.tiles
        with tiles.exclusive():
            first, signed = tiles.append(leaves)
        return [
            LoggedList(leaf, self.log.proof(first + place, leaf, signed)) for place, leaf in enumerate(leaves)
        ]

    def shown_again(self, document: LoggedList, index: int) -> LoggedList:
        """The same entry with cosignatures of now."""
        with self.log.tiles.exclusive():
            signed = self.log.tiles.recosign()
        return replace(document, proof=self.log.proof(index, document.leaf, signed))
