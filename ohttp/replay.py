"""Which requests were seen before: a bounded memory that never forgets inside its window.

A request is known by the first 16 bytes of SHA-256 over its encapsulated key. It may be up to ``window_s``
older or newer than the node's clock, so a memory of twice that outlives every date that could still pass.
"""

import math

from cryptography.hazmat.primitives.hashes import SHA256, Hash

from .errors import ReplayError

KEY_BYTES = 16

# Copied for each request: a digest from the libcrypto that does the rest, not from hashlib's, which would be cold.
_NOTHING_YET = Hash(SHA256())


def replay_key(enc: bytes) -> bytes:
    """What the request with this encapsulated key is known by."""
    digest = _NOTHING_YET.copy()
    digest.update(enc)
    return digest.finalize()[:KEY_BYTES]


class ReplayWindow:
    """Two generations of requests; refuses when full, because forgetting early would let one run twice.

    One event loop uses it; it has no lock. About 100 bytes an entry.
    """

    def __init__(self, window_s: float = 120.0, capacity: int = 500_000) -> None:
        if not (window_s > 0 and capacity > 0):
            raise ValueError("window and capacity must be positive")
        self._window = window_s
        self._capacity = capacity
        self._current: set[bytes] = set()
        self._previous: set[bytes] = set()
        self._current_latest = self._previous_latest = -math.inf
        # No date up to here passes any more, whatever the clock says: a clock set back must not reopen what
        # was forgotten.
        self._forgotten = -math.inf
        self._since = -math.inf

    def __len__(self) -> int:
        return len(self._current) + len(self._previous)

    def check_and_insert(self, key: bytes, date: float, now: float) -> None:
        """Remember the request ``key`` of ``date`` (both times POSIX seconds).

        Raises ReplayError: ``stale`` outside the window, ``replayed`` for a key seen before, ``full`` where
        there is no room.
        """
        if len(key) != KEY_BYTES:
            raise ValueError("a replay key has 16 bytes")
        if not now - self._since < 2 * self._window:
            self._turn(now)
        if not abs(now - date) <= self._window or date <= self._forgotten:
            raise ReplayError("stale", "the date of the request is outside the window")
        if key in self._current or key in self._previous:
            raise ReplayError("replayed", "this request was seen before")
        if len(self._current) + len(self._previous) >= self._capacity:
            raise ReplayError("full", "no more requests can be remembered now")
        self._current.add(key)
        if date > self._current_latest:
            self._current_latest = date

    def _turn(self, now: float) -> None:
        if self._since == -math.inf:
            self._since = now
        for _ in range(2):
            if now - self._since < 2 * self._window:
                return
            self._forgotten = max(self._forgotten, self._previous_latest)
            self._previous, self._previous_latest = self._current, self._current_latest
            self._current, self._current_latest = set(), -math.inf
            self._since += 2 * self._window
        if now - self._since >= 2 * self._window:
            self._since = now
