"""Whether anybody still reads: who left before the end of an answer, or stopped taking it, is not answered on.

One timer serves all answers of an event loop, and one that is there at once, as most that do not stream, is over before
anybody looks.
"""

import asyncio
from typing import Protocol

from .cutoff import Cutoff

_LOOK_AFTER_S = 0.02
_LOOK_EVERY_S = 1.0


class Watched(Protocol):
    """An answer that somebody may have stopped reading.

    ``waiting_since``: when the write began that the reader has not taken yet, in the loop's time; None where there is
    none. ``cutoff``: ends the answer.
    """

    waiting_since: float | None
    cutoff: Cutoff

    def listen(self) -> None:
        """From now on, notice the reader who leaves."""


class Readers:
    """Watches over the readers of all answers of one event loop.

    ``stall_s``: how long one may leave a write untaken.
    """

    def __init__(self, stall_s: float) -> None:
        self._stall = stall_s
        self._new: set[Watched] = set()
        self._known: set[Watched] = set()
        self._first_look: asyncio.TimerHandle | None = None
        self._next_look: asyncio.TimerHandle | None = None

    def watch(self, answer: Watched) -> None:
        """Look after its reader until ``forget``."""
        self._new.add(answer)
        if self._first_look is None:
            loop = asyncio.get_running_loop()
            self._first_look = loop.call_later(_LOOK_AFTER_S, self._look_at_the_new)

    def forget(self, answer: Watched) -> None:
        """It is over."""
        self._new.discard(answer)
        self._known.discard(answer)

    def _look_at_the_new(self) -> None:
        self._first_look = None
        new, self._new = self._new, set()
        self._known |= new
        for answer in new:
            answer.listen()
        if self._known and self._next_look is None:
            self._look()

    def _look(self) -> None:
        self._next_look = None
        if not self._known:
            return
        loop = asyncio.get_running_loop()
        latest = loop.time() - self._stall
        for answer in tuple(self._known):
            if answer.waiting_since is not None and answer.waiting_since < latest:
                answer.cutoff.cut()
        self._next_look = loop.call_later(min(self._stall / 4, _LOOK_EVERY_S), self._look)
