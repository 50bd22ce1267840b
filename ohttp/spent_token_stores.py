"""Memories of spent tokens that outlive a process: SQLite for one gateway, Redis for several.

Whoever keeps them can at worst let a token count again, which costs the operator who sold it, and no user.
"""

import asyncio
import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Any

from .errors import TokenError
from .private_token import Token
from .spent_tokens import already_spent, mark_of


class SqliteSpentTokens:
    """In a file that only its owner reads, committed to the disk before a token counts. For one process."""

    def __init__(self, path: Path) -> None:
        """Raises TokenError (``store``)."""
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS spent (mark BLOB PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID"
            )
            self._database.execute("CREATE INDEX IF NOT EXISTS spent_until ON spent (until)")
        except (OSError, sqlite3.Error):
            raise TokenError("store", "the file of spent tokens cannot be used") from None
        self._writing = asyncio.Lock()

    async def spend(self, token: Token, until: int, now: float) -> None:
        """See SpentTokens."""
        async with self._writing:
            try:
                await asyncio.to_thread(self._insert, mark_of(token), until, now)
            except sqlite3.IntegrityError:
                raise already_spent() from None
            except sqlite3.Error:
                raise TokenError("store", "a spent token cannot be remembered now") from None

    def _insert(self, mark: bytes, until: int, now: float) -> None:
        self._database.execute("DELETE FROM spent WHERE until <= ?", (int(now),))
        self._database.execute("INSERT INTO spent VALUES (?, ?)", (mark, until))

    def close(self) -> None:
        """Close the file."""
        self._database.close()


class RedisSpentTokens:
    """In a Redis server, shared by several gateways; needs the package ``redis``.

    The server must not evict (``maxmemory-policy noeviction``, its default) and should append to a file, else a token
    counts again after its restart.
    """

    def __init__(self, url: str, *, prefix: str = "cloister:spent:", timeout_s: float = 2.0) -> None:
        """``url``: redis://, rediss:// or unix://. Raises ModuleNotFoundError without the package."""
        from redis.asyncio import Redis

        self._redis: Any = Redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s)
        self._prefix = prefix.encode()

    async def spend(self, token: Token, until: int, now: float) -> None:
        """See SpentTokens. The server's clock decides when it forgets; a day is added against one that is fast."""
        from redis.exceptions import RedisError

        try:
            added = await self._redis.set(self._prefix + mark_of(token), b"", nx=True, exat=until + 86_400)
        except (RedisError, OSError):
            raise TokenError("store", "the memory of spent tokens does not answer") from None
        if not added:
            raise already_spent()

    async def aclose(self) -> None:
        """Close the connections."""
        with contextlib.suppress(OSError):
            await self._redis.aclose()
