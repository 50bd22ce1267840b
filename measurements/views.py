"""Do two signed checkpoints of one log tell the same story? And the proof to keep where they do not."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from . import strict_base64
from .checkpoint import Checkpoint, SignedCheckpoint, open_checkpoint
from .errors import Code, LogError, TransparencyError
from .merkle import EMPTY_ROOT, prove_consistency, root_hash, verify_consistency
from .note import VerifierKey
from .tiles import ReadFile, TileReader

MAX_EVIDENCE: Final = 1024 * 1024
_STAGE: Final = "views"


class Views(StrEnum):
    """What two checkpoints, seen one after the other, say of their log."""

    CONSISTENT = "consistent"
    OLDER = "older-but-consistent"
    """The second is smaller: a stale view, not a fork."""
    SPLIT = "split-view"
    """Two roots at one size: proof by itself."""
    INCONSISTENT = "inconsistent"
    """The path given does not join them."""


def compare_views(first: Checkpoint, second: Checkpoint, path: Sequence[bytes]) -> Views:
    """Judge ``second``, seen after ``first``, by a consistency path between their sizes."""
    old, new = sorted((first, second), key=lambda checkpoint: checkpoint.size)
    if old.size == new.size:
        return Views.CONSISTENT if old.root == new.root else Views.SPLIT
    try:
        if old.size == 0:
            if old.root != EMPTY_ROOT or path:
                return Views.INCONSISTENT
        else:
            verify_consistency(
                old_size=old.size, new_size=new.size, old_root=old.root, new_root=new.root, path=path
            )
    except TransparencyError:
        return Views.INCONSISTENT
    return Views.CONSISTENT if first.size <= second.size else Views.OLDER


@dataclass(frozen=True, slots=True)
class SplitView:
    """Two checkpoints that one log signed and that cannot both be true; ``old.size`` ≤ ``new.size``.

    Where the sizes differ, ``path`` leads from ``implied``, the root that the newer tree had at the older size, to
    the newer root; the log signed another root for that size.
    """

    old: bytes
    new: bytes
    implied: bytes | None = None
    path: tuple[bytes, ...] = ()

    def encode(self) -> bytes:
        """The evidence file: JSON that a person can read and ``parse`` reads back."""
        return json.dumps(
            {
                "v": 1,
                "kind": "split-view",
                "notes": [self.old.decode(), self.new.decode()],
                "implied": None if self.implied is None else strict_base64.encode(self.implied),
                "path": [strict_base64.encode(value) for value in self.path],
            },
            indent=1,
            ensure_ascii=False,
        ).encode()

    @classmethod
    def parse(cls, data: bytes) -> "SplitView":
        """Read an evidence file; it proves nothing until ``verify``. Raises TransparencyError."""
        try:
            if len(data) > MAX_EVIDENCE:
                raise ValueError("too large")
            value: Any = json.loads(data)
            if not isinstance(value, dict) or (value.get("v"), value.get("kind")) != (1, "split-view"):
                raise ValueError("another kind")
            old, new = value["notes"]
            implied = value["implied"]
            return cls(
                old.encode(),
                new.encode(),
                None if implied is None else strict_base64.decode(implied),
                tuple(strict_base64.decode(one) for one in value["path"]),
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise TransparencyError(
                Code.PROOF_MALFORMED, "not an evidence file of a split view", stage=_STAGE
            ) from error

    def verify(self, log: VerifierKey) -> tuple[Checkpoint, Checkpoint]:
        """The two checkpoints, if this proves that ``log`` signed two histories.

        Raises TransparencyError: LOG_UNKNOWN or CHECKPOINT_SIGNATURE where it did not sign both,
        CONSISTENCY_INVALID where they do not contradict each other.
        """
        old = open_checkpoint(self.old, (log,)).checkpoint
        new = open_checkpoint(self.new, (log,)).checkpoint
        if old.size == new.size:
            if old.root == new.root:
                raise _no_fork("the same size and root twice")
            return old, new
        if old.size == 0:
            if old.root == EMPTY_ROOT:
                raise _no_fork("every tree grows out of the empty one")
            return old, new
        if old.size > new.size or self.implied is None:
            raise _no_fork("not an older and a newer tree with the root between them")
        verify_consistency(
            old_size=old.size, new_size=new.size, old_root=self.implied, new_root=new.root, path=self.path
        )
        if self.implied == old.root:
            raise _no_fork("the path joins the two")
        return old, new


def join(read: ReadFile, first: SignedCheckpoint, second: SignedCheckpoint) -> Views:
    """Compare two checkpoints by the tiles of the newer one.

    Raises TransparencyError: SPLIT_VIEW, whose evidence is an encoded ``SplitView``; LOG_CORRUPT where the tiles
    do not lead to the newer checkpoint, so that nothing can be told.
    """
    old, new = sorted((first, second), key=lambda signed: signed.checkpoint.size)
    proof = _contradiction(read, old, new)
    if proof is not None:
        raise TransparencyError(
            Code.SPLIT_VIEW,
            f"{new.checkpoint.origin} signed two histories",
            stage=_STAGE,
            expected=f"size {old.checkpoint.size}, root {old.checkpoint.root.hex()}",
            found=f"root {(proof.implied or new.checkpoint.root).hex()} at that size",
            evidence=(proof.encode(),),
        )
    return Views.CONSISTENT if first.checkpoint.size <= second.checkpoint.size else Views.OLDER


def _contradiction(read: ReadFile, old: SignedCheckpoint, new: SignedCheckpoint) -> SplitView | None:
    before, after = old.checkpoint, new.checkpoint
    if before.size == after.size:
        return None if before.root == after.root else SplitView(old.raw, new.raw)
    if before.size == 0:
        return None if before.root == EMPTY_ROOT else SplitView(old.raw, new.raw)
    node = TileReader(read, after.size).node
    implied = root_hash(before.size, node)
    path = prove_consistency(before.size, after.size, node)
    try:
        verify_consistency(
            old_size=before.size, new_size=after.size, old_root=implied, new_root=after.root, path=path
        )
    except TransparencyError as error:
        raise LogError(
            Code.LOG_CORRUPT, f"the tiles do not lead to the checkpoint at size {after.size}", stage=_STAGE
        ) from error
    return None if implied == before.root else SplitView(old.raw, new.raw, implied, path)


def distinct(views: Iterable[SignedCheckpoint]) -> tuple[SignedCheckpoint, ...]:
    """One of each (size, root), smallest first."""
    found = {(view.checkpoint.size, view.checkpoint.root): view for view in views}
    return tuple(found[key] for key in sorted(found))


def _no_fork(why: str) -> TransparencyError:
    return TransparencyError(Code.CONSISTENCY_INVALID, why, stage=_STAGE)
