"""How long each step of a boot took. All of it lies before the first request, so it tells of none."""

import time
from collections.abc import Callable


class BootClock:
    """Seconds between one :meth:`mark` and the next, by the step that ended there. ``clock`` only rises."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()
        self.seconds: dict[str, float] = {}

    def mark(self, step: str) -> None:
        """The step ``step`` ends now."""
        now = self._clock()
        self.seconds[step] = round(now - self._last, 4)
        self._last = now
