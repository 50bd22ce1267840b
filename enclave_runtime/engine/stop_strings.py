"""Ending an answer at a stop string that may arrive in parts."""

from collections.abc import Sequence


class StopFilter:
    """Lets text through up to the first stop string, holding back what might still become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """The text that is safe to give out now, and whether a stop string was reached (it is left out)."""
        if not self._stops:
            return text, False
        held = self._held + text
        found = [place for place in (held.find(stop) for stop in self._stops) if place >= 0]
        if found:
            self._held = ""
            return held[: min(found)], True
        keep = self._undecided(held)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep], False

    def finish(self) -> str:
        """What was held back, now that nothing follows."""
        held, self._held = self._held, ""
        return held

    def _undecided(self, text: str) -> int:
        longest = max(len(stop) for stop in self._stops) - 1
        for length in range(min(longest, len(text)), 0, -1):
            tail = text[len(text) - length :]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0
