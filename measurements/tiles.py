"""Tiles and entry bundles of a log (c2sp.org/tlog-tiles): their names, their bytes, and proofs read from
them.

A tile holds up to 256 hashes, an entry bundle up to 256 entries with 16-bit lengths. Nothing read here is
trusted until a proof made of it leads to a signed root.
"""

import re
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from .dsse import MAX_LEAF
from .errors import Code, LogError
from .merkle import complete_root, leaf_hash

WIDTH: Final = 256
HASH: Final = 32
MAX_BUNDLE: Final = WIDTH * (2 + MAX_LEAF)
MAX_LEVEL: Final = 63
_LEVELS: Final = 8
_TILE_PATH: Final = re.compile(
    r"tile/(?P<level>entries|[0-9]{1,2})/(?P<index>(?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/(?P<width>[0-9]{1,3}))?",
    re.ASCII,
)

ReadFile = Callable[[str], bytes]
"""Gives a resource of the log by its path; raises FileNotFoundError where there is none."""


def tile_path(level: int | None, index: int, width: int = WIDTH) -> str:
    """``tile/<L>/<N>[.p/<W>]``; level None names an entry bundle."""
    groups = [index % 1000]
    while index := index // 1000:
        groups.append(index % 1000)
    number = "/".join(f"x{group:03d}" if place else f"{group:03d}" for place, group in _places(groups))
    partial = "" if width == WIDTH else f".p/{width}"
    return f"tile/{'entries' if level is None else level}/{number}{partial}"


def parse_tile_path(path: str) -> tuple[int | None, int, int] | None:
    """(level, index, width) of a path in the one spelling that ``tile_path`` gives it; None for any other."""
    match = _TILE_PATH.fullmatch(path)
    if match is None:
        return None
    level = None if match["level"] == "entries" else int(match["level"])
    index = int(re.sub("[x/]", "", match["index"]))
    width = int(match["width"] or WIDTH)
    if (level is not None and level > MAX_LEVEL) or not 1 <= width <= WIDTH:
        return None
    return (level, index, width) if tile_path(level, index, width) == path else None


def tile_width(level: int, index: int, size: int) -> int:
    """How many hashes tile ``index`` of ``level`` holds in a tree of ``size`` leaves: 0 to 256."""
    return max(0, min(WIDTH, (size >> (_LEVELS * level)) - index * WIDTH))


def changed_tiles(old_size: int, new_size: int) -> Iterator[tuple[int, int, int]]:
    """(level, index, width) of every tile that growing from ``old_size`` to ``new_size`` adds, level 0
    first.
    """
    level = 0
    while new_size >> (_LEVELS * level):
        before, after = old_size >> (_LEVELS * level), new_size >> (_LEVELS * level)
        if before != after:
            for index in range(before // WIDTH, (after - 1) // WIDTH + 1):
                yield level, index, tile_width(level, index, new_size)
        level += 1


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """An entry bundle. Raises LogError (LIMIT_EXCEEDED) for an entry beyond 65,535 bytes."""
    if any(len(entry) > MAX_LEAF for entry in entries):
        raise LogError(Code.LIMIT_EXCEEDED, "entry", stage="tiles", expected=f"≤ {MAX_LEAF} B")
    return b"".join(struct.pack(">H", len(entry)) + entry for entry in entries)


def parse_bundle(data: bytes, width: int) -> tuple[bytes, ...]:
    """The ``width`` entries of a bundle, no more and no less. Raises LogError (LOG_CORRUPT)."""
    entries: list[bytes] = []
    at = 0
    while at < len(data) and len(entries) < width:
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if at + 2 > len(data) or end > len(data):
            raise _corrupt("an entry bundle is cut")
        entries.append(data[at + 2 : end])
        at = end
    if at != len(data) or len(entries) != width:
        raise _corrupt("an entry bundle has another number of entries")
    return tuple(entries)


class TileReader:
    """Hashes and entries of a tree of ``size`` leaves, through a function that reads the log's files."""

    def __init__(self, read: ReadFile, size: int) -> None:
        self._read = read
        self._size = size
        self._tiles: dict[tuple[int, int], bytes] = {}

    def node(self, level: int, index: int) -> bytes:
        """The hash of complete subtree ``index`` of ``level``, as ``merkle`` asks for it. Raises LogError."""
        tile_level, height = divmod(level, _LEVELS)
        first = index << height
        tile, offset = divmod(first, WIDTH)
        hashes = self.tile(tile_level, tile)
        count = 1 << height
        if (offset + count) * HASH > len(hashes):
            raise _corrupt("a hash lies outside the tree")
        leaves = [hashes[(offset + i) * HASH : (offset + i + 1) * HASH] for i in range(count)]
        return complete_root(leaves)

    def tile_root(self, level: int, index: int) -> bytes:
        """The hash of a full tile: one hash of the level above. Raises LogError."""
        hashes = self.tile(level, index)
        if len(hashes) != WIDTH * HASH:
            raise _corrupt("a partial tile is not hashed into the level above")
        return complete_root([hashes[at : at + HASH] for at in range(0, len(hashes), HASH)])

    def tile(self, level: int, index: int) -> bytes:
        """A tile's bytes, of the width that the tree's size demands. Raises LogError."""
        key = (level, index)
        if key not in self._tiles:
            width = tile_width(level, index, self._size)
            data, served = self._fetch(level, index, width)
            if len(data) != served * HASH:
                raise _corrupt(f"{tile_path(level, index, served)} is not {served} hashes long")
            self._tiles[key] = data[: width * HASH]
        return self._tiles[key]

    def bundle(self, index: int) -> tuple[bytes, ...]:
        """The entries of bundle ``index``, each checked against its leaf hash. Raises LogError."""
        entries = self.raw_bundle(index)
        hashes = self.tile(0, index)
        for place, entry in enumerate(entries):
            if leaf_hash(entry) != hashes[place * HASH : (place + 1) * HASH]:
                raise _corrupt(f"entry {index * WIDTH + place} is not what was hashed")
        return entries

    def raw_bundle(self, index: int) -> tuple[bytes, ...]:
        """The entries of bundle ``index``, not checked against anything. Raises LogError."""
        width = tile_width(0, index, self._size)
        if width == 0:
            raise _corrupt("an entry bundle outside the tree")
        data, served = self._fetch(None, index, width)
        return parse_bundle(data, served)[:width]

    def entries(self) -> Iterator[bytes]:
        """Every entry, in order. Raises LogError."""
        for index in range((self._size + WIDTH - 1) // WIDTH):
            yield from self.bundle(index)

    def _fetch(self, level: int | None, index: int, width: int) -> tuple[bytes, int]:
        """A resource and the width that it was served with: a partial one may be gone once the full one exists."""
        if width == 0:
            raise _corrupt("a tile outside the tree")
        for served in dict.fromkeys((width, WIDTH)):
            try:
                return self._read(tile_path(level, index, served)), served
            except FileNotFoundError:
                continue
        raise _corrupt(f"{tile_path(level, index, width)} is missing")


def _places(groups: list[int]) -> Iterator[tuple[int, int]]:
    for place in range(len(groups) - 1, -1, -1):
        yield place, groups[place]


def _corrupt(why: str) -> LogError:
    return LogError(Code.LOG_CORRUPT, why, stage="tiles")
