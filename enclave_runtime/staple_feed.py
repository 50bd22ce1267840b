"""Fresh log proofs for a node that can open no file any more.

Proofs age: clients ask for cosignatures of the last day. A sealed node cannot read a file again, so the host hands
over a new staple through a pipe that the node inherited and can only read from. On it, a staple is u32 length
(big-endian) ‖ the bytes of the staple's file.

What comes is as little trusted as the file was; whoever uses the node checks it. But a node that serves everybody
one bundle looks before it replaces a good one. Where its measured configuration names a log, it checks all of the
staple as its users will (``staple_check``). Otherwise it has no keys to tell who signed what, and sees to what needs
none: the new staple must be about the same release, its proofs must hold in the trees they name, those trees and the
status must not be older than the ones before, and no tree may stand against another of its size. More than one staple
in :data:`LEAST_S` is not taken: bundles that changed with every request would be marks.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from measurements.checkpoint import Checkpoint
from measurements.dsse import Envelope
from measurements.errors import TransparencyError
from measurements.merkle import leaf_hash
from measurements.note import Note
from measurements.release import Status
from measurements.staple import Staple
from measurements.statement import Statement
from measurements.tlog_proof import TlogProof

MAX_STAPLE_FILE: Final = 512 * 1024
LEAST_S: Final = 60.0
"""Seconds between two staples that a node takes."""

_LENGTH: Final = 4


class StapleRefused(Exception):
    """A staple that does not replace the one before: ``code`` is one of too_large, malformed, another_release,
    proof, older, forked, log.
    """

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(slots=True)
class StapleFeed:
    """Puts together what comes out of the pipe. Once something too large was announced it takes nothing more."""

    _held: bytearray = field(default_factory=bytearray)
    _shut: bool = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The staples that ``data`` completes, as the bytes of a file each. Raises StapleRefused (too_large)."""
        if self._shut:
            return
        self._held += data
        while len(self._held) >= _LENGTH:
            length = int.from_bytes(self._held[:_LENGTH], "big")
            if length > MAX_STAPLE_FILE:
                self._shut = True
                self._held.clear()
                raise StapleRefused("too_large")
            if len(self._held) < _LENGTH + length:
                return
            whole = bytes(self._held[_LENGTH : _LENGTH + length])
            del self._held[: _LENGTH + length]
            yield whole


def framed(file: bytes) -> bytes:
    """A staple's file as it goes into the pipe."""
    return len(file).to_bytes(_LENGTH, "big") + file


def successor(before: Staple, file: bytes) -> Staple:
    """The staple in ``file``, if it may take the place of ``before``. Raises StapleRefused."""
    staple = parsed(file)
    if staple.release_leaf != before.release_leaf:
        raise StapleRefused("another_release")
    require_consistent(before, staple)
    return staple


def parsed(file: bytes) -> Staple:
    """The staple in ``file``. Raises StapleRefused (malformed)."""
    try:
        return Staple.parse(file)
    except TransparencyError:
        raise StapleRefused("malformed") from None


def require_consistent(before: Staple, staple: Staple) -> None:
    """Whether the proofs hold and nothing is older than ``before``, whoever signed it. Raises StapleRefused."""
    try:
        trees = [_tree(staple.checkpoint)]
        for proof, leaf in (
            (staple.release_proof, staple.release_leaf),
            (staple.status_proof, staple.status_leaf),
        ):
            parsed_proof = TlogProof.parse(proof)
            tree = _tree(parsed_proof.checkpoint)
            if tree.origin != trees[0].origin or tree.size > trees[0].size:
                raise StapleRefused("proof")
            parsed_proof.verify_leaf(leaf_hash(leaf), tree)
            trees.append(tree)
        status = _status(staple)
    except TransparencyError:
        raise StapleRefused("proof") from None
    try:
        known, known_status = _tree(before.checkpoint), _status(before)
    except TransparencyError:
        return  # what the node booted with was no staple that anybody could use
    if trees[0].origin != known.origin or trees[0].size < known.size:
        raise StapleRefused("older")
    roots: dict[int, bytes] = {}
    if any(roots.setdefault(tree.size, tree.root) != tree.root for tree in (known, *trees)):
        raise StapleRefused("forked")
    if status.sequence < known_status.sequence:
        raise StapleRefused("older")
    if status.sequence == known_status.sequence and staple.status_leaf != before.status_leaf:
        raise StapleRefused("forked")


def _status(staple: Staple) -> Status:
    return Status.parse(Statement.parse(Envelope.parse(staple.status_leaf).payload))


def _tree(note: bytes) -> Checkpoint:
    return Checkpoint.parse(Note.parse(note).text)
