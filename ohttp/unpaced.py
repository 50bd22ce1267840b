"""Answers without a beat: sent when something was written, in equal cells (``bucket``) or as it comes (``off``);
or whole, where the request was.
"""

from collections.abc import Callable, Iterator

from .answer import Answer, Work
from .asgi import Send
from .cells import MAX_GATHERED, CellError, CellStream, UnpaddedStream
from .chunked import ResponseSealer
from .encapsulation import MEDIA_TYPE_RESPONSE
from .padding import CellProfile, ladder_rung

PORTION = 64 * 1024
"""Bytes of one write, and a chunk more at most."""


class UnpacedAnswer(Answer):
    """The application itself sends, each time it writes; the head goes with what is written first."""

    def __init__(self, profile: CellProfile, stall_s: float, sealer: ResponseSealer) -> None:
        super().__init__(stall_s)
        self.stream = UnpaddedStream() if profile.name == "off" else CellStream(profile)
        self._sealer = sealer
        self._complete = False
        self._started = False
        self._send: Send | None = None

    async def written(self) -> None:
        """Sends what is there; returns when the network has taken it."""
        if self._send is None:
            raise RuntimeError("written before it is delivered")
        if self._complete or not (self.stream.queued or self.stream.ended):
            return
        for data in _portions(self._sealed(self._sealer)):
            if not self._started:
                self._started = True
                await self._start(self._send, whole=len(data) if self._complete else None)
            await self._send_body(self._send, data, more=not self._complete)

    async def _deliver(self, work: Work, send: Send) -> bool:
        self._send = send
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


class WholeAnswer(Answer):
    """For a request that was not in chunks: the answer is gathered, padded to the ladder, and sealed once."""

    media_type = MEDIA_TYPE_RESPONSE.encode()

    def __init__(self, profile: CellProfile, stall_s: float, seal: Callable[[bytes], bytes]) -> None:
        super().__init__(stall_s)
        self.stream = self._gathered = UnpaddedStream()
        self._cell = 0 if profile.name == "off" else profile.cell_bytes
        self._seal = seal

    async def written(self) -> None:
        """Nothing leaves yet. Raises CellError (``body_too_large``) for the application that writes on and on."""
        if self._gathered.queued > MAX_GATHERED:
            raise CellError("body_too_large", "a body that does not stream has at most 8 MiB")

    async def _deliver(self, work: Work, send: Send) -> bool:
        await work()
        plain = bytearray()
        while self._gathered.queued:
            plain += self._gathered.take()
        if self._cell:
            plain = plain.ljust(ladder_rung(-(-len(plain) // self._cell)) * self._cell, b"\0")
        data = self._seal(bytes(plain))
        await self._start(send, whole=len(data))
        last = (len(data) - 1) // PORTION * PORTION
        for at in range(0, len(data), PORTION):
            await self._send_body(send, data[at : at + PORTION], more=at < last)
        return True
