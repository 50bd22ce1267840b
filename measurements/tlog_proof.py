"""Self-contained inclusion proofs (c2sp.org/tlog-proof): index, path and a cosigned checkpoint in one
text.
"""

from dataclasses import dataclass
from typing import Final

from . import strict_base64
from .checkpoint import Checkpoint, parse_decimal, parse_hash
from .errors import Code, TransparencyError
from .merkle import MAX_PATH, verify_inclusion

HEADER: Final = "c2sp.org/tlog-proof@v1"
MAX_PROOF: Final = 256 * 1024
_STAGE: Final = "tlog-proof"


@dataclass(frozen=True, slots=True)
class TlogProof:
    """A parsed proof. ``checkpoint`` is the signed note, verbatim; ``extra`` is authenticated by nothing."""

    index: int
    path: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None

    @classmethod
    def parse(cls, data: bytes) -> "TlogProof":
        """Read a proof.

        Raises TransparencyError (PROOF_MISSING if empty, PROOF_MALFORMED, LIMIT_EXCEEDED).
        """
        if not data:
            raise TransparencyError(Code.PROOF_MISSING, "no proof", stage=_STAGE)
        if len(data) > MAX_PROOF:
            raise TransparencyError(
                Code.LIMIT_EXCEEDED, "proof too large", stage=_STAGE, expected=f"≤ {MAX_PROOF} B"
            )
        head, blank, checkpoint = data.partition(b"\n\n")
        try:
            lines = head.decode("ascii").split("\n")
        except UnicodeDecodeError as error:
            raise TransparencyError(Code.PROOF_MALFORMED, "proof is not ASCII", stage=_STAGE) from error
        if not blank or not checkpoint or lines.pop(0) != HEADER:
            raise TransparencyError(Code.PROOF_MALFORMED, "not a proof of a known version", stage=_STAGE)
        extra: bytes | None = None
        if lines and lines[0].startswith("extra "):
            try:
                extra = strict_base64.decode(lines.pop(0).removeprefix("extra "))
            except ValueError as error:
                raise TransparencyError(Code.PROOF_MALFORMED, f"extra data: {error}", stage=_STAGE) from error
        if not lines or not lines[0].startswith("index "):
            raise TransparencyError(Code.PROOF_MALFORMED, "no index line", stage=_STAGE)
        index = parse_decimal(lines.pop(0).removeprefix("index "), _STAGE)
        if len(lines) > MAX_PATH:
            raise TransparencyError(
                Code.LIMIT_EXCEEDED, "hashes in a path", stage=_STAGE, expected=f"≤ {MAX_PATH}"
            )
        return cls(index, tuple(parse_hash(line, _STAGE) for line in lines), checkpoint, extra)

    def encode(self) -> bytes:
        """The proof's bytes."""
        lines = [HEADER]
        if self.extra is not None:
            lines.append(f"extra {strict_base64.encode(self.extra)}")
        lines.append(f"index {self.index}")
        lines.extend(strict_base64.encode(value) for value in self.path)
        return "\n".join(lines).encode() + b"\n\n" + self.checkpoint

    def verify_leaf(self, leaf: bytes, checkpoint: Checkpoint) -> None:
        """Check that the leaf hash ``leaf`` is in the tree of ``checkpoint``, which the caller has verified.

        Raises TransparencyError (INCLUSION_INVALID).
        """
        verify_inclusion(
            index=self.index, size=checkpoint.size, leaf=leaf, path=self.path, root=checkpoint.root
        )
