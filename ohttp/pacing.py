"""Answers on the running event loop: when each part leaves, and how an application learns that one is near."""

import asyncio

from .asgi import Send
from .cells import CellStream, Pacer, UnpaddedStream
from .chunked import ResponseSealer
from .padding import CellProfile

HIGH_WATER = 64 * 1024
"""Bytes that may wait to be sent before the application is held up."""

_MAX_LEAD_S = 0.010


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


class Answer:
    """One answer between the application that writes it and the network that takes it, in a node's profile.

    ``stream`` takes what the application says; ``clock`` is there where cells are constant. ``stall_s``: how
    long one write may wait for the reader.
    """

    def __init__(self, profile: CellProfile, stall_s: float) -> None:
        self._profile = profile
        self._stall = stall_s
        self._room = asyncio.Event()
        self._changed = asyncio.Event()
        self._cells = None if profile.name == "off" else CellStream(profile)
        self._plain = UnpaddedStream()
        self.stream: CellStream | UnpaddedStream = self._cells or self._plain
        self.clock = CellClock() if profile.name == "constant" else None

    async def written(self) -> None:
        """The application wrote something; returns once fewer than ``HIGH_WATER`` bytes wait."""
        self._changed.set()
        while self.stream.queued >= HIGH_WATER:
            self._room.clear()
            await self._room.wait()

    async def send_all(self, sealer: ResponseSealer, send: Send) -> bool:
        """Send to the end; whether it was reached. False where the reader stalled or the body was aborted."""
        try:
            if self._cells and self.clock:
                await self._send_cells(self._cells, self.clock, sealer, send)
                return True
            if self._cells:
                await self._send_buckets(self._cells, sealer, send)
                return True
            return await self._send_unpadded(sealer, send)
        except TimeoutError:
            return False

    async def _send_cells(
        self, stream: CellStream, clock: CellClock, sealer: ResponseSealer, send: Send
    ) -> None:
        loop = asyncio.get_running_loop()
        pacer = Pacer(self._profile, loop.time())
        lead = min(_MAX_LEAD_S, pacer.interval / 4)
        prologue = sealer.prologue()
        while True:
            await asyncio.sleep(max(0.0, pacer.due - lead - loop.time()))
            clock.announce(stream.capacity())
            await asyncio.sleep(max(0.0, pacer.due - loop.time()))
            cell = stream.next_cell()
            sealed = sealer.seal_final(cell.data) if cell.last else sealer.seal(cell.data)
            pacer.sent(loop.time())
            await self._send_body(send, prologue + sealed, more=not cell.last)
            if cell.last:
                return
            prologue = b""

    async def _send_buckets(self, stream: CellStream, sealer: ResponseSealer, send: Send) -> None:
        prologue = sealer.prologue()
        while True:
            await self._changed.wait()
            self._changed.clear()
            while stream.queued or stream.ended:
                cell = stream.next_cell()
                sealed = sealer.seal_final(cell.data) if cell.last else sealer.seal(cell.data)
                await self._send_body(send, prologue + sealed, more=not cell.last)
                if cell.last:
                    return
                prologue = b""

    async def _send_unpadded(self, sealer: ResponseSealer, send: Send) -> bool:
        stream = self._plain
        prologue = sealer.prologue()
        while True:
            await self._changed.wait()
            self._changed.clear()
            while stream.queued:
                data = stream.take()
                last = stream.ended and not stream.queued and not stream.aborted
                sealed = sealer.seal_final(data) if last else sealer.seal(data)
                await self._send_body(send, prologue + sealed, more=not last)
                if last:
                    return True
                prologue = b""
            if stream.aborted:
                return False

    async def _send_body(self, send: Send, data: bytes, *, more: bool) -> None:
        async with asyncio.timeout(self._stall):
            await send({"type": "http.response.body", "body": data, "more_body": more})
        if self.stream.queued < HIGH_WATER:
            self._room.set()
