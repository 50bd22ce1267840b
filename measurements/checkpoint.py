"""Checkpoints: a log's signed statement of its size and root (c2sp.org/tlog-checkpoint)."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from . import strict_base64
from .errors import Code, TransparencyError
from .note import Note, VerifierKey

MAX_SIZE: Final = 2**63 - 1
_STAGE: Final = "checkpoint"
# int() takes signs, underscores, spaces and the digits of other scripts; a checkpoint does not.
_CONTROL: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")
_DECIMAL: Final = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)


def parse_decimal(text: str, stage: str = _STAGE) -> int:
    """A number in plain ASCII decimal without leading zeroes, at most 2^63 - 1. Raises TransparencyError."""
    if not _DECIMAL.fullmatch(text) or int(text) > MAX_SIZE:
        raise TransparencyError(Code.PROOF_MALFORMED, "not a decimal number", stage=stage)
    return int(text)


def parse_hash(text: str, stage: str = _STAGE) -> bytes:
    """Exactly 32 bytes in canonical base64. Raises TransparencyError (PROOF_MALFORMED)."""
    try:
        value = strict_base64.decode(text)
    except ValueError as error:
        raise TransparencyError(Code.PROOF_MALFORMED, f"hash: {error}", stage=stage) from error
    if len(value) != 32:
        raise TransparencyError(
            Code.PROOF_MALFORMED, "hash", stage=stage, expected="32 B", found=f"{len(value)} B"
        )
    return value


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Size and root of the log named ``origin``; ``extensions`` are further lines, signed but not
    understood.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Checkpoint":
        """Read a checkpoint's text (without signatures). Raises TransparencyError (PROOF_MALFORMED)."""
        if _CONTROL.search(text):
            raise TransparencyError(Code.PROOF_MALFORMED, "control character in a checkpoint", stage=_STAGE)
        lines = text.split("\n")
        if len(lines) < 4 or lines[-1]:
            raise TransparencyError(
                Code.PROOF_MALFORMED, "a checkpoint has three lines or more", stage=_STAGE
            )
        origin, size, root, *extensions = lines[:-1]
        if not origin or "" in extensions:
            raise TransparencyError(Code.PROOF_MALFORMED, "empty line in a checkpoint", stage=_STAGE)
        return cls(origin, parse_decimal(size), parse_hash(root), tuple(extensions))

    @property
    def text(self) -> str:
        """The text that is signed, newline-terminated."""
        lines = (self.origin, str(self.size), strict_base64.encode(self.root), *self.extensions)
        return "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A checkpoint whose log signature has been verified; ``note`` still holds all its signatures."""

    checkpoint: Checkpoint
    note: Note
    log: VerifierKey

    @property
    def raw(self) -> bytes:
        """The note's bytes, as they came."""
        return self.note.encode()


def open_checkpoint(data: bytes, logs: Iterable[VerifierKey]) -> SignedCheckpoint:
    """Parse a signed checkpoint and verify it by the key of ``logs`` that its origin names.

    Raises TransparencyError: PROOF_MALFORMED, LOG_UNKNOWN (no key for this origin), CHECKPOINT_SIGNATURE.
    """
    note = Note.parse(data)
    checkpoint = Checkpoint.parse(note.text)
    known = tuple(logs)
    keys = [key for key in known if key.name == checkpoint.origin]
    if not keys:
        raise TransparencyError(
            Code.LOG_UNKNOWN,
            "no trusted log has this origin",
            stage=_STAGE,
            expected=", ".join(key.name for key in known[:4]) or None,
            found=checkpoint.origin[:200],
        )
    return SignedCheckpoint(checkpoint, note, note.verify(keys)[0])
