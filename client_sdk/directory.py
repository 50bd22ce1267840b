"""The directory of a fleet: which nodes there are, and the keys that each of them shows (docs/protocol.md §6).

By itself a directory is canonical JSON (RFC 8785)::

    {"channel":"prod","nodes":[{"keys":"<64 hex digits>","name":"node-a"}, …],"version":1}

``keys`` is the SHA-256 of the node's ``application/ohttp-keys`` list, which its evidence binds. Names ascend, and no
name and no key stands for two nodes. Whoever serves a directory is not trusted: everybody has to be shown the same
nodes, which the log proves (``measurements.logged_list``: the same list as an entry of the log, version 2) and
comparison with mirrors checks, and every node proves itself to whoever draws it.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from measurements.dsse import Envelope
from measurements.errors import Code, TransparencyError
from measurements.logged_list import BEGINS, LoggedList, VerifiedList, check_logged_list
from measurements.node_list import MAX_NODES, ListedNode, NodeList, parse_nodes, plain_list
from measurements.policy import TransparencyPolicy
from measurements.rollback import RollbackMemory
from measurements.statement import Statement, closed, parse_canonical, record, text

from .errors import DirectoryRefused

__all__ = ["MAX_DIRECTORY", "MAX_NODES", "Directory", "ListedNode", "require_listed_keys", "shown_list"]

MAX_DIRECTORY: Final = 1024 * 1024
_NAMED: Final = {
    Code.ROLLBACK: (
        "directory_rollback",
        "an older list of nodes than one already seen",
        "someone hides the newer list: try another relay",
    ),
    Code.SPLIT_VIEW: (
        "directory_split_view",
        "not the list of nodes, or not the log, that was seen before",
        "keep the memory file: it proves that operator or log misbehave",
    ),
    Code.NODE_LIST_EXPIRED: (
        "directory_expired",
        "the list of nodes does not count now",
        "the operator publishes a new one: cloister directory publish",
    ),
}


@dataclass(frozen=True, slots=True)
class Directory:
    """A parsed directory; ``raw`` are the canonical bytes of the list by itself, ``logged`` what the log's proof says
    of it, None where none was asked for.
    """

    channel: str
    nodes: tuple[ListedNode, ...]
    raw: bytes
    logged: VerifiedList | None = None

    @property
    def digest(self) -> bytes:
        """SHA-256 of the list by itself, with or without a proof."""
        return hashlib.sha256(self.raw).digest()

    def node(self, name: str) -> ListedNode | None:
        """The node of this name."""
        return next((node for node in self.nodes if node.name == name), None)

    @classmethod
    def build(cls, channel: str, nodes: Iterable[ListedNode]) -> "Directory":
        """The directory of these nodes. Raises DirectoryRefused (``directory_malformed``)."""
        return cls.parse(plain_list(channel, sorted(nodes, key=lambda node: node.name)))

    @classmethod
    def parse(cls, data: bytes) -> "Directory":
        """Read a list of at most 1 MiB and 4,096 nodes, with a proof (which is not looked at) or by itself.

        Raises DirectoryRefused (``directory_malformed``).
        """
        try:
            if data.startswith(BEGINS):
                payload = Envelope.parse(LoggedList.parse(data).leaf).payload
                return cls._of(NodeList.parse(Statement.parse(payload)))
            value = closed(
                record(parse_canonical(data, limit=MAX_DIRECTORY), "directory"),
                {"version", "channel", "nodes"},
            )
            if value["version"] != 1 or isinstance(value["version"], bool):
                raise _malformed("version is not 1")
            nodes = parse_nodes(value["nodes"])
            channel = text(value["channel"], "channel", most=200)
        except TransparencyError as error:
            raise _malformed(error.detail) from error
        return cls(channel, nodes, data)

    @classmethod
    def prove(
        cls, data: bytes, policy: TransparencyPolicy, *, at: datetime, memory: RollbackMemory
    ) -> "Directory":
        """Read a list and check that the log holds it, at the time ``at`` (aware, UTC). ``memory`` is asked, not
        written: ``logged.sighting`` is what to remember once the list is taken.

        Raises DirectoryRefused: ``directory_not_logged`` for a list by itself, ``directory_malformed``,
        ``directory_rollback``, ``directory_split_view``, ``directory_expired``, and ``directory_`` with the name of
        any other failed check of ``check_logged_list``.
        """
        if not data.startswith(BEGINS):
            cls.parse(data)
            raise DirectoryRefused(
                "directory_not_logged",
                "the list of nodes comes without proof that it is in the log",
                "the operator logs it: cloister directory publish; a policy may say [fleet] logged = false",
            )
        try:
            document = LoggedList.parse(data)
        except TransparencyError as error:
            raise _malformed(error.detail) from error
        try:
            verified = check_logged_list(document, policy, at=at, memory=memory)
        except TransparencyError as error:
            raise refused(error) from error
        return cls._of(verified.node_list, verified)

    @classmethod
    def _of(cls, listed: NodeList, logged: VerifiedList | None = None) -> "Directory":
        return cls(listed.channel, listed.nodes, plain_list(listed.channel, listed.nodes), logged)


def require_listed_keys(found: bytes, listed: bytes) -> None:
    """Whether a node's evidence binds the keys (SHA-256) that the list says. Raises DirectoryRefused."""
    if found != listed:
        raise DirectoryRefused(
            "directory_keys",
            "the node shows other keys than the directory lists for it",
            "it may have changed them just now; if this stays so, it is not the node that others are shown",
            expected=listed.hex(),
            found=found.hex(),
        )


def shown_list(data: bytes) -> bytes:
    """What two copies are compared by: the log's entry, since proofs of one entry differ, or the list by itself.

    Raises DirectoryRefused (``directory_malformed``).
    """
    if not data.startswith(BEGINS):
        return data
    try:
        return LoggedList.parse(data).leaf
    except TransparencyError as error:
        raise _malformed(error.detail) from error


def refused(error: TransparencyError) -> DirectoryRefused:
    """A failed check of the log, as this package names it."""
    code, detail, hint = _NAMED.get(
        error.code,
        (f"directory_{error.code.lower()}", f"the list of nodes: {error.detail or error.code}", ""),
    )
    return DirectoryRefused(
        code, detail, hint, expected=error.expected, found=error.found, evidence=error.evidence
    )


def _malformed(why: str) -> DirectoryRefused:
    return DirectoryRefused("directory_malformed", why)
