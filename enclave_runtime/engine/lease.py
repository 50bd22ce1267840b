"""Keys and values that a client has kept for its own next turn, for as long as it holds a lease.

A lease has room of its own (`enclave_runtime.engine.lease_room`). When one of its requests ends, the keys and values
of its prompt and answer are copied there; when the next one begins, those of the beginning that both have in common
are copied back, in whole pages and whole tiles of attention, so that the result is what the request would have
computed itself, bit for bit. Pages are never shared: whoever does not bring the lease has no way to them.

What a lease holds is known by hashes alone: a chain of SHA-256 over blocks of tokens, begun with the lease's salt. When
the lease ends its room is overwritten before anything else is computed.
"""

import hashlib

import numpy as np

from enclave_runtime.engine.errors import TooManyLeases
from enclave_runtime.engine.lease_room import LeaseRoom, RoomMaker
from enclave_runtime.engine.pages import PagePool, PageTable
from enclave_runtime.engine.public_prefix import unit

_BEGIN = b"cloister/lease-chain/v1\0"
_BLOCK = b"cloister/lease-block/v1\0"


class Lease:
    """One lease, which keeps at most ``tokens`` positions in ``room``. Apart from ``closed`` only the engine's thread
    uses it.

    ``answers``: whether positions of answers are kept too, and not those of prompts alone.
    """

    def __init__(self, salt: bytes, room: LeaseRoom, tokens: int, *, answers: bool = True) -> None:
        self.answers = answers
        self.closed = False
        self._room = room
        self._tokens = tokens
        self._first = hashlib.sha256(_BEGIN + len(salt).to_bytes(4, "big") + salt).digest()
        self._chain: list[bytes] = []

    def begin(self, prompt: np.ndarray, table: PageTable, pool: PagePool) -> int:
        """Copy into ``table`` what ``prompt`` (int64) has in common with what is kept; how many positions that is.

        At least one position of a prompt is left to compute, since its logits are wanted. Raises `SealedPageForged`.
        """
        if self.closed or not self._chain:
            return 0
        size = unit(pool.page_tokens)
        same = _common(self._chain, self._hashes(prompt[: len(prompt) - 1], size))
        if same:
            self._room.give(table, _each(self._chain[:same], size // pool.page_tokens))
        return same * size

    def keep(self, tokens: np.ndarray, table: PageTable, pool: PagePool) -> None:
        """Hold the keys and values of ``tokens`` (int64), which are in ``table``, in place of what was held before."""
        if self.closed:
            return
        size = unit(pool.page_tokens)
        wanted, pages = self._hashes(tokens[: self._tokens], size), size // pool.page_tokens
        same = _common(self._chain, wanted)
        if self._room.keep(table, _each(wanted, pages), first=same * pages):
            self._chain = wanted

    def end(self) -> None:
        """Overwrite everything."""
        self.closed = True
        self._chain.clear()
        self._room.end()

    def forget(self) -> None:
        """The pool was cleared: nothing is held any more."""
        self.closed = True
        self._chain.clear()
        self._room.forget()

    def _hashes(self, tokens: np.ndarray, size: int) -> list[bytes]:
        """One for each whole block of ``size`` tokens, over it and all before it."""
        chain, last = [], self._first
        for start in range(0, len(tokens) - size + 1, size):
            block = hashlib.sha256(_BLOCK + last + size.to_bytes(4, "big"))
            block.update(tokens[start : start + size].data)
            last = block.digest()
            chain.append(last)
        return chain


class LeaseBook:
    """The leases of an engine: at most ``count`` at a time, of ``tokens`` positions each, for which ``make_room`` makes
    room. ``answers``: see `Lease`.
    """

    def __init__(self, make_room: RoomMaker, count: int, tokens: int, *, answers: bool) -> None:
        self._make_room = make_room
        self._answers = answers
        self._count = count
        self._tokens = tokens
        self._open: set[Lease] = set()

    def open(self, salt: bytes, owner: int) -> Lease:
        """A new lease, which holds nothing yet. Raises `TooManyLeases`."""
        if len(self._open) >= self._count:
            raise TooManyLeases("leases", expected=self._count, found=len(self._open))
        lease = Lease(salt, self._make_room(owner), self._tokens, answers=self._answers)
        self._open.add(lease)
        return lease

    def close(self, lease: Lease) -> None:
        """End ``lease``, and overwrite what it held. On the engine's thread."""
        lease.end()
        self._open.discard(lease)

    def close_all(self) -> None:
        """End every lease."""
        for lease in tuple(self._open):
            self.close(lease)

    def forget_all(self) -> None:
        """The pool was cleared."""
        for lease in self._open:
            lease.forget()
        self._open.clear()


def _each(chain: list[bytes], pages: int) -> list[bytes]:
    """The name of every page: that of its block."""
    return [name for name in chain for _ in range(pages)]


def _common(first: list[bytes], second: list[bytes]) -> int:
    count = 0
    for one, two in zip(first, second, strict=False):
        if one != two:
            break
        count += 1
    return count
