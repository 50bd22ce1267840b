"""A witness's memory in one SQLite file: compare and swap per log, and the forks it was shown."""

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .errors import Code, LogError

SCHEMA: Final = 1
MAX_UNPROVED: Final = 64
"""Per log: what merely failed to join is easy to submit again and again, so only the newest of it is kept."""

_WAIT_S: Final = 10.0
_STAGE: Final = "witness"
_TABLES: Final = """
CREATE TABLE latest (origin TEXT PRIMARY KEY, note BLOB NOT NULL) STRICT;
CREATE TABLE forks (
  number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, origin TEXT NOT NULL,
  held BLOB NOT NULL, submitted BLOB NOT NULL, proof BLOB NOT NULL, proved INTEGER NOT NULL
) STRICT;
"""


@dataclass(frozen=True, slots=True)
class KeptFork:
    """Two signed notes of one log, the path (base64 lines) that came with the second, and whether these three
    prove by themselves that the log signed two histories.
    """

    origin: str
    held: bytes
    submitted: bytes
    proof: bytes
    proved: bool


class WitnessDatabase:
    """A ``WitnessStore`` that several threads and processes may share.

    Every answer is durable before it is given (synchronous=EXTRA: the rollback journal's folder entry too).
    Raises LogError (LOG_UNREADABLE) where the file cannot be used, never a forgetful default.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._open() as database:
            database.execute("BEGIN IMMEDIATE")
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                for statement in _TABLES.split(";"):
                    database.execute(statement)
                database.execute(f"PRAGMA user_version = {SCHEMA}")
            database.execute("COMMIT")
            if version not in (0, SCHEMA):
                raise self._broken(f"schema {version} is not one that this version knows")

    def load(self, origin: str) -> bytes | None:
        """See WitnessStore."""
        with self._open() as database:
            row = database.execute("SELECT note FROM latest WHERE origin = ?", (origin,)).fetchone()
        return None if row is None else bytes(row[0])

    def replace(self, origin: str, old: bytes | None, new: bytes) -> bool:
        """See WitnessStore: one transaction, which no other can come between."""
        with self._open() as database:
            database.execute("BEGIN IMMEDIATE")
            if old is None:
                done = database.execute(
                    "INSERT INTO latest (origin, note) VALUES (?, ?) ON CONFLICT DO NOTHING", (origin, new)
                )
            else:
                done = database.execute(
                    "UPDATE latest SET note = ? WHERE origin = ? AND note = ?", (new, origin, old)
                )
            database.execute("COMMIT")
            return done.rowcount == 1

    def keep_fork(self, origin: str, notes: tuple[bytes, bytes], proof: bytes, proved: bool) -> None:
        """See WitnessStore; kept once, however often it is submitted."""
        held, submitted = notes
        # The held note carries our own, ever newer cosignature: texts tell whether this is the same fork.
        texts = (held.partition(b"\n\n")[0], submitted.partition(b"\n\n")[0])
        identity = hashlib.sha256(b"\0".join((*texts, b"proved" if proved else b""))).hexdigest()
        with self._open() as database:
            database.execute("BEGIN IMMEDIATE")
            database.execute(
                "INSERT INTO forks (id, origin, held, submitted, proof, proved) VALUES (?, ?, ?, ?, ?, ?)"
                " ON CONFLICT DO NOTHING",
                (identity, origin, held, submitted, proof, int(proved)),
            )
            database.execute(
                "DELETE FROM forks WHERE proved = 0 AND origin = ? AND number <= "
                "(SELECT MAX(number) FROM forks WHERE proved = 0 AND origin = ?) - ?",
                (origin, origin, MAX_UNPROVED),
            )
            database.execute("COMMIT")

    def forks(self) -> tuple[KeptFork, ...]:
        """Everything kept, oldest first."""
        with self._open() as database:
            rows = database.execute(
                "SELECT origin, held, submitted, proof, proved FROM forks ORDER BY number"
            ).fetchall()
        return tuple(KeptFork(row[0], row[1], row[2], row[3], bool(row[4])) for row in rows)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            database = sqlite3.connect(self._path, timeout=_WAIT_S, isolation_level=None)
            try:
                database.execute("PRAGMA synchronous = EXTRA")
                yield database
            finally:
                database.close()
        except sqlite3.Error as error:
            raise self._broken(str(error)) from error

    def _broken(self, why: str) -> LogError:
        return LogError(Code.LOG_UNREADABLE, f"witness state {self._path}: {why}", stage=_STAGE)
