"""An answer between the application that writes it and the network that takes it.

``pacing.py`` sends at a beat, ``unpaced.py`` when something was written; here stands what both have in common: the
reader who leaves, and the end of everything that worked for an answer when it is over.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any

from .asgi import Receive, Send, disconnected, stop
from .cells import CellStream, UnpaddedStream
from .chunked import RESPONSE_MEDIA_TYPE

Work = Callable[[], Coroutine[Any, Any, None]]

_NO_STORE = (b"cache-control", b"no-store")
_INCREMENTAL = (b"incremental", b"?1")
_LOOK_AFTER_S = 0.02
_LOOK_EVERY_S = 1.0


class CellClock:
    """Tells an application when to hand over what it has, so that one cell carries many tokens."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[int]] = []

    async def tick(self) -> int:
        """Resolves shortly before a cell leaves, with the number of body bytes that it can still carry."""
        waiter: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        return await waiter

    def announce(self, capacity: int) -> None:
        """A cell is about to be filled."""
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(capacity)


class Answer(ABC):
    """One answer. ``stream`` takes what the application says; ``clock`` is there where cells are at a beat.

    ``stall_s``: how long one write may wait for the reader.
    """

    stream: CellStream | UnpaddedStream
    clock: CellClock | None = None
    media_type = RESPONSE_MEDIA_TYPE.encode()

    _receive: Receive
    _limit: asyncio.Timeout
    _loop: asyncio.AbstractEventLoop
    _watch: asyncio.Handle

    def __init__(self, stall_s: float) -> None:
        self._stall = stall_s
        self._tasks: list[asyncio.Task[None]] = []
        self._watcher: asyncio.Task[None] | None = None
        self._waits_since: float | None = None

    async def deliver(self, work: Work, receive: Receive, send: Send, limit: asyncio.Timeout) -> bool:
        """Let ``work`` write, and send what it writes. Whether the answer left whole.

        ``limit`` is of a block around the call, without a deadline: a reader who leaves or stalls ends that block.
        When this returns or raises, nothing of ``work`` runs any more.
        """
        self._receive, self._limit = receive, limit
        self._loop = asyncio.get_running_loop()
        # An answer that does not stream is mostly gone before the loop turns: it needs no timer.
        self._watch = self._loop.call_soon(self._look_later)
        try:
            return await self._deliver(work, send)
        finally:
            self._watch.cancel()
            if self._tasks:
                await stop(self._tasks)

    def _look_later(self) -> None:
        self._watch = self._loop.call_later(_LOOK_AFTER_S, self._look)

    def _look(self) -> None:
        """Now and then: whether the reader is there, and takes what is written."""
        if self._watcher is None:
            self._watcher = self._loop.create_task(self._reader_left())
            self._tasks.append(self._watcher)
        if self._waits_since is not None and self._loop.time() - self._waits_since > self._stall:
            give_up(self._limit)
        self._watch = self._loop.call_later(min(self._stall / 4, _LOOK_EVERY_S), self._look)

    async def _reader_left(self) -> None:
        await disconnected(self._receive)
        give_up(self._limit)

    @abstractmethod
    async def written(self) -> None:
        """The application wrote something of its body, or ended it. Returns when it may go on."""

    @abstractmethod
    async def _deliver(self, work: Work, send: Send) -> bool: ...

    async def _start(self, send: Send, *, whole: int | None = None) -> None:
        """Send the outer head; ``whole``: bytes of the body, where they are known."""
        framing = _INCREMENTAL if whole is None else (b"content-length", b"%d" % whole)
        headers = [(b"content-type", self.media_type), _NO_STORE, framing]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _send_body(self, send: Send, data: bytes, *, more: bool) -> None:
        self._waits_since = self._loop.time()
        await send({"type": "http.response.body", "body": data, "more_body": more})
        self._waits_since = None


def give_up(limit: asyncio.Timeout) -> None:
    """Let the block under ``limit`` end with TimeoutError, now."""
    if not limit.expired():
        limit.reschedule(0.0)
