"""A bounded number of exchanges at a time, of which those that dawdle are the first to go."""

import asyncio
from collections.abc import Callable

GRACE_S = 1.0
"""How long every request may take to arrive, whoever waits for its place."""


class Places:
    """``most`` exchanges at a time; for one event loop.

    Where all places are taken, a newcomer gets that of the request that has been arriving for longest, and for
    more than a second: an honest one is there in moments, and whoever would keep others out by sending slowly
    is the first out. An exchange whose request has arrived whole keeps its place.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._arriving: dict[object, tuple[float, Callable[[], object]]] = {}

    def take(self) -> bool:
        """Take a place; False where there is none to be had."""
        if self._taken >= self._most:
            slowest = next(iter(self._arriving), None)
            if slowest is None:
                return False
            since, end = self._arriving[slowest]
            if asyncio.get_running_loop().time() - since < GRACE_S:
                return False
            del self._arriving[slowest]
            end()
        self._taken += 1
        return True

    def give_back(self) -> None:
        """Leave a place."""
        self._taken -= 1

    def arrives(self, end: Callable[[], object]) -> object:
        """A request begins to arrive; ``end`` is called where its place is needed. Give the result to
        ``arrived``.
        """
        ticket = object()
        self._arriving[ticket] = asyncio.get_running_loop().time(), end
        return ticket

    def arrived(self, ticket: object) -> None:
        """It is there, or will not come."""
        self._arriving.pop(ticket, None)
