"""Answers that leave when something was written: in equal cells (``bucket``), or as they come (``off``)."""

from collections.abc import Iterator

from .answer import Answer, Work
from .asgi import Send
from .cells import CellStream, UnpaddedStream
from .chunked import ResponseSealer
from .padding import CellProfile

PORTION = 64 * 1024
"""Bytes of one write, and a chunk more at most."""


class UnpacedAnswer(Answer):
    """The application itself sends, each time it writes; the head goes with what is written first."""

    def __init__(self, profile: CellProfile, stall_s: float) -> None:
        super().__init__(stall_s)
        self.stream = UnpaddedStream() if profile.name == "off" else CellStream(profile)
        self._complete = False
        self._started = False
        self._sealer: ResponseSealer | None = None
        self._send: Send | None = None

    async def written(self) -> None:
        """Sends what is there; returns when the network has taken it."""
        sealer, send = self._sealer, self._send
        if sealer is None or send is None:
            raise RuntimeError("written before it is delivered")
        if self._complete or not (self.stream.queued or self.stream.ended):
            return
        for data in _portions(self._sealed(sealer)):
            if not self._started:
                self._started = True
                await self._start(send, whole=len(data) if self._complete else None)
            await self._send_body(send, data, more=not self._complete)

    async def _deliver(self, work: Work, sealer: ResponseSealer, send: Send) -> bool:
        self._sealer, self._send = sealer, send
        await work()
        return self._complete

    def _sealed(self, sealer: ResponseSealer) -> Iterator[bytes]:
        """What waits, in chunks; ``_complete`` once the final one is among them."""
        if not self._started:
            yield sealer.prologue()
        stream = self.stream
        if isinstance(stream, CellStream):
            while stream.queued or stream.ended:
                cell = stream.next_cell()
                if cell.last:
                    self._complete = True
                    yield sealer.seal_final(cell.data)
                    return
                yield sealer.seal(cell.data)
            return
        while stream.queued:
            data = stream.take()
            self._complete = stream.ended and not stream.queued and not stream.aborted
            yield sealer.seal_final(data) if self._complete else sealer.seal(data)


def _portions(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The chunks joined, so that they leave in few writes, each of which a slow reader can take in time."""
    portion: list[bytes] = []
    size = 0
    for chunk in chunks:
        portion.append(chunk)
        size += len(chunk)
        if size >= PORTION:
            yield b"".join(portion)
            portion, size = [], 0
    if portion:
        yield b"".join(portion)
