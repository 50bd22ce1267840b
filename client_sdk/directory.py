"""The directory of a fleet: which nodes there are, and the keys that each of them shows (docs/protocol.md §6).

A directory is canonical JSON (RFC 8785)::

    {"channel":"prod","nodes":[{"keys":"<64 hex digits>","name":"node-a"}, …],"version":1}

``keys`` is the SHA-256 of the node's ``application/ohttp-keys`` list, which its evidence binds. Names ascend, and no
name and no key stands for two nodes. Whoever serves a directory is not trusted: everybody has to be shown the same
bytes, which comparison with mirrors checks, and every node proves itself to whoever draws it.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from measurements.errors import TransparencyError
from measurements.statement import canonical, closed, hex_text, parse_canonical, record, sequence, text

from .errors import DirectoryRefused

MAX_DIRECTORY: Final = 1024 * 1024
MAX_NODES: Final = 4096
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class ListedNode:
    """One node: its ``name`` is its path at the relay, ``keys`` the SHA-256 (32 bytes) of its key configs."""

    name: str
    keys: bytes


@dataclass(frozen=True, slots=True)
class Directory:
    """A parsed directory; ``raw`` are its canonical bytes."""

    channel: str
    nodes: tuple[ListedNode, ...]
    raw: bytes

    @property
    def digest(self) -> bytes:
        """SHA-256 of the directory's bytes: what mirrors are compared by."""
        return hashlib.sha256(self.raw).digest()

    def node(self, name: str) -> ListedNode | None:
        """The node of this name."""
        return next((node for node in self.nodes if node.name == name), None)

    @classmethod
    def build(cls, channel: str, nodes: Iterable[ListedNode]) -> "Directory":
        """The directory of these nodes. Raises DirectoryRefused (``directory_malformed``)."""
        listed: list[Any] = [
            {"name": node.name, "keys": node.keys.hex()} for node in sorted(nodes, key=lambda node: node.name)
        ]
        return cls.parse(canonical({"version": 1, "channel": channel, "nodes": listed}))

    @classmethod
    def parse(cls, data: bytes) -> "Directory":
        """Read a directory of at most 1 MiB and 4,096 nodes. Raises DirectoryRefused (``directory_malformed``)."""
        try:
            value = closed(
                record(parse_canonical(data, limit=MAX_DIRECTORY), "directory"),
                {"version", "channel", "nodes"},
            )
            if value["version"] != 1 or isinstance(value["version"], bool):
                raise _malformed("version is not 1")
            nodes = tuple(
                _node(record(entry, "node")) for entry in sequence(value["nodes"], "nodes", most=MAX_NODES)
            )
            channel = text(value["channel"], "channel", most=200)
        except TransparencyError as error:
            raise _malformed(error.detail) from error
        names = [node.name for node in nodes]
        if names != sorted(set(names)):
            raise _malformed("names must ascend, each once")
        if len({node.keys for node in nodes}) != len(nodes):
            raise _malformed("two names for one node's keys")
        return cls(channel, nodes, data)


def _node(value: Any) -> ListedNode:
    entry = closed(value, {"name", "keys"})
    name = text(entry["name"], "name")
    if not _NAME.fullmatch(name):
        raise _malformed("a name has 1 to 63 of a-z, 0-9, '.', '_' and '-'")
    return ListedNode(name, bytes.fromhex(hex_text(entry["keys"], 64, "keys")))


def _malformed(why: str) -> DirectoryRefused:
    return DirectoryRefused("directory_malformed", why)
