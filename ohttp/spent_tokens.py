"""Which tokens were spent: remembered at least until their key's time is over, or the token is refused.

The memory here is private to a process and forgets with it: a sealed node, which writes no file and makes no
connection, has this one. Those in ``spent_token_stores`` outlive a restart, or are shared. What is kept is a hash of
key id and nonce, and the issuer has never seen the nonce: nothing in here leads to a user.
"""

import hashlib
from typing import Protocol

from .errors import TokenError
from .private_token import Token

MARK_BYTES = 16


class SpentTokens(Protocol):
    """A memory of spent tokens."""

    async def spend(self, token: Token, until: int, now: float) -> None:
        """Remember ``token`` until ``until``, when its key ends (POSIX seconds, as ``now``).

        Raises TokenError ``spent`` where it was remembered before, ``full`` or ``store`` where it cannot be: then it
        must not count.
        """
        ...


class MemorySpentTokens:
    """In private memory, by key; for one event loop. About 100 bytes a token, ``capacity`` tokens at most."""

    def __init__(self, capacity: int = 1_000_000) -> None:
        self._capacity = capacity
        self._by_key: dict[bytes, tuple[int, set[bytes]]] = {}

    def __len__(self) -> int:
        return sum(len(marks) for _, marks in self._by_key.values())

    async def spend(self, token: Token, until: int, now: float) -> None:
        """See SpentTokens."""
        self._by_key = {key: kept for key, kept in self._by_key.items() if now < kept[0]}
        _, marks = self._by_key.setdefault(token.key_id, (until, set()))
        mark = mark_of(token)
        if mark in marks:
            raise already_spent()
        if len(self) >= self._capacity:
            raise TokenError("full", "no more spent tokens can be remembered now")
        marks.add(mark)


def mark_of(token: Token) -> bytes:
    """What is remembered of a token: 16 bytes of SHA-256 over key id and nonce."""
    return hashlib.sha256(token.key_id + token.nonce).digest()[:MARK_BYTES]


def already_spent() -> TokenError:
    """The refusal of a token that was remembered."""
    return TokenError("spent", "this token was spent before")
