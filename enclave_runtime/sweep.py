"""Letting go of what an exchange leaves: objects that refer to each other in a circle hold its text until they are
collected, and Python collects them when it pleases.
"""

import asyncio
import gc

DELAY_S = 0.2
"""Seconds after the end of an exchange: its own frames are gone by then. Also the least time between two sweeps."""


class Sweep:
    """Collects such circles soon after an exchange ended. For one event loop."""

    def __init__(self) -> None:
        self._due = False

    def begin(self) -> None:
        """Leave what exists now out of all sweeps: it is the node itself, and looking through it takes long."""
        gc.collect()
        gc.freeze()

    def soon(self) -> None:
        """An exchange ended."""
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_later(DELAY_S, self._now)

    def _now(self) -> None:
        self._due = False
        gc.collect()
