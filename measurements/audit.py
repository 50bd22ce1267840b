"""Replaying a log: every entry is read and hashed, every tile rebuilt, and all of it leads to the signed root.

A replay can stop at one checkpoint and go on at the next: what it carries are the complete subtrees of what it has
seen, so that a log which changes its past cannot be continued.
"""

import hashlib
from collections.abc import Callable

from .checkpoint import Checkpoint
from .errors import Code, LogError
from .merkle import TreeFold, complete_root, root_hash
from .tiles import WIDTH, ReadFile, TileReader, changed_tiles, tile_path, tile_width

OnEntry = Callable[[int, bytes], None]
"""Called with index and entry, in order, *before* the root is known to be right: keep nothing of a failed replay."""


def replay(read: ReadFile, checkpoint: Checkpoint, seen: TreeFold, entry: OnEntry) -> TreeFold:
    """Read what ``checkpoint``, whose signature the caller has verified, adds to ``seen``.

    Returns the tree at the checkpoint. Raises LogError: LOG_CORRUPT where a file is missing or wrong,
    CONSISTENCY_INVALID where the log does not contain what was seen of it.
    """
    if checkpoint.size < seen.size:
        raise LogError(
            Code.CONSISTENCY_INVALID,
            "the log is smaller than what was seen of it",
            stage="audit",
            expected=f"≥ {seen.size}",
            found=checkpoint.size,
        )
    reader = TileReader(read, checkpoint.size)
    whole = seen.size // WIDTH
    tree = TreeFold(whole * WIDTH, seen.nodes[: whole.bit_count()])
    _enough(tree, seen)
    sha256 = hashlib.sha256
    roots: dict[int, bytes] = {}
    for index in range(whole, (checkpoint.size + WIDTH - 1) // WIDTH):
        width = tile_width(0, index, checkpoint.size)
        entries = reader.raw_bundle(index)
        hashes = [sha256(b"\x00" + one).digest() for one in entries]
        if reader.tile(0, index) != b"".join(hashes):
            raise _corrupt(f"{tile_path(None, index, width)} is not what {tile_path(0, index, width)} hashes")
        first = index * WIDTH
        if width == WIDTH and first >= seen.size:
            roots[index] = complete_root(hashes)
            tree.add_complete(roots[index], WIDTH)
        else:
            for value in hashes:
                tree.add(value)
                _enough(tree, seen)
        for place, one in enumerate(entries):
            if first + place >= seen.size:
                entry(first + place, one)
    _check_tiles(reader, seen.size, checkpoint, roots)
    if tree.root() != checkpoint.root:
        raise _corrupt("the entries do not lead to the signed root")
    return tree


def audit(read: ReadFile, checkpoint: Checkpoint) -> tuple[bytes, ...]:
    """Every entry of a log, the whole of it replayed. Raises LogError (LOG_CORRUPT) at the first difference."""
    entries: list[bytes] = []
    replay(read, checkpoint, TreeFold(), lambda _, one: entries.append(one))
    return tuple(entries)


def _check_tiles(reader: TileReader, old_size: int, checkpoint: Checkpoint, roots: dict[int, bytes]) -> None:
    """Upper tiles: each new hash is that of the tile below it.

    Hashes that were there before are bound too: those of a full tile by its parent's new hash, those of the
    rightmost tiles by the root, which is computed from the tiles alone.
    """
    for level, index, width in changed_tiles(old_size, checkpoint.size):
        held = tile_width(level, index, old_size)
        if level == 0 or held == width:
            continue
        # ``roots`` are those of level 0, which were computed from the entries.
        below = b"".join(
            (roots.get(child) if level == 1 else None) or reader.tile_root(level - 1, child)
            for child in range(index * WIDTH + held, index * WIDTH + width)
        )
        if reader.tile(level, index)[held * 32 :] != below:
            raise _corrupt(f"{tile_path(level, index, width)} is not the hash of the tiles below")
    if root_hash(checkpoint.size, reader.node) != checkpoint.root:
        raise _corrupt("the tiles do not lead to the signed root")


def _enough(tree: TreeFold, seen: TreeFold) -> None:
    if tree.size == seen.size and tree.nodes != seen.nodes:
        raise LogError(
            Code.CONSISTENCY_INVALID, "the log does not contain what was seen of it", stage="audit"
        )


def _corrupt(why: str) -> LogError:
    return LogError(Code.LOG_CORRUPT, why, stage="audit")
