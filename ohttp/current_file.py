"""A file that somebody else replaces while a program runs: what it says now, read once for each version of it."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")


class CurrentFile(Generic[T]):
    """``parse`` of the file's bytes, read again whenever it was replaced or written.

    ``most``: bytes that it may have.
    """

    def __init__(self, path: Path, parse: Callable[[bytes], T], *, most: int) -> None:
        self._path = path
        self._parse = parse
        self._most = most
        self._kept: tuple[tuple[int, int, int], T] | None = None

    def current(self) -> T:
        """What the file says. Raises OSError where it cannot be read or is too long, and what ``parse`` raises."""
        found = self._path.stat()
        mark = found.st_ino, found.st_mtime_ns, found.st_size
        if self._kept is None or self._kept[0] != mark:
            if found.st_size > self._most:
                raise OSError(errno.EFBIG, f"longer than {self._most} bytes", str(self._path))
            self._kept = mark, self._parse(self._path.read_bytes())
        return self._kept[1]
