"""cpio archives of the form ``newc``, as the kernel unpacks them into its first file system.

Linux ``Documentation/driver-api/early-userspace/buffer-format.rst``. Owner 0, time 0, inode numbers in order;
archives may follow one another, each padded to 4 bytes, and later files replace earlier ones.
"""

import stat
from collections.abc import Iterable
from dataclasses import dataclass

from images.errors import VolumeError

_TRAILER = "TRAILER!!!"
_MAX_SIZE = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class CpioEntry:
    """One entry; ``mode`` has the file type's bits, ``data`` a file's content or a link's target."""

    path: str
    mode: int
    data: bytes = b""


def encode(entries: Iterable[CpioEntry]) -> bytes:
    """The archive of ``entries`` in the order of their paths' bytes, with every folder above them."""
    given = {entry.path: entry for entry in entries}
    for path in list(given):
        parts = path.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            folder = "/".join(parts[:depth])
            given.setdefault(folder, CpioEntry(folder, stat.S_IFDIR | 0o755))
    archive = bytearray()
    ordered = sorted(given.values(), key=lambda entry: entry.path.encode())
    for number, entry in enumerate(ordered, 1):
        archive += _record(number, entry)
    archive += _record(0, CpioEntry(_TRAILER, 0))
    return bytes(archive)


def _record(number: int, entry: CpioEntry) -> bytes:
    name = entry.path.encode() + b"\0"
    if len(entry.data) > _MAX_SIZE:
        raise VolumeError("cpio_size", "a file has at most 4 GiB", path=entry.path)
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    numbers = (number, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(f"{value:08X}".encode() for value in numbers)
    return _padded(head + name) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
