"""The one batch that a log is writing: durable here before anything of it is published."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from .durable import replace_file
from .errors import Code, LogError, TransparencyError
from .statement import canonical, count, hex_text, parse_canonical, record
from .tiles import encode_bundle, parse_bundle

MAX_JOURNAL: Final = 512 * 1024 * 1024
_MAX_HEAD: Final = 1024
_VERSION: Final = 1


class Journal:
    """A file: one line of canonical JSON (size before, number of entries, SHA-256 of the size and the entries),
    then the entries as a bundle.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, size: int, entries: Sequence[bytes]) -> None:
        """Make a batch durable that goes on top of ``size`` leaves. Raises OSError, LogError."""
        body = encode_bundle(entries)
        head = {
            "v": _VERSION,
            "size": size,
            "count": len(entries),
            "sha256": _digest(size, body),
        }
        replace_file(self._path, canonical(head) + b"\n" + body, 0o600)

    def read(self) -> tuple[int, tuple[bytes, ...]] | None:
        """The size before the batch, and its entries; None where there is none.

        Raises LogError (LOG_CORRUPT): a journal is written as one step, so a broken one is no mere crash. Raises
        OSError.
        """
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_JOURNAL + 1)
        except FileNotFoundError:
            return None
        line, newline, body = data.partition(b"\n")
        try:
            head = record(parse_canonical(line, limit=_MAX_HEAD), "journal")
            size, number = count(head.get("size"), "size"), count(head.get("count"), "count")
            digest = hex_text(head.get("sha256"), 64, "sha256")
            entries = parse_bundle(body, number)
        except TransparencyError as error:
            raise self._corrupt() from error
        if not newline or head.get("v") != _VERSION or _digest(size, body) != digest:
            raise self._corrupt()
        return size, entries

    def forget(self) -> None:
        """Remove it, its batch being published.

        Not durably: should it come back after a power failure, its batch is seen to be published.
        """
        self._path.unlink(missing_ok=True)

    def _corrupt(self) -> LogError:
        return LogError(Code.LOG_CORRUPT, f"{self._path} is not a journal", stage="log")


def _digest(size: int, body: bytes) -> str:
    return hashlib.sha256(b"%d\n" % size + body).hexdigest()
