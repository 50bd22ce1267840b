"""The file of a staple, and when it has to be handed to a machine again."""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path

from images.errors import MachineError

MAX_BYTES = 1 << 20
AGAIN_S = 65.0
"""A node takes no two staples within a minute, so one that comes so soon after another is handed over twice."""


@dataclass(slots=True)
class StapleFile:
    """A staple's file, which somebody replaces now and then."""

    path: Path
    _seen: tuple[int, int, int] | None = field(default=None, init=False)
    _handed_over: float = field(default=-math.inf, init=False)
    _again: float = field(default=math.inf, init=False)

    def read(self) -> bytes:
        """What it holds now. Raises MachineError (``staple_unreadable``, ``staple_too_large``)."""
        try:
            with self.path.open("rb") as file:
                self._seen = _state(os.fstat(file.fileno()))
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            reason = error.strerror or "it cannot be read"
            raise MachineError("staple_unreadable", f"the staple: {reason}", path=str(self.path)) from error
        if len(data) > MAX_BYTES:
            detail = f"a staple has at most {MAX_BYTES:,} bytes"
            raise MachineError("staple_too_large", detail, path=str(self.path))
        return data

    def due(self, now: float) -> bool:
        """Whether to hand it over at ``now``, seconds of a clock that never goes back.

        It is due when it is another than was read last; and once more later, where it followed another so closely
        that the node may not have taken it.
        """
        try:
            state = _state(self.path.stat())
        except OSError:
            return False
        if state != self._seen:
            self._again = now + AGAIN_S if now - self._handed_over < AGAIN_S else math.inf
        elif now >= self._again:
            self._again = math.inf
        else:
            return False
        self._seen, self._handed_over = state, now
        return True


def _state(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_mtime_ns, found.st_size, found.st_ino
