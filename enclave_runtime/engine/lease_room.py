"""Where a lease's keys and values lie between two turns: in pages of the pool, or sealed in memory beside it.

Sealed, they take no page of the pool (which is the GPU's own, scarce memory where one computes), and lie in the node's
private memory under AES-256-GCM (NIST SP 800-38D): each lease has a key, drawn when it begins and dropped when it ends,
and each page is bound to its lease, to its place and to the tokens it was computed for. A page that was moved, put
back from earlier or altered does not open.
"""

import struct
from collections.abc import Callable
from collections.abc import Sequence as Ordered
from typing import Protocol

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from enclave_runtime.engine.aligned import aligned_zeros
from enclave_runtime.engine.errors import InvalidRequest, PagesExhausted, SealedPageForged
from enclave_runtime.engine.pages import PagePool, PageTable

STORES = ("pool", "sealed")
"""Where leases may keep: see `lease_rooms`."""

_LABEL = b"cloister/lease-page/v1\0"
_TAG_BYTES = 16


class LeaseRoom(Protocol):
    """The place of one lease. Pages are counted from the beginning of its conversation; ``names`` tell, one for each,
    what they were computed for.
    """

    def keep(self, source: PageTable, names: Ordered[bytes], *, first: int) -> bool:
        """Hold the first ``len(names)`` pages of ``source``, of which those before ``first`` are held already, and
        overwrite what is held beyond. False, and nothing is held, where there is no room.
        """

    def give(self, target: PageTable, names: Ordered[bytes]) -> None:
        """Write the first ``len(names)`` of the pages that are held into ``target``. Raises `SealedPageForged`."""

    def end(self) -> None:
        """Overwrite everything."""

    def forget(self) -> None:
        """The pool was cleared: end without it."""


RoomMaker = Callable[[int], LeaseRoom]
"""Makes room for the lease with this owner's number; at most as many at a time as there may be leases."""


def lease_rooms(store: str, pool: PagePool, count: int, tokens: int) -> RoomMaker:
    """Room for ``count`` leases of ``tokens`` positions: in ``pool`` or ``sealed`` (see `STORES`).

    Raises `InvalidRequest` for another store, or where the pool's pages cannot be taken out of it.
    """
    if store == "pool":
        return lambda owner: PoolRoom(pool, owner, tokens)
    if store != "sealed":
        raise InvalidRequest("where leases keep", expected=STORES, found=store)
    return SealedRooms(pool, count, tokens).open


class PoolRoom:
    """Pages of the pool that belong to the lease."""

    def __init__(self, pool: PagePool, owner: int, tokens: int) -> None:
        self._pool, self._owner, self._tokens = pool, owner, tokens
        self._table: PageTable | None = None
        self._held = 0

    def keep(self, source: PageTable, names: Ordered[bytes], *, first: int) -> bool:
        if self._table is None:
            try:
                self._table = self._pool.allocate(self._owner, self._tokens)
            except PagesExhausted:
                return False
        self._pool.copy(source, self._table, len(names), first=first)
        if len(names) < self._held:
            self._pool.zero(self._table.pages[len(names) : self._held])
        self._held = len(names)
        return True

    def give(self, target: PageTable, names: Ordered[bytes]) -> None:
        assert self._table is not None, "what is given was kept before"
        self._pool.copy(self._table, target, len(names))

    def end(self) -> None:
        table, self._table = self._table, None
        if table is not None:
            self._pool.release(table)

    def forget(self) -> None:
        self._table = None


class SealedRooms:
    """Memory for ``count`` leases: ``memory`` is uint8 [count, pages, bytes of a page and its tag], zero where nothing
    is held.
    """

    def __init__(self, pool: PagePool, count: int, tokens: int) -> None:
        if not pool.page_bytes:
            raise InvalidRequest("pages of this decoder cannot be taken out, so leases cannot be sealed")
        self.memory = aligned_zeros((count, pool.pages_for(tokens), pool.page_bytes + _TAG_BYTES), np.uint8)
        self._pool = pool
        self._plain = aligned_zeros((pool.page_bytes,), np.uint8)
        self._free = list(range(count))

    def open(self, owner: int) -> "SealedRoom":
        """Room for a lease."""
        place = self._free.pop()
        return SealedRoom(
            self._pool, owner, self.memory[place], self._plain, lambda: self._free.append(place)
        )


class SealedRoom:
    """Pages outside the pool, each sealed under the lease's key."""

    def __init__(
        self, pool: PagePool, owner: int, memory: np.ndarray, plain: np.ndarray, leave: Callable[[], None]
    ) -> None:
        self._pool, self._owner, self._memory, self._plain, self._leave = pool, owner, memory, plain, leave
        self._key: AESGCM | None = AESGCM(AESGCM.generate_key(256))
        self._sealed = 0
        self._nonces: list[int] = []

    def keep(self, source: PageTable, names: Ordered[bytes], *, first: int) -> bool:
        assert self._key is not None, "a lease that has ended keeps nothing"
        self._pool.check(source)
        self._memory[len(names) : len(self._nonces)] = 0
        del self._nonces[first:]
        try:
            for place in range(first, len(names)):
                self._pool.read_page(int(source.pages[place]), self._plain)
                self._sealed += 1  # never the same nonce twice under a key
                self._nonces.append(self._sealed)
                self._key.encrypt_into(
                    _nonce(self._sealed),
                    self._plain.data,
                    self._bound(place, names[place]),
                    self._memory[place].data,
                )
        finally:
            self._plain.fill(0)
        return True

    def give(self, target: PageTable, names: Ordered[bytes]) -> None:
        assert self._key is not None, "a lease that has ended gives nothing"
        self._pool.check_span(target, 0, len(names) * self._pool.page_tokens)
        try:
            for place, name in enumerate(names):
                nonce, sealed = _nonce(self._nonces[place]), self._memory[place].data
                self._key.decrypt_into(nonce, sealed, self._bound(place, name), self._plain.data)
                self._pool.write_page(int(target.pages[place]), self._plain)
        except InvalidTag:
            raise SealedPageForged("a sealed page is not the one that was kept") from None
        finally:
            self._plain.fill(0)

    def end(self) -> None:
        if self._key is not None:
            self._key = None
            self._nonces.clear()
            self._memory.fill(0)
            self._leave()

    def forget(self) -> None:
        self.end()

    def _bound(self, place: int, name: bytes) -> bytes:
        return _LABEL + struct.pack(">QQ", self._owner, place) + name


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")
