"""A log asks its witnesses: all at once, each with its own trouble, until enough of them have cosigned."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from .checkpoint import Checkpoint, open_checkpoint, parse_decimal
from .cosignature import verify_cosignatures
from .errors import Code, LogError, TransparencyError
from .note import MAX_NOTE, Note, NoteSignature, VerifierKey
from .witness import WitnessResponse, encode_request

Prove = Callable[[int], tuple[bytes, ...]]
"""The consistency path from a size to the new tree."""

T = TypeVar("T")

_STAGE: Final = "witness"


class Cosigner(Protocol):
    """A witness, in this process or behind a wire."""

    @property
    def key(self) -> VerifierKey:
        """The key that its cosignatures verify under."""
        ...

    def add_checkpoint(self, body: bytes) -> WitnessResponse:
        """Answer an ``add-checkpoint`` request. Raises TransparencyError where there is no answer."""
        ...

    def latest(self, origin: str) -> bytes | None:
        """The last checkpoint that it cosigned for ``origin``. Raises TransparencyError."""
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """What one witness did: ``lines`` are its verified cosignatures, or ``refusal`` says why there are none."""

    key: VerifierKey
    lines: tuple[NoteSignature, ...]
    refusal: TransparencyError | None = None


def ask_witnesses(
    witnesses: Sequence[Cosigner], new: Checkpoint, note: Note, old_size: int, prove: Prove
) -> tuple[Asked, ...]:
    """Ask every witness to cosign ``note``, whose text is ``new``. Never raises for what a witness does.

    Each is asked from ``old_size`` and, where it holds another size, once more from that one.
    """

    def ask(witness: Cosigner) -> Asked:
        try:
            return Asked(witness.key, _cosign(witness, new, note, old_size, prove))
        except TransparencyError as error:
            return Asked(witness.key, (), error)

    return tuple(_each(ask, witnesses))


def check_known_views(
    witnesses: Sequence[Cosigner], log: VerifierKey, size: int, root_at: Callable[[int], bytes]
) -> None:
    """Refuse to sign a tree of ``size`` leaves that contradicts what a witness holds under our own signature.

    A log whose folder came back from a backup would otherwise sign a second history. A witness that cannot be
    reached says nothing here; it must still cosign to count. Raises LogError (LOG_CORRUPT).
    """

    def view(witness: Cosigner) -> Checkpoint | None:
        try:
            held = witness.latest(log.name)
            return None if held is None else open_checkpoint(held, (log,)).checkpoint
        except TransparencyError:
            return None

    for witness, held in zip(witnesses, _each(view, witnesses), strict=True):
        if held is not None and (held.size > size or root_at(held.size) != held.root):
            raise LogError(
                Code.LOG_CORRUPT,
                f"witness {witness.key.name} holds a checkpoint that this log has signed and does not contain: "
                "the folder is older than that; bring back the newer one",
                stage=_STAGE,
                expected=f"size {held.size}, root {held.root.hex()}",
                found=f"size {size}",
            )


def _cosign(
    witness: Cosigner, new: Checkpoint, note: Note, old_size: int, prove: Prove
) -> tuple[NoteSignature, ...]:
    size = old_size
    response = WitnessResponse(0, b"")
    for _ in range(2):
        response = witness.add_checkpoint(encode_request(size, prove(size), note.encode()))
        if response.status != 409:
            break
        size = parse_decimal(response.body[:32].decode("ascii", "replace").removesuffix("\n"), _STAGE)
        if size > new.size:
            raise _refused(f"it holds size {size:,}, which this log does not have")
    if response.status != 200:
        raise _refused(f"refused the checkpoint (status {response.status})")
    answer = Note.parse(note.text.encode() + b"\n" + response.body[:MAX_NOTE])
    lines = answer.by(witness.key)
    if not verify_cosignatures(answer, new, (witness.key,)):
        raise _refused("did not cosign")
    return lines


def _each(work: Callable[[Cosigner], T], witnesses: Sequence[Cosigner]) -> list[T]:
    if len(witnesses) < 2:
        return [work(witness) for witness in witnesses]
    with ThreadPoolExecutor(max_workers=min(16, len(witnesses))) as pool:
        return list(pool.map(work, witnesses))


def _refused(why: str) -> TransparencyError:
    return TransparencyError(Code.WITNESS_QUORUM, why, stage=_STAGE)
