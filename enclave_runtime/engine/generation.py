"""One answer on its way from the engine's thread to whoever asked for it.

The engine writes into a `Mailbox` and never waits for a reader: what a slow reader has not taken yet is
merged into one piece, so a mailbox holds at most one answer's text. A `Generation` is the reader's end.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

from enclave_runtime.engine.errors import EngineError


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token by its bytes with the natural logarithm of its probability, and the likeliest in its place."""

    token: bytes = field(repr=False)
    logprob: float
    top: tuple[tuple[bytes, float], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer.

    ``token_count`` is how many tokens were generated since the piece before (its text may be empty while
    characters are unfinished), ``logprobs`` theirs where they were asked for. ``finish_reason`` is None until the
    last piece, then ``stop`` (end token or stop string), ``length`` (max_tokens or context) or ``cancelled``.
    """

    text: str = field(repr=False)
    token_count: int
    finish_reason: str | None = None
    logprobs: tuple[TokenLogprob, ...] = field(default=(), repr=False)


class Mailbox:
    """The engine's end: thread-safe, never blocks, never raises."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._text: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._count = 0
        self._finish: str | None = None
        self._error: EngineError | None = None
        self._full = False
        self._wake: Callable[[], None] | None = None

    def put(
        self,
        text: str,
        token_count: int,
        finish_reason: str | None = None,
        logprobs: TokenLogprob | None = None,
    ) -> None:
        """Add to what waits for the reader."""
        self._deliver(text, token_count, finish_reason, None, logprobs)

    def fail(self, error: EngineError) -> None:
        """End the answer with ``error``; text not yet taken is dropped."""
        self._deliver("", 0, None, error)

    def take(self) -> Piece | None:
        """Everything that waits, as one piece; None if nothing does. Raises the error of a failed answer."""
        with self._lock:
            if self._error is not None:
                self._text.clear()
                self._logprobs.clear()
                raise self._error
            if not self._full:
                return None
            piece = Piece("".join(self._text), self._count, self._finish, tuple(self._logprobs))
            self._text.clear()
            self._logprobs.clear()
            self._count, self._full = 0, False
            return piece

    def subscribe(self, wake: Callable[[], None]) -> None:
        """Have ``wake`` called, from any thread, whenever something starts to wait."""
        with self._lock:
            self._wake = wake
            ready = self._full or self._error is not None
        if ready:
            wake()

    def _deliver(
        self,
        text: str,
        count: int,
        finish: str | None,
        error: EngineError | None,
        logprobs: TokenLogprob | None = None,
    ) -> None:
        with self._lock:
            if self._finish is not None or self._error is not None:
                return
            if text:
                self._text.append(text)
            if logprobs is not None:
                self._logprobs.append(logprobs)
            self._count += count
            self._finish, self._error = finish, error
            wake = None if self._full else self._wake
            self._full = True
        if wake is not None:
            wake()


class Generation:
    """An answer being made. Read it once, by `pieces` or by `collect`; dropping it cancels it.

    ``prompt_tokens`` and ``max_tokens`` are the counts as accepted (``max_tokens`` after clamping to the
    context).
    """

    def __init__(
        self, mailbox: Mailbox, cancel: Callable[[], None], *, prompt_tokens: int, max_tokens: int
    ) -> None:
        self._mailbox = mailbox
        self._cancel = cancel
        self._read = False
        self.prompt_tokens = prompt_tokens
        self.max_tokens = max_tokens

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """Iterate over the answer from any event loop. Closing the iterator early cancels the request.

        Raises `EngineFault` or `EngineStopped` if the answer cannot be finished.
        """
        self._claim()
        loop, ready = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            try:
                loop.call_soon_threadsafe(ready.set)
            except RuntimeError:  # the loop is closed: nobody reads any more
                self._cancel()

        self._mailbox.subscribe(wake)
        try:
            while True:
                await ready.wait()
                ready.clear()
                piece = self._mailbox.take()
                if piece is None:
                    continue
                yield piece
                if piece.finish_reason is not None:
                    return
        finally:
            self._cancel()

    def collect(self, timeout: float | None = None) -> Piece:
        """Wait for the whole answer and return it as one piece. For threads without an event loop.

        Raises TimeoutError (after cancelling) when ``timeout`` seconds pass without news.
        """
        self._claim()
        ready = threading.Event()
        self._mailbox.subscribe(ready.set)
        text, count = [], 0
        logprobs: list[TokenLogprob] = []
        try:
            while True:
                if not ready.wait(timeout):
                    raise TimeoutError
                ready.clear()
                piece = self._mailbox.take()
                if piece is None:
                    continue
                text.append(piece.text)
                count += piece.token_count
                logprobs += piece.logprobs
                if piece.finish_reason is not None:
                    return Piece("".join(text), count, piece.finish_reason, tuple(logprobs))
        finally:
            self._cancel()

    def cancel(self) -> None:
        """Stop making this answer. Its memory is cleared before the engine's next step; safe at any time."""
        self._cancel()

    def __del__(self) -> None:
        self._cancel()

    def _claim(self) -> None:
        if self._read:
            raise EngineError("an answer can be read once", code="already_read")
        self._read = True
