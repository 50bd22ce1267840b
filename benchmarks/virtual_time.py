"""An event loop whose clock jumps: waiting takes no time, and every moment is exact.

For programs without threads and sockets. What is measured in it has no noise of the machine in it, so an observer
who learns nothing here learns nothing from times on a real wire either.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """``time()`` starts at 0 and moves only when nothing is left to do at the present moment."""

    def __init__(self) -> None:
        self._moment = 0.0
        super().__init__(_Jumping(self))

    def time(self) -> float:
        """Seconds of virtual time."""
        return self._moment

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._moment += seconds


class _Jumping(selectors.SelectSelector):
    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("everything waits, and nothing will happen")
            self._loop.advance(max(0.0, timeout))
        return ready


def run(work: Coroutine[Any, Any, _Result]) -> _Result:
    """``asyncio.run`` in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)
