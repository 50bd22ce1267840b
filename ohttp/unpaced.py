"""Answers without a beat: sent when something was written, in equal cells (``bucket``) or as it comes (``off``);
or whole, where the request was.
"""

from collections.abc import Callable

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
        self._padded = profile.name != "off"
        self.stream = CellStream(profile) if self._padded else UnpaddedStream()
        self._sealer = sealer
        self._complete = False
        self._started = False
        self._send: Send | None = None

    async def written(self) -> None:
        """Sends what is there; returns when the network has taken it."""
        if self._send is None:
            raise RuntimeError("written before it is delivered")
        while not self._complete and self._waits():
            data = self._portion()
            if not self._started:
                self._started = True
                await self._start(self._send, whole=len(data) if self._complete else None)
            await self._send_body(self._send, data, more=not self._complete)

    async def _deliver(self, work: Work, send: Send) -> bool:
        self._send = send
        await work()
        return self._complete

    def _waits(self) -> bool:
        return self.stream.queued > 0 or (self._padded and self.stream.ended)

    def _portion(self) -> bytes:
        """What waits, in chunks joined: few writes, each of which a slow reader can take in time.

        ``_complete`` once the final chunk is among them.
        """
        sealer = self._sealer
        portion = [] if self._started else [sealer.prologue()]
        size = 0
        while size < PORTION and not self._complete and self._waits():
            data, self._complete = self._chunk()
            portion.append(sealer.seal_final(data) if self._complete else sealer.seal(data))
            size += len(data)
        return b"".join(portion)

    def _chunk(self) -> tuple[bytes, bool]:
        """The next chunk's plaintext, and whether it is the last."""
        stream = self.stream
        if isinstance(stream, CellStream):
            cell = stream.next_cell()
            return cell.data, cell.last
        data = stream.take()
        return data, stream.ended and not stream.queued and not stream.aborted


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
