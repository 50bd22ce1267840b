"""A bounded number of exchanges at a time, of which those that dawdle are the first to go."""

import asyncio
import math
from collections.abc import Callable

GRACE_S = 1.0
"""How long every request may take to arrive, whoever waits for its place."""


class Places:
    """``most`` exchanges at a time, each of whose requests may take ``arrive_s`` to arrive; for one event loop.

    Where all places are taken, a newcomer gets that of the request that has been arriving for longest, and for
    more than a second: an honest one is there in moments, and whoever would keep others out by sending slowly
    is the first out. An exchange whose request has arrived whole keeps its place.
    """

    def __init__(self, most: int, *, arrive_s: float = math.inf) -> None:
        self._most = most
        self._taken = 0
        self._arrive = arrive_s
        self._arriving: dict[object, tuple[float, Callable[[], object]]] = {}  # longest first
        self._timer: asyncio.TimerHandle | None = None

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
        """A request begins to arrive; ``end`` is called where its place is needed, or its time is over. Give the
        result to ``arrived``.
        """
        ticket = object()
        loop = asyncio.get_running_loop()
        self._arriving[ticket] = loop.time(), end
        if self._timer is None and self._arrive < math.inf:
            self._timer = loop.call_later(self._arrive, self._end_the_late)
        return ticket

    def arrived(self, ticket: object) -> None:
        """It is there, or will not come."""
        self._arriving.pop(ticket, None)

    def _end_the_late(self) -> None:
        """One timer serves all: it stays for requests that are there long since, and looks who else is late."""
        loop = asyncio.get_running_loop()
        self._timer = None
        for ticket, (since, end) in list(self._arriving.items()):
            if since + self._arrive > loop.time():
                self._timer = loop.call_at(since + self._arrive, self._end_the_late)
                return
            del self._arriving[ticket]
            end()
