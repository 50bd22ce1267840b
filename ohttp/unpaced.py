"""Answers without a beat: sent when something was written, in equal cells (``bucket``) or as it comes (``off``);
or whole, where the request was.
"""

from collections.abc import Callable

from .answer import Answer, Work
from .cells import MAX_GATHERED, CellError, CellStream, UnpaddedStream
from .chunked import ResponseSealer
from .encapsulation import MEDIA_TYPE_RESPONSE
from .padding import CellProfile, ladder_rung

PORTION = 64 * 1024
"""Bytes of one write, and a chunk more at most."""


class UnpacedAnswer(Answer):
    """The application itself sends, each time it writes; the head goes with what is written first."""

    def __init__(self, profile: CellProfile, sealer: ResponseSealer) -> None:
        super().__init__()
        self.stream = UnpaddedStream() if profile.name == "off" else CellStream(profile)
        self._sealer = sealer
        self._prologue = sealer.prologue()
        self._complete = self._started = False

    async def written(self) -> None:
        """Sends what is there; returns when the network has taken it."""
        while data := self._portion():
            if not self._started:
                self._started = True
                await self._start(whole=len(data) if self._complete else None)
            await self._send_body(data, more=not self._complete)

    async def _deliver(self, work: Work) -> bool:
        await work()
        return self._complete

    def _portion(self) -> bytes:
        """What waits, in chunks joined: few writes, each of which a slow reader can take in time.

        ``_complete`` once the final chunk is among them.
        """
        sealer, next_chunk = self._sealer, self.stream.next_chunk
        portion: list[bytes] = []
        size = 0
        while size < PORTION and not self._complete and (chunk := next_chunk()) is not None:
            data, self._complete = chunk
            portion.append(sealer.seal_final(data) if self._complete else sealer.seal(data))
            size += len(data)
        if not portion:
            return b""
        prologue, self._prologue = self._prologue, b""
        return prologue + b"".join(portion)


class WholeAnswer(Answer):
    """For a request that was not in chunks: the answer is gathered, padded to the ladder, and sealed once."""

    media_type = MEDIA_TYPE_RESPONSE.encode()

    def __init__(self, profile: CellProfile, seal: Callable[[bytes], bytes]) -> None:
        super().__init__()
        self.stream = self._gathered = UnpaddedStream()
        self._cell = 0 if profile.name == "off" else profile.cell_bytes
        self._seal = seal

    async def written(self) -> None:
        """Nothing leaves yet. Raises CellError (``body_too_large``) for the application that writes on and on."""
        if self._gathered.queued > MAX_GATHERED:
            raise CellError("body_too_large", "a body that does not stream has at most 8 MiB")

    async def _deliver(self, work: Work) -> bool:
        await work()
        plain = bytearray()
        while (chunk := self._gathered.next_chunk()) is not None:
            plain += chunk[0]
        if self._cell:
            plain = plain.ljust(ladder_rung(-(-len(plain) // self._cell)) * self._cell, b"\0")
        data = self._seal(bytes(plain))
        await self._start(whole=len(data))
        last = (len(data) - 1) // PORTION * PORTION
        for at in range(0, len(data), PORTION):
            await self._send_body(data[at : at + PORTION], more=at < last)
        return True
