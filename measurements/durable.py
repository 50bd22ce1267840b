"""Files that are there, whole and on the disk, when a call returns."""

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_AT_ONCE: Final = 8


def replace_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write ``data`` to ``path`` as one step: new file, fsync, rename, fsync of the folder.

    Raises OSError.
    """
    _write(path, data, mode)
    _temporary(path).replace(path)
    sync_folder(path.parent)


def add_files(files: Mapping[Path, bytes], mode: int = 0o644) -> None:
    """Write several new files; each is whole or absent, in no order, and all are durable on return.

    The disk is asked to make them durable together, which costs little more than one. Raises OSError.
    """
    for path in files:
        make_folder(path.parent)
    _each(lambda path: _write(path, files[path], mode), files)
    for path in files:
        _temporary(path).replace(path)
    _each(sync_folder, {path.parent for path in files})


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold ``path`` against other processes that do the same, by a lock file beside it. Raises OSError."""
    lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def sync_folder(folder: Path) -> None:
    """Make the folder's entries durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, mode: int = 0o755) -> None:
    """Make ``folder`` and the ones above it, durably. Raises OSError."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(mode=mode, exist_ok=True)
        sync_folder(path.parent)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


def _write(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(_temporary(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _each(work: Callable[[Path], None], paths: Iterable[Path]) -> None:
    listed = list(paths)
    if len(listed) < 2:
        for path in listed:
            work(path)
        return
    # A client that remembers what it saw writes one file at a time: it need not load this.
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=min(_AT_ONCE, len(listed))) as pool:
        for _ in pool.map(work, listed):
            pass
