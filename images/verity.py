"""dm-verity hash trees without an on-disk superblock, byte for byte as ``veritysetup --no-superblock`` writes them.

Format 1 of the kernel's ``Documentation/admin-guide/device-mapper/verity.rst``: SHA-256 over salt and block, 4096
bytes to a block, 128 digests to a hash block, the levels from the root down, all behind the data. Whoever opens
the device has to know every parameter beforehand; nothing about the tree is read from the disk.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from images.errors import VolumeError

BLOCK = 4096
DIGEST = 32
FAN_OUT = BLOCK // DIGEST
MAX_SALT = 256
_CHUNK = 256 * BLOCK


@dataclass(frozen=True, slots=True)
class Verity:
    """What it takes to open a device: sizes in blocks of 4096 bytes; ``root`` and ``salt`` as bytes.

    The hash tree begins at block ``data_blocks`` and has ``hash_blocks`` blocks.
    """

    root: bytes
    salt: bytes
    data_blocks: int
    hash_blocks: int


def level_sizes(data_blocks: int) -> tuple[int, ...]:
    """Hash blocks of each level, the one nearest to the data first; a single data block has none."""
    sizes: list[int] = []
    while (sizes[-1] if sizes else data_blocks) > 1:
        sizes.append(-(-(sizes[-1] if sizes else data_blocks) // FAN_OUT))
    return tuple(sizes)


def append_tree(path: Path, salt: bytes, progress: Callable[[int], None] | None = None) -> Verity:
    """Write the hash tree of the file ``path`` behind its content, which has to be of whole blocks.

    Reads the data once; memory does not grow with it. ``progress`` gets bytes hashed. Raises VolumeError.
    """
    if len(salt) > MAX_SALT:
        raise VolumeError("verity_salt", f"a salt has at most {MAX_SALT} bytes", found=len(salt))
    with path.open("r+b", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if not size or size % BLOCK:
            raise VolumeError("verity_size", "the data is not of whole blocks", path=path.name, found=size)
        data_blocks = size // BLOCK
        sizes = level_sizes(data_blocks)
        # The levels lie on the disk from the root down, so the lowest comes last.
        starts = [(data_blocks + sum(sizes[level + 1 :])) * BLOCK for level in range(len(sizes))]
        tree = _Tree(file.fileno(), salt, starts)
        for offset in range(0, size, _CHUNK):
            chunk = _read(file.fileno(), min(_CHUNK, size - offset), offset)
            tree.add_data(chunk)
            if progress is not None:
                progress(len(chunk))
        root = tree.finish()
    return Verity(root, salt, data_blocks, sum(sizes))


class _Tree:
    """The levels while they grow: of each, the digests of the hash block that is not full yet."""

    def __init__(self, descriptor: int, salt: bytes, starts: list[int]) -> None:
        self._descriptor = descriptor
        self._salted = hashlib.sha256(salt)
        self._starts = starts
        # One more than there are levels on the disk: the last holds the root's digest alone.
        self._open = [bytearray() for _ in range(len(starts) + 1)]
        self._written = [0 for _ in starts]
        self._zero = bytes(BLOCK)
        self._zero_digest = self._digest(self._zero)

    def add_data(self, chunk: bytes) -> None:
        level = self._open[0]
        salted, zero, zero_digest = self._salted, self._zero, self._zero_digest
        for at in range(0, len(chunk), BLOCK):
            block = chunk[at : at + BLOCK]
            if block == zero:  # Most of a sparse file; comparing is quicker than hashing.
                level += zero_digest
            else:
                state = salted.copy()
                state.update(block)
                level += state.digest()
            if len(level) == BLOCK:
                self._flush(0)

    def finish(self) -> bytes:
        """Write the blocks that are not full; the root's digest."""
        for number in range(len(self._starts)):
            if self._open[number]:
                self._flush(number)
        return bytes(self._open[-1])

    def _flush(self, number: int) -> None:
        block = bytes(self._open[number]).ljust(BLOCK, b"\0")
        os.pwrite(self._descriptor, block, self._starts[number] + self._written[number] * BLOCK)
        self._written[number] += 1
        self._open[number].clear()
        above = self._open[number + 1]
        above += self._digest(block)
        if len(above) == BLOCK:
            self._flush(number + 1)

    def _digest(self, block: bytes) -> bytes:
        state = self._salted.copy()
        state.update(block)
        return state.digest()


def _read(descriptor: int, size: int, offset: int) -> bytes:
    data = os.pread(descriptor, size, offset)
    while len(data) < size:
        more = os.pread(descriptor, size - len(data), offset + len(data))
        if not more:
            raise VolumeError("volume_shrank", "the file became shorter while it was read")
        data += more
    return data
