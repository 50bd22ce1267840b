"""A witness (c2sp.org/tlog-witness): it cosigns a checkpoint only if it grew out of the last one it cosigned.

Sans-IO: ``add_checkpoint`` takes a request's body and gives a response; the store and the clock come from
outside. A web server can carry it as it stands, and a log can ask one in its own process.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from . import strict_base64
from .checkpoint import Checkpoint, SignedCheckpoint, open_checkpoint, parse_decimal, parse_hash
from .cosignature import cosign
from .durable import replace_file
from .errors import Code, LogError, TransparencyError
from .merkle import EMPTY_ROOT, MAX_PATH, consistency_roots, verify_consistency
from .note import MAX_NOTE, Note, VerifierKey
from .signing_key import SigningKey

MAX_REQUEST: Final = MAX_NOTE + 64 * 64
SIZE_TYPE: Final = "text/x.tlog.size"
TEXT_TYPE: Final = "text/plain; charset=utf-8"
_STAGE: Final = "witness"


@dataclass(frozen=True, slots=True)
class WitnessResponse:
    """An HTTP status, a content type and a body."""

    status: int
    body: bytes
    content_type: str = TEXT_TYPE


class WitnessStore(Protocol):
    """What a witness remembers: per origin, the last checkpoint it cosigned, and proofs of misbehaviour."""

    def load(self, origin: str) -> bytes | None:
        """The note last stored for ``origin``."""
        ...

    def replace(self, origin: str, old: bytes | None, new: bytes) -> bool:
        """Store ``new`` durably if ``old`` is still the note stored, as one step; False if it is not."""
        ...

    def keep_fork(self, origin: str, notes: tuple[bytes, bytes], proof: bytes, proved: bool) -> None:
        """Keep two signed notes of a log that cannot both be true; ``proved`` is False where the request's
        path did not show that by itself, and only failed to join them.
        """
        ...


class Witness:
    """One witness for the logs it knows, with one key or several under names of their own.

    ``now`` gives POSIX seconds.
    """

    def __init__(
        self,
        key: SigningKey,
        logs: Iterable[VerifierKey],
        store: WitnessStore,
        now: Callable[[], int],
        *,
        further_keys: Iterable[SigningKey] = (),
    ) -> None:
        self._keys = (key, *further_keys)
        self._logs = tuple(logs)
        self._store = store
        self._now = now

    @property
    def key(self) -> VerifierKey:
        """The first key that its cosignatures verify under."""
        return self._keys[0].public

    @property
    def keys(self) -> tuple[VerifierKey, ...]:
        """Every key that it cosigns with."""
        return tuple(key.public for key in self._keys)

    @property
    def origins(self) -> tuple[str, ...]:
        """The logs it knows."""
        return tuple(dict.fromkeys(log.name for log in self._logs))

    def latest(self, origin: str) -> bytes | None:
        """The last checkpoint it cosigned for ``origin``, with the log's signatures and its own; or None.

        Raises TransparencyError where the store cannot be read.
        """
        return self._store.load(origin) if origin in self.origins else None

    def add_checkpoint(self, body: bytes) -> WitnessResponse:
        """Answer an ``add-checkpoint`` request: 200 with cosignature lines, or 400, 403, 404, 409, 422.

        Raises TransparencyError only where the store fails: nothing has been cosigned then.
        """
        try:
            old_size, path, note = parse_request(body)
            signed = open_checkpoint(note, self._logs)
        except TransparencyError as error:
            return _refusal({Code.LOG_UNKNOWN: 404, Code.CHECKPOINT_SIGNATURE: 403}.get(error.code, 400))
        checkpoint = signed.checkpoint
        if old_size > checkpoint.size:
            return _refusal(400)
        stored = self._store.load(checkpoint.origin)
        # What we stored we signed, but it comes from a disk: it is verified like anything else.
        held = None if stored is None else open_checkpoint(stored, self._logs).checkpoint
        held_size = held.size if held else 0
        if old_size != held_size:
            return _conflict(held_size)
        try:
            _check_growth(held, checkpoint, path)
        except TransparencyError:
            self._keep_if_fork(stored, held, signed, path)
            return _refusal(422)
        time = self._now()
        lines = [cosign(key, signed.note.text, time) for key in self._keys]
        # Signatures of strangers are not kept: whoever reads the stored note gets what we verified and signed.
        known = [line for log in self._logs for line in signed.note.by(log)]
        if not self._store.replace(
            checkpoint.origin, stored, Note(signed.note.text, (*known, *lines)).encode()
        ):
            latest = self._store.load(checkpoint.origin)
            return _conflict(open_checkpoint(latest, self._logs).checkpoint.size if latest else 0)
        return WitnessResponse(200, "".join(map(str, lines)).encode())

    def _keep_if_fork(
        self,
        stored: bytes | None,
        held: Checkpoint | None,
        signed: SignedCheckpoint,
        path: tuple[bytes, ...],
    ) -> None:
        new = signed.checkpoint
        # The same tree with a path that it does not need is a bad request, not two views of a log.
        if stored is None or held is None or held.size == 0 or (held.size, held.root) == (new.size, new.root):
            return
        proof = "".join(f"{strict_base64.encode(value)}\n" for value in path).encode()
        self._store.keep_fork(new.origin, (stored, signed.raw), proof, shows_fork(held, new, path))


def shows_fork(old: Checkpoint, new: Checkpoint, path: tuple[bytes, ...]) -> bool:
    """Whether two signed checkpoints (old.size ≤ new.size) cannot be of one log, by themselves or with a path
    that leads to the newer root and to another root than the older.
    """
    if old.size == new.size:
        return old.root != new.root
    try:
        old_root, new_root = consistency_roots(
            old_size=old.size, new_size=new.size, old_root=old.root, path=path
        )
    except TransparencyError:
        return False
    return new_root == new.root and old_root != old.root


def encode_request(old_size: int, path: Iterable[bytes], note: bytes) -> bytes:
    """The body of an ``add-checkpoint`` request."""
    lines = [f"old {old_size}", *(strict_base64.encode(value) for value in path)]
    return "".join(f"{line}\n" for line in lines).encode() + b"\n" + note


def parse_request(body: bytes) -> tuple[int, tuple[bytes, ...], bytes]:
    """Old size, consistency path and signed note of a request. Raises TransparencyError."""
    if len(body) > MAX_REQUEST:
        raise TransparencyError(Code.LIMIT_EXCEEDED, "request", stage=_STAGE, expected=f"≤ {MAX_REQUEST} B")
    head, blank, note = body.partition(b"\n\n")
    try:
        first, *hashes = head.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise TransparencyError(Code.PROOF_MALFORMED, "request is not ASCII", stage=_STAGE) from error
    if not blank or not first.startswith("old "):
        raise TransparencyError(Code.PROOF_MALFORMED, "not an add-checkpoint request", stage=_STAGE)
    if len(hashes) > MAX_PATH:
        raise TransparencyError(Code.LIMIT_EXCEEDED, "proof lines", stage=_STAGE, expected=f"≤ {MAX_PATH}")
    return (
        parse_decimal(first.removeprefix("old "), _STAGE),
        tuple(parse_hash(line, _STAGE) for line in hashes),
        note,
    )


def _check_growth(held: Checkpoint | None, new: Checkpoint, path: tuple[bytes, ...]) -> None:
    if held is None or held.size == 0:
        # Every tree grows out of the empty one; only the empty root itself can be wrong.
        if path or (new.size == 0 and new.root != EMPTY_ROOT):
            raise TransparencyError(Code.CONSISTENCY_INVALID, "growth from the empty tree", stage=_STAGE)
        return
    verify_consistency(
        old_size=held.size, new_size=new.size, old_root=held.root, new_root=new.root, path=path
    )


def _conflict(size: int) -> WitnessResponse:
    return WitnessResponse(409, f"{size}\n".encode(), SIZE_TYPE)


def _refusal(status: int) -> WitnessResponse:
    return WitnessResponse(status, b"")


class VolatileWitnessStore:
    """Remembers for as long as the process lives."""

    def __init__(self) -> None:
        self._notes: dict[str, bytes] = {}
        self.forks: list[tuple[str, tuple[bytes, bytes], bytes, bool]] = []

    def load(self, origin: str) -> bytes | None:
        """See WitnessStore."""
        return self._notes.get(origin)

    def replace(self, origin: str, old: bytes | None, new: bytes) -> bool:
        """See WitnessStore."""
        if self._notes.get(origin) != old:
            return False
        self._notes[origin] = new
        return True

    def keep_fork(self, origin: str, notes: tuple[bytes, bytes], proof: bytes, proved: bool) -> None:
        """See WitnessStore."""
        self.forks.append((origin, notes, proof, proved))


class FileWitnessStore:
    """One file per origin in a folder, replaced atomically and durably under a lock. Raises LogError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, origin: str) -> bytes | None:
        """See WitnessStore."""
        try:
            with (self._folder / f"{_name(origin)}.checkpoint").open("rb") as file:
                return file.read(MAX_NOTE + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._broken(error) from error

    def replace(self, origin: str, old: bytes | None, new: bytes) -> bool:
        """See WitnessStore."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if self.load(origin) != old:
                    return False
                replace_file(self._folder / f"{_name(origin)}.checkpoint", new)
                return True
            finally:
                os.close(lock)
        except OSError as error:
            raise self._broken(error) from error

    def keep_fork(self, origin: str, notes: tuple[bytes, bytes], proof: bytes, proved: bool) -> None:
        """See WitnessStore; kept once, however often it is submitted."""
        evidence = {
            "v": 1,
            "origin": origin,
            "notes": [note.decode("utf-8") for note in notes],
            "proof": proof.decode("ascii").split(),
            "proved": proved,
        }
        name = hashlib.sha256(b"\0".join(notes)).hexdigest()[:32]
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(self._folder / f"fork-{name}.json", json.dumps(evidence, indent=1).encode())
        except OSError as error:
            raise self._broken(error) from error

    def _broken(self, error: OSError) -> LogError:
        return LogError(Code.LOG_UNREADABLE, f"witness state {self._folder}: {error.strerror}", stage=_STAGE)


def _name(origin: str) -> str:
    return hashlib.sha256(origin.encode()).hexdigest()
