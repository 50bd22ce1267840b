"""An answer between the application that writes it and the network that takes it.

``pacing.py`` sends at a beat, ``unpaced.py`` when something was written; here stands what both have in common: the
reader who leaves, and the end of everything that worked for an answer when it is over.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from .asgi import NO_STORE, Receive, Send, disconnected, stop
from .cells import CellStream, UnpaddedStream
from .chunked import RESPONSE_MEDIA_TYPE
from .cutoff import Cutoff
from .readers import Readers

Work = Callable[[], Coroutine[Any, Any, None]]

_INCREMENTAL = (b"incremental", b"?1")


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

    ``waiting_since`` and ``cutoff``: see ``readers.Watched``.
    """

    stream: CellStream | UnpaddedStream
    clock: CellClock | None = None
    media_type = RESPONSE_MEDIA_TYPE.encode()
    waiting_since: float | None = None
    cutoff: Cutoff

    _receive: Receive
    _send: Send
    _loop: asyncio.AbstractEventLoop

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    async def deliver(
        self, work: Work, receive: Receive, send: Send, readers: Readers, cutoff: Cutoff
    ) -> bool:
        """Let ``work`` write, and send what it writes. Whether the answer left whole.

        ``cutoff`` is of a block around the call: a reader who leaves or stalls ends that block. When this returns or
        raises, nothing of ``work`` runs any more.
        """
        self._receive, self._send, self.cutoff = receive, send, cutoff
        self._loop = asyncio.get_running_loop()
        readers.watch(self)
        try:
            return await self._deliver(work)
        finally:
            readers.forget(self)
            if self._tasks:
                await stop(self._tasks)

    def listen(self) -> None:
        """From now on, notice the reader who leaves."""
        self._tasks.append(self._loop.create_task(self._reader_left()))

    async def _reader_left(self) -> None:
        await disconnected(self._receive)
        self.cutoff.cut()

    @abstractmethod
    async def written(self) -> None:
        """The application wrote something of its body, or ended it. Returns when it may go on."""

    @abstractmethod
    async def _deliver(self, work: Work) -> bool: ...

    def _start(self, *, whole: int | None = None) -> Awaitable[None]:
        """Send the outer head; ``whole``: bytes of the body, where they are known."""
        framing = _INCREMENTAL if whole is None else (b"content-length", b"%d" % whole)
        headers = [(b"content-type", self.media_type), NO_STORE, framing]
        return self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _send_body(self, data: bytes, *, more: bool) -> None:
        self.waiting_since = self._loop.time()
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
        self.waiting_since = None
