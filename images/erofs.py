"""Read-only file systems in the EROFS format, uncompressed: a volume's bytes follow from its tree alone.

Linux ``fs/erofs/erofs_fs.h`` and ``Documentation/filesystems/erofs.rst``: a superblock at byte 1024, then one
extended inode (64 bytes, uncompressed plain layout) for every path, then the folders' blocks, then the files', each
contiguous, so that a file can be mapped as it lies. Owner, group and times are 0. Nothing is compressed, so no
compressor's version is part of an image's hash.
"""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct
from typing import BinaryIO

from images.errors import VolumeError
from images.tree import Node, Tree

BLOCK = 4096
MAX_BLOCKS = 2**32 - 1

_MAGIC = 0xE0F5E1E2
_SUPERBLOCK_AT = 1024
_SUPERBLOCK = Struct("<IIIBBHQQIIII16s16sI44x")
_SLOT = 32
_INODE = Struct("<HHHHQIIIIQII16x")
_EXTENDED_PLAIN = 1  # i_format: bit 0 extended inode, bits 1 to 3 the data layout: 0, plain.
_DIRENT = Struct("<QHBB")
_KINDS = {stat.S_IFREG: 1, stat.S_IFDIR: 2, stat.S_IFLNK: 7}
_FIRST_SLOT = (_SUPERBLOCK_AT + _SUPERBLOCK.size) // _SLOT
_CHUNK = 1 << 20


@dataclass(slots=True)
class _Inode:
    node: Node
    slot: int
    parent: "_Inode | None" = None
    children: dict[bytes, "_Inode"] = field(default_factory=dict)
    size: int = 0
    block: int = 0
    folders: int = 0

    @property
    def kind(self) -> int:
        return _KINDS[stat.S_IFMT(self.node.mode)]


def write(tree: Tree, path: Path, label: str = "", progress: Callable[[int], None] | None = None) -> int:
    """Write the volume of ``tree`` to ``path``; its size in bytes, whole blocks. Raises VolumeError.

    Files are copied in pieces, and holes of sparse files stay holes. ``progress`` gets bytes written.
    """
    inodes = _number(tree)
    root = inodes[0]
    after_inodes = _SUPERBLOCK_AT + _SUPERBLOCK.size + len(inodes) * _INODE.size
    block = -(-after_inodes // BLOCK)
    listings: list[tuple[_Inode, bytes]] = []
    for inode in inodes:
        if inode.node.is_folder:
            listing = _listing(inode, root)
            listings.append((inode, listing))
            inode.size, inode.block = len(listing), block
            block += -(-len(listing) // BLOCK)
    for inode in inodes:
        if not inode.node.is_folder:
            inode.size = inode.node.size
            inode.block = block if inode.size else 0
            block += -(-inode.size // BLOCK)
    if block > MAX_BLOCKS:
        raise VolumeError("erofs_size", f"more than {MAX_BLOCKS} blocks", found=block)
    with path.open("wb") as out:
        out.truncate(block * BLOCK)
        out.seek(_SUPERBLOCK_AT)
        out.write(_superblock(root, len(inodes), block, label))
        out.write(b"".join(_encode(inode) for inode in inodes))
        for inode, listing in listings:
            out.seek(inode.block * BLOCK)
            out.write(listing)
        for inode in inodes:
            if not inode.node.is_folder and inode.size:
                out.seek(inode.block * BLOCK)
                _copy(inode, out, progress)
    return block * BLOCK


def _number(tree: Tree) -> list[_Inode]:
    """The inodes in the order of their paths' bytes, the root first, with their slots and families."""
    root = _Inode(Node("", stat.S_IFDIR | 0o755, ""), _FIRST_SLOT)
    root.parent = root
    inodes, by_path = [root], {"": root}
    for node in tree.ordered():
        inode = _Inode(node, _FIRST_SLOT + len(inodes) * (_INODE.size // _SLOT))
        above, _, name = node.path.rpartition("/")
        parent = by_path[above]
        inode.parent = parent
        parent.children[name.encode()] = inode
        parent.folders += node.is_folder
        by_path[node.path] = inode
        inodes.append(inode)
    return inodes


def _listing(folder: _Inode, root: _Inode) -> bytes:
    """A folder's blocks: in each, entries and then their names, in the order of the names over all of them."""
    assert folder.parent is not None
    entries = {b".": folder, b"..": folder.parent, **folder.children}
    blocks: list[bytes] = []
    pending: list[tuple[bytes, _Inode]] = []
    used = 0
    for name, inode in sorted(entries.items()):
        if used + _DIRENT.size + len(name) > BLOCK:
            blocks.append(_directory_block(pending).ljust(BLOCK, b"\0"))
            pending, used = [], 0
        pending.append((name, inode))
        used += _DIRENT.size + len(name)
    blocks.append(_directory_block(pending))
    return b"".join(blocks)


def _directory_block(entries: list[tuple[bytes, _Inode]]) -> bytes:
    offset = _DIRENT.size * len(entries)
    heads, names = [], []
    for name, inode in entries:
        heads.append(_DIRENT.pack(inode.slot, offset, inode.kind, 0))
        names.append(name)
        offset += len(name)
    return b"".join((*heads, *names))


def _encode(inode: _Inode) -> bytes:
    number = (inode.slot - _FIRST_SLOT) // (_INODE.size // _SLOT) + 1
    links = 2 + inode.folders if inode.node.is_folder else 1
    return _INODE.pack(
        _EXTENDED_PLAIN, 0, inode.node.mode, 0, inode.size, inode.block, number, 0, 0, 0, 0, links
    )


def _superblock(root: _Inode, inodes: int, blocks: int, label: str) -> bytes:
    name = label.encode()
    if len(name) > 16:
        raise VolumeError("erofs_label", "a label has at most 16 bytes", found=label)
    return _SUPERBLOCK.pack(*(_MAGIC, 0, 0, 12, 0, root.slot, inodes, 0, 0, blocks, 0, 0, bytes(16), name, 0))


def _copy(inode: _Inode, out: BinaryIO, progress: Callable[[int], None] | None) -> None:
    content = inode.node.link.encode() if inode.node.is_link else inode.node.content
    if isinstance(content, bytes):
        out.write(content)
        if progress is not None:
            progress(len(content))
        return
    start, copied = inode.block * BLOCK, 0
    with content.open("rb", buffering=0) as source:
        while copied < inode.size:
            copied = _data_from(source.fileno(), copied, inode.size)
            source.seek(copied)
            chunk = source.read(min(_CHUNK, inode.size - copied))
            if not chunk:
                break
            out.seek(start + copied)
            out.write(chunk)
            copied += len(chunk)
            if progress is not None:
                progress(len(chunk))
        if copied < inode.size or source.read(1):
            raise VolumeError("file_changed", "changed its size while it was copied", path=inode.node.path)


def _data_from(descriptor: int, offset: int, size: int) -> int:
    """Where the next data lies at or behind ``offset``; the end where there is only a hole."""
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError:
        return size
