"""``node-list``: the nodes of a fleet and the keys that each of them shows, for everybody to see.

Whoever shows a client a list of nodes chooses for it, if the list can be made for that client alone. A list that is an
entry of the log is shown to all: a second one beside it has an entry, and a sequence, of its own.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from .errors import Code, TransparencyError
from .statement import (
    MAX_STATEMENT,
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
    record,
    sequence,
    text,
)

NODE_LIST_TYPE: Final = f"{PREDICATE_BASE}/node-list/v1"
MAX_LIST_LIFETIME: Final = timedelta(days=7)
MAX_NODES: Final = 4096
"""Nodes in any list; an entry of the log holds fewer, by the length of their names: 300 to 500."""

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_STAGE: Final = "list.time"


@dataclass(frozen=True, slots=True)
class ListedNode:
    """One node: its ``name`` is its path at the relay, ``keys`` the SHA-256 (32 bytes) of its key configs."""

    name: str
    keys: bytes


@dataclass(frozen=True, slots=True)
class NodeList:
    """The nodes of a channel in [issued_at, expires_at), names ascending.

    ``previous`` is the leaf hash (hex) of the list before, "" for the first.
    """

    channel: str
    sequence: int
    issued_at: datetime
    expires_at: datetime
    nodes: tuple[ListedNode, ...]
    previous: str = ""

    @classmethod
    def parse(cls, statement: Statement) -> "NodeList":
        """Read a statement. Raises TransparencyError (PREDICATE_TYPE, STATEMENT_MALFORMED)."""
        predicate = closed(
            predicate_of(statement, NODE_LIST_TYPE),
            {"channel", "sequence", "issuedAt", "expiresAt", "nodes", "previous"},
        )
        issued_at, expires_at = (instant(predicate[name], name) for name in ("issuedAt", "expiresAt"))
        if issued_at >= expires_at:
            raise malformed("a list must be valid for some time")
        channel, nodes = text(predicate["channel"], "channel"), parse_nodes(predicate["nodes"])
        if not nodes:
            raise malformed("a list names a node at least")
        if statement.subjects != (_subject(channel, nodes),):
            raise malformed("the subject is not these nodes")
        previous = predicate["previous"]
        return cls(
            channel=channel,
            sequence=count(predicate["sequence"], "sequence"),
            issued_at=issued_at,
            expires_at=expires_at,
            nodes=nodes,
            previous=previous if previous == "" else hex_text(previous, 64, "previous"),
        )

    def statement(self) -> Statement:
        """The statement that says this. Raises TransparencyError where it would not parse again, LIMIT_EXCEEDED
        where an entry cannot hold so many nodes.
        """
        try:
            statement = Statement.build(
                (_subject(self.channel, self.nodes),),
                NODE_LIST_TYPE,
                {
                    "channel": self.channel,
                    "sequence": self.sequence,
                    "issuedAt": instant_text(self.issued_at),
                    "expiresAt": instant_text(self.expires_at),
                    "nodes": node_members(self.nodes),
                    "previous": self.previous,
                },
            )
        except TransparencyError as error:
            if error.code is not Code.LIMIT_EXCEEDED:
                raise
            raise TransparencyError(
                Code.LIMIT_EXCEEDED,
                f"{len(self.nodes)} nodes are too many for one entry of a log: give a part of them a channel, or "
                "shorter names",
                stage="list",
                expected=f"≤ {MAX_STATEMENT} B",
            ) from error
        NodeList.parse(statement)
        return statement

    def judge(self, channel: str, at: datetime, *, max_future_s: int) -> None:
        """Whether this list counts in ``channel`` now.

        Raises TransparencyError: IDENTITY_MISMATCH (another channel), TIME_INVALID (for more than seven days),
        NODE_LIST_EXPIRED (outside its time).
        """
        if self.channel != channel:
            raise TransparencyError(
                Code.IDENTITY_MISMATCH,
                "another channel",
                stage="list",
                expected=channel,
                found=self.channel[:200],
            )
        if self.expires_at - self.issued_at > MAX_LIST_LIFETIME:
            raise TransparencyError(
                Code.TIME_INVALID,
                "the list of nodes lives too long",
                stage=_STAGE,
                expected=f"≤ {MAX_LIST_LIFETIME.days} d",
                found=str(self.expires_at - self.issued_at),
            )
        if not (self.issued_at <= at + timedelta(seconds=max_future_s) and at < self.expires_at):
            raise TransparencyError(
                Code.NODE_LIST_EXPIRED,
                "the list of nodes does not count now",
                stage=_STAGE,
                expected=f"{instant_text(self.issued_at)} to {instant_text(self.expires_at)}",
                found=instant_text(at),
            )


def plain_list(channel: str, nodes: Iterable[ListedNode]) -> bytes:
    """The list by itself, without sequence and time: canonical JSON. Raises TransparencyError."""
    return canonical({"version": 1, "channel": channel, "nodes": node_members(nodes)})


def parse_nodes(value: object) -> tuple[ListedNode, ...]:
    """The nodes of a list: at most 4,096, names ascending, no name and no key twice. Raises TransparencyError
    (STATEMENT_MALFORMED).
    """
    nodes = tuple(_node(record(entry, "node")) for entry in sequence(value, "nodes", most=MAX_NODES))
    names = [node.name for node in nodes]
    if names != sorted(set(names)):
        raise malformed("names must ascend, each once")
    if len({node.keys for node in nodes}) != len(nodes):
        raise malformed("two names for one node's keys")
    return nodes


def node_members(nodes: Iterable[ListedNode]) -> list[dict[str, str]]:
    """What ``parse_nodes`` reads."""
    return [{"name": node.name, "keys": node.keys.hex()} for node in nodes]


def _node(value: Any) -> ListedNode:
    entry = closed(value, {"name", "keys"})
    name = text(entry["name"], "name")
    if not _NAME.fullmatch(name):
        raise malformed("a name has 1 to 63 of a-z, 0-9, '.', '_' and '-'")
    return ListedNode(name, bytes.fromhex(hex_text(entry["keys"], 64, "keys")))


def _subject(channel: str, nodes: Iterable[ListedNode]) -> Subject:
    return Subject("nodes", hashlib.sha256(plain_list(channel, nodes)).hexdigest())
