"""Ranks as processes of one machine that were forked from one another: they meet in memory that they share.

Each rank writes into a place of its own and reads everybody's. What crosses their sockets is single bytes that say
"written" and "read": no activation and no token is in a buffer of the kernel's, and every place is zeroed when it has
been read. The sockets are pairs that exist before any rank is sealed; behind the seal none is opened. Rank 0 has a
pair with every other.
"""

import mmap
import select
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from enclave_runtime.engine.errors import RankLost

PLACE = 1 << 20
"""Bytes that a rank writes at once; what is longer goes in turn."""
PATIENCE_S = 120.0
"""How long a rank may take for its part before it counts as lost."""
START_PATIENCE_S = 1800.0
"""How long it may take to read its weights."""


@runtime_checkable
class RankLeader(Protocol):
    """A decoder that other ranks follow."""

    def seal_others(self) -> None:
        """Have every other rank seal itself, and wait for it. Between two steps. Raises `RankLost`."""


_HEAD = struct.Struct("=qq")
_ORDER, _PART, _READ = b"o", b"p", b"r"


@dataclass(frozen=True, slots=True)
class RankLinks:
    """One rank's end: who it is, the shared memory, and its sockets (rank 0: to rank 1, 2, …; another: to rank 0)."""

    rank: int
    count: int
    sockets: tuple[socket.socket, ...]
    memory: mmap.mmap = field(repr=False)

    @classmethod
    def make(cls, count: int) -> "tuple[RankLinks, ...]":
        """The ends of all ``count`` ranks, for one process to fork and each to `keep` its own."""
        memory = mmap.mmap(-1, count * PLACE)
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(count - 1)]
        return (
            cls(0, count, tuple(ours for ours, _ in pairs), memory),
            *(cls(rank, count, (theirs,), memory) for rank, (_, theirs) in enumerate(pairs, 1)),
        )

    def keep(self, others: "Sequence[RankLinks]") -> None:
        """Close the ends of ``others``, so that the end of a process shows at the other end."""
        for links in others:
            if links.rank != self.rank:
                for end in links.sockets:
                    end.close()

    @property
    def descriptors(self) -> frozenset[int]:
        return frozenset(end.fileno() for end in self.sockets)

    def close(self) -> None:
        for end in self.sockets:
            end.close()

    def exchange(self, mine: bytes, patience: float = PATIENCE_S) -> list[bytes]:
        """Everybody's piece, in the order of the ranks; ``mine`` is at most `PLACE` bytes, of one size on every rank.

        Raises `RankLost` for a rank that is gone, that does something else, or that takes longer than ``patience``.
        """
        begin = self.rank * PLACE
        self.memory[begin : begin + len(mine)] = mine
        self._meet(_PART, patience)
        found = [self.memory[rank * PLACE : rank * PLACE + len(mine)] for rank in range(self.count)]
        self._meet(_READ, PATIENCE_S)
        self.memory[begin : begin + len(mine)] = bytes(len(mine))
        return found

    def tell(self, order: int, body: bytes) -> None:
        """Say something to all ranks; rank 0 does. Raises `RankLost`."""
        self._say(_HEAD.pack(order, len(body)))
        for start in range(0, len(body), PLACE):
            self._say(body[start : start + PLACE])

    def hear(self) -> tuple[int, bytes]:
        """The next thing that rank 0 says, for however long it says nothing. Raises `RankLost`."""
        order, size = _HEAD.unpack(self._listen(_HEAD.size, None))
        parts = [self._listen(min(PLACE, size - start), PATIENCE_S) for start in range(0, size, PLACE)]
        return order, b"".join(parts)

    def _say(self, piece: bytes) -> None:
        self.memory[: len(piece)] = piece
        self._meet(_ORDER, PATIENCE_S)
        self._meet(_READ, PATIENCE_S)
        self.memory[: len(piece)] = bytes(len(piece))

    def _listen(self, size: int, patience: float | None) -> bytes:
        self._meet(_ORDER, patience)
        heard = self.memory[:size]
        self._meet(_READ, PATIENCE_S)
        return heard

    def _meet(self, kind: bytes, patience: float | None) -> None:
        """Wait until every rank is at this very point. Whoever finds that one is not lets all others know."""
        try:
            self._wait(kind, patience)
        except RankLost:
            self.close()
            raise

    def _wait(self, kind: bytes, patience: float | None) -> None:
        try:
            if self.rank:
                self.sockets[0].send(kind)
            for end in self.sockets:
                self._expect(end, kind, patience)
            if not self.rank:
                for end in self.sockets:
                    end.send(kind)
        except (OSError, ValueError):  # ValueError: this end was closed, since a rank was lost before
            raise RankLost("a rank is gone") from None

    @staticmethod
    def _expect(end: socket.socket, kind: bytes, patience: float | None) -> None:
        poll = select.poll()
        poll.register(end, select.POLLIN)
        if not poll.poll(None if patience is None else patience * 1000):
            raise RankLost("a rank takes too long")
        if (said := end.recv(1)) != kind:
            raise RankLost("a rank is gone, or does something else", expected=kind, found=said)
