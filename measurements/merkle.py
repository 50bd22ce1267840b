"""RFC 6962 Merkle trees over SHA-256: hashes, proofs and their verification.

Proofs are made from a ``node(level, index)`` function that gives the hash of a *complete* subtree of 2^level
leaves, so that nothing here knows where a tree is kept.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from .errors import Code, TransparencyError

NodeReader = Callable[[int, int], bytes]
"""``node(level, index)``: the hash of leaves [index · 2^level, (index + 1) · 2^level)."""

EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
MAX_PATH: Final = 63
_STAGE: Final = "merkle"


def leaf_hash(entry: bytes) -> bytes:
    """SHA-256(0x00 ‖ entry)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 ‖ left ‖ right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def verify_inclusion(*, index: int, size: int, leaf: bytes, path: Sequence[bytes], root: bytes) -> None:
    """Check that the leaf hash ``leaf`` is entry ``index`` of the tree of ``size`` leaves with ``root``.

    RFC 9162 §2.1.3.2. Raises TransparencyError (INCLUSION_INVALID, LIMIT_EXCEEDED).
    """
    _check_shape(path, (leaf, root), Code.INCLUSION_INVALID)
    if not 0 <= index < size:
        raise TransparencyError(
            Code.INCLUSION_INVALID, "index outside the tree", stage=_STAGE, expected=f"< {size}", found=index
        )
    node, last, computed = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            raise _inclusion("path too long")
        if node & 1 or node == last:
            computed = node_hash(sibling, computed)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            computed = node_hash(computed, sibling)
        node >>= 1
        last >>= 1
    if last != 0:
        raise _inclusion("path too short")
    if computed != root:
        raise _inclusion("the path does not lead to the root")


def verify_consistency(
    *, old_size: int, new_size: int, old_root: bytes, new_root: bytes, path: Sequence[bytes]
) -> None:
    """Check that the tree of ``new_size`` leaves only appended to the one of ``old_size`` leaves (at least
    one).

    RFC 9162 §2.1.4.2. Raises TransparencyError (CONSISTENCY_INVALID, LIMIT_EXCEEDED). That any tree grows
    out of the empty one needs no proof and is for the caller to know.
    """
    _check_shape(path, (), Code.CONSISTENCY_INVALID)
    if not 1 <= old_size <= new_size:
        raise _consistency("sizes are not 1 ≤ old ≤ new")
    if old_size == new_size:
        if path:
            raise _consistency("equal sizes need no path")
        if old_root != new_root:
            raise _consistency("one size, two roots")
        return
    _check_shape((), (old_root, new_root), Code.CONSISTENCY_INVALID)
    old, new = consistency_roots(old_size=old_size, new_size=new_size, old_root=old_root, path=path)
    if old != old_root or new != new_root:
        raise _consistency("the path does not join the two roots")


def consistency_roots(
    *, old_size: int, new_size: int, old_root: bytes, path: Sequence[bytes]
) -> tuple[bytes, bytes]:
    """The two roots that a consistency path (0 < old < new) leads to.

    Where the second is a signed root, the first is the only root that its tree can have had at ``old_size``:
    a signed one that differs is proved to be a fork. A complete old tree (a power of two) is itself a node of
    the new one and is taken from ``old_root``. Raises TransparencyError (CONSISTENCY_INVALID, LIMIT_EXCEEDED).
    """
    _check_shape(path, (old_root,), Code.CONSISTENCY_INVALID)
    if not 0 < old_size < new_size:
        raise _consistency("sizes are not 0 < old < new")
    hashes = list(path) if old_size & (old_size - 1) else [old_root, *path]
    if not hashes:
        raise _consistency("path too short")
    node, last = old_size - 1, new_size - 1
    while node & 1:
        node >>= 1
        last >>= 1
    old = new = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            raise _consistency("path too long")
        if node & 1 or node == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            new = node_hash(new, sibling)
        node >>= 1
        last >>= 1
    if last != 0:
        raise _consistency("path too short")
    return old, new


def range_hash(begin: int, end: int, node: NodeReader) -> bytes:
    """The Merkle tree hash of leaves [begin, end), where ``begin`` starts a subtree of the tree."""
    parts: list[bytes] = []
    while begin < end:
        level = (end - begin).bit_length() - 1
        parts.append(node(level, begin >> level))
        begin += 1 << level
    if not parts:
        return EMPTY_ROOT
    result = parts.pop()
    while parts:
        result = node_hash(parts.pop(), result)
    return result


def root_hash(size: int, node: NodeReader) -> bytes:
    """The root of the first ``size`` leaves."""
    return range_hash(0, size, node)


def prove_inclusion(index: int, size: int, node: NodeReader) -> tuple[bytes, ...]:
    """The path of leaf ``index`` in the tree of ``size`` leaves, leaf's sibling first.

    Raises TransparencyError.
    """
    if not 0 <= index < size:
        raise _inclusion("index outside the tree")
    path: list[bytes] = []
    begin, end = 0, size
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            path.append(range_hash(middle, end, node))
            end = middle
        else:
            path.append(range_hash(begin, middle, node))
            begin = middle
    return tuple(reversed(path))


def prove_consistency(old_size: int, new_size: int, node: NodeReader) -> tuple[bytes, ...]:
    """The path that joins two sizes (RFC 6962 §2.1.2); empty from 0 and between equals.

    Raises TransparencyError.
    """
    if not 0 <= old_size <= new_size:
        raise _consistency("sizes are not 0 ≤ old ≤ new")
    path: list[bytes] = []
    begin, end = 0, new_size
    if old_size in (0, new_size):
        return ()
    while end != old_size:
        middle = begin + _split(end - begin)
        if old_size <= middle:
            path.append(range_hash(middle, end, node))
            end = middle
        else:
            path.append(range_hash(begin, middle, node))
            begin = middle
    if begin:
        path.append(range_hash(begin, end, node))
    return tuple(reversed(path))


def complete_root(hashes: Sequence[bytes]) -> bytes:
    """The root over a power of two of hashes of one level."""
    level = list(hashes)
    sha256 = hashlib.sha256
    while len(level) > 1:
        level = [
            sha256(b"\x01" + left + right).digest()
            for left, right in zip(level[::2], level[1::2], strict=True)
        ]
    return level[0]


class TreeFold:
    """The root of a growing sequence of leaf hashes, in logarithmic memory.

    ``nodes`` are the complete subtrees so far, largest first, one for each bit of ``size``: with them a fold goes
    on later where it stopped.
    """

    __slots__ = ("_stack", "size")

    def __init__(self, size: int = 0, nodes: Iterable[bytes] = ()) -> None:
        self.size = size
        self._stack = list(nodes)
        if len(self._stack) != size.bit_count() or any(len(node) != 32 for node in self._stack):
            raise TransparencyError(
                Code.PROOF_MALFORMED, "not the nodes of a tree of this size", stage=_STAGE, found=size
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TreeFold) and (self.size, self._stack) == (other.size, other._stack)

    __hash__ = None  # type: ignore[assignment]  # it grows

    @property
    def nodes(self) -> tuple[bytes, ...]:
        """The complete subtrees of the tree so far, largest first."""
        return tuple(self._stack)

    def add_complete(self, root: bytes, width: int) -> None:
        """Append a complete subtree of ``width`` leaves (a power of two) at a multiple of that width.

        Raises TransparencyError (LIMIT_EXCEEDED) for other widths and places.
        """
        if width <= 0 or width & (width - 1) or self.size % width:
            raise TransparencyError(
                Code.LIMIT_EXCEEDED, "leaves at once", stage=_STAGE, expected="a power of two", found=width
            )
        self._stack.append(root)
        self.size += width
        rest = self.size // width
        while not rest & 1:
            right = self._stack.pop()
            self._stack.append(node_hash(self._stack.pop(), right))
            rest >>= 1

    def add(self, leaf: bytes) -> None:
        """Append one leaf hash."""
        self._stack.append(leaf)
        self.size += 1
        rest = self.size
        while not rest & 1:
            right = self._stack.pop()
            self._stack.append(node_hash(self._stack.pop(), right))
            rest >>= 1

    def root(self) -> bytes:
        """The root of what was added so far."""
        if not self._stack:
            return EMPTY_ROOT
        result = self._stack[-1]
        for left in reversed(self._stack[:-1]):
            result = node_hash(left, result)
        return result


def tree_hash(leaves: Iterable[bytes]) -> bytes:
    """The root over leaf hashes."""
    fold = TreeFold()
    for leaf in leaves:
        fold.add(leaf)
    return fold.root()


def _split(width: int) -> int:
    return 1 << ((width - 1).bit_length() - 1)


def _check_shape(path: Sequence[bytes], fixed: Sequence[bytes], code: Code) -> None:
    if len(path) > MAX_PATH:
        raise TransparencyError(
            Code.LIMIT_EXCEEDED, "hashes in a path", stage=_STAGE, expected=f"≤ {MAX_PATH}"
        )
    if any(len(value) != 32 for value in (*path, *fixed)):
        raise TransparencyError(code, "a hash is not 32 bytes", stage=_STAGE)


def _inclusion(why: str) -> TransparencyError:
    return TransparencyError(Code.INCLUSION_INVALID, why, stage=_STAGE)


def _consistency(why: str) -> TransparencyError:
    return TransparencyError(Code.CONSISTENCY_INVALID, why, stage=_STAGE)
