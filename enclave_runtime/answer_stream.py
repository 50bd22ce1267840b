"""A generation on its way out: gathered whole, or as server-sent events that fit the cells they travel in.

Where the gateway paces the response, it offers a clock (``cloister.cells`` in the ASGI scope's extensions).
Text that came since the last cell is then merged into one event that fits the next, so that neither the
length of a token nor the moment it was made decides what is sent. Without a clock, events go as the text
comes.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from enclave_runtime.openai_answers import AnswerShape, TokenLogprob, Usage, error_event
from enclave_runtime.openai_requests import RequestRefused

_TIGHT = 8
_SHORTEST_RUN = 64
_LONGEST_RUN = 4096

INTERNAL = RequestRefused(500, "internal_error", "The node could not complete the answer.")


class Piece(Protocol):
    """Some text of an answer; the last piece says why it ended."""

    @property
    def text(self) -> str: ...
    @property
    def token_count(self) -> int: ...
    @property
    def finish_reason(self) -> str | None: ...
    @property
    def logprobs(self) -> Sequence[TokenLogprob]: ...


class Generation(Protocol):
    """An answer being made. ``cancel`` may be called at any time, also after the end."""

    def pieces(self) -> AsyncIterator[Piece]: ...
    def cancel(self) -> None: ...


class CellClock(Protocol):
    """The gateway's pace: ``tick`` resolves once a cell with the bytes of whole events that it can carry."""

    async def tick(self) -> int: ...


class Answer:
    """One generation with what is counted about it.

    ``tokens`` is called with the number of tokens once, however it ends; ``ended`` with True where the
    answer was completed, with False where it failed.
    """

    def __init__(
        self, generation: Generation, shape: AnswerShape, prompt_tokens: int, *, logprobs: bool = False
    ) -> None:
        self._logprobs: list[TokenLogprob] | None = [] if logprobs else None
        self._generation = generation
        self._shape = shape
        self._prompt_tokens = prompt_tokens
        self.completion_tokens = 0
        self.finish_reason: str | None = None

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        return Usage(self._prompt_tokens, self.completion_tokens)

    async def whole(self) -> bytes:
        """The complete body. Raises what the engine raises; the generation is cancelled then, and on
        cancellation.
        """
        try:
            text = "".join([piece.text async for piece in self._counted()])
        finally:
            self._generation.cancel()
        return self._shape.whole(text, self.finish_reason or "stop", self.usage, self._logprobs)

    async def events(
        self, clock: CellClock | None, include_usage: bool, failed: Callable[[], None]
    ) -> AsyncIterator[bytes]:
        """The body as server-sent events. Where the engine fails after the start, an error event ends it."""
        arriving = _Arriving()
        reader = asyncio.create_task(self._read_into(arriving))
        merged = _Merged(self._shape)
        try:
            yield self._shape.opening()
            while True:
                room = await clock.tick() if clock is not None else None
                if room is None:
                    await arriving.changed()
                while event := merged.next_event(arriving, room):
                    yield event
                    if room is not None:
                        break
                if arriving.ended and not arriving.text:
                    break
            if arriving.failed is not None:
                failed()
                yield error_event(arriving.failed)
            else:
                usage = self.usage if include_usage else None
                yield self._shape.closing(self.finish_reason or "stop", usage)
        finally:
            reader.cancel()
            self._generation.cancel()

    async def _counted(self) -> AsyncIterator[Piece]:
        async for piece in self._generation.pieces():
            self.completion_tokens += piece.token_count
            self.finish_reason = piece.finish_reason or self.finish_reason
            if self._logprobs is not None:
                self._logprobs += piece.logprobs
            yield piece

    async def _read_into(self, arriving: "_Arriving") -> None:
        try:
            async for piece in self._counted():
                arriving.add(piece.text)
        except RequestRefused as refused:  # one of the closed list
            arriving.failed = refused
        except Exception:  # what the engine says of a failure stays inside
            arriving.failed = INTERNAL
        finally:
            arriving.end()


class _Arriving:
    """Text that has come and is not sent yet."""

    def __init__(self) -> None:
        self.text = ""
        self.ended = False
        self.failed: RequestRefused | None = None
        self._event = asyncio.Event()

    def add(self, text: str) -> None:
        self.text += text
        self._event.set()

    def end(self) -> None:
        self.ended = True
        self._event.set()

    async def changed(self) -> None:
        await self._event.wait()
        self._event.clear()

    def take(self, characters: int) -> str:
        taken, self.text = self.text[:characters], self.text[characters:]
        return taken


class _Merged:
    """Makes events of arriving text, each within the room a cell has."""

    def __init__(self, shape: AnswerShape) -> None:
        self._shape = shape
        self._overhead = len(shape.text(""))
        self._waited = False

    def next_event(self, arriving: _Arriving, room: int | None) -> bytes:
        if not arriving.text:
            return b""
        if room is None:
            return self._shape.text(arriving.take(_LONGEST_RUN))
        free = room - self._overhead
        if free < _TIGHT and not self._waited:
            self._waited = True  # the next cell may be emptier
            return b""
        self._waited = False
        # In cells too small for any event, an event of a fixed size runs over several of them.
        characters = _fitting(arriving.text, free) if free >= _TIGHT else _SHORTEST_RUN
        return self._shape.text(arriving.take(characters))


def _fitting(text: str, room: int) -> int:
    """How many characters of ``text`` take at most ``room`` bytes inside a JSON string; at least one."""
    used = 0
    for count, character in enumerate(text):
        used += len(json.dumps(character, ensure_ascii=False).encode()) - 2
        if used > room:
            return max(1, count)
    return len(text)
