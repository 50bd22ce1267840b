"""Answers at a beat: when each cell leaves, and how an application learns that one is near."""

import asyncio

from .answer import Answer, CellClock, Work
from .cells import CellStream, Pacer
from .chunked import ResponseSealer
from .padding import CellProfile

HIGH_WATER = 64 * 1024
"""Bytes that may wait to be sent before the application is held up."""

_MAX_LEAD_S = 0.010


class PacedAnswer(Answer):
    """The profile ``constant``: a cell each interval from the first moment on, whatever the application does."""

    clock: CellClock

    def __init__(self, profile: CellProfile, sealer: ResponseSealer) -> None:
        super().__init__()
        self._profile = profile
        self._sealer = sealer
        self._room = asyncio.Event()
        self._cells = self.stream = CellStream(profile)
        self.clock = CellClock()

    async def written(self) -> None:
        """Returns once fewer than ``HIGH_WATER`` bytes wait."""
        while self._cells.queued >= HIGH_WATER:
            self._room.clear()
            await self._room.wait()

    async def _deliver(self, work: Work) -> bool:
        sealer = self._sealer
        loop = self._loop
        self._tasks.append(loop.create_task(work()))
        await self._start()
        stream, clock, pacer = self._cells, self.clock, Pacer(self._profile, loop.time())
        lead = min(_MAX_LEAD_S, pacer.interval / 4)
        prologue = sealer.prologue()
        while True:
            await asyncio.sleep(max(0.0, pacer.due - lead - loop.time()))
            clock.announce(stream.capacity())
            await asyncio.sleep(max(0.0, pacer.due - loop.time()))
            cell = stream.next_cell()
            sealed = sealer.seal_final(cell.data) if cell.last else sealer.seal(cell.data)
            pacer.sent(loop.time())
            await self._send_body(prologue + sealed, more=not cell.last)
            if cell.last:
                return True
            if stream.queued < HIGH_WATER:
                self._room.set()
            prologue = b""
