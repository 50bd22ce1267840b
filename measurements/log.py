"""The writer of a log in files (c2sp.org/tlog-tiles): what it has once published never changes.

    LOG/public/checkpoint          the newest cosigned checkpoint
    LOG/public/tile/…              tiles and entry bundles; LOG/public can be served by any static host
    LOG/writer/lock, journal       one writer at a time; a batch is durable here before anything is published

A batch goes: lock, journal (fsync), bundles and tiles (each whole or absent, all durable), root read back from
the disk, consistency proof from the last signed checkpoint, signature, cosignatures, ``checkpoint``. A crash anywhere
leaves a journal, and the next writer finishes exactly that batch. The log's signature is deterministic, so
finishing twice signs the same bytes: no crash makes a fork.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from .audit import OnEntry, audit, replay
from .checkpoint import Checkpoint, SignedCheckpoint, open_checkpoint
from .cosigning import Asked, Cosigner, ask_witnesses, check_known_views
from .dsse import MAX_LEAF
from .durable import add_files, make_folder, replace_file
from .errors import Code, LogError, TransparencyError
from .journal import Journal
from .merkle import (
    EMPTY_ROOT,
    TreeFold,
    complete_root,
    leaf_hash,
    prove_consistency,
    root_hash,
    verify_consistency,
)
from .note import Note, VerifierKey
from .signing_key import SigningKey
from .tiles import HASH, MAX_BUNDLE, WIDTH, TileReader, changed_tiles, encode_bundle, tile_path, tile_width
from .tlog_policy import TlogPolicy

MAX_BATCH: Final = 4096
_STAGE: Final = "log"


class TileLog:
    """A log in files. Its origin is the name of its key.

    What it publishes is cosigned by ``quorum`` of the witnesses (None: by all of them); ``trust`` says the same
    to whoever reads it.
    """

    def __init__(
        self, folder: Path, key: SigningKey, witnesses: Sequence[Cosigner], *, quorum: int | None = None
    ) -> None:
        self._public = folder / "public"
        self._writer = folder / "writer"
        self._journal = Journal(self._writer / "journal")
        self._key = key
        self._witnesses = tuple(witnesses)
        self._needed = len(self._witnesses) if quorum is None else quorum
        self.trust = TlogPolicy.threshold(key.public, self.witnesses, self._needed)
        self._asked: tuple[Asked, ...] = ()

    @property
    def key(self) -> VerifierKey:
        """The log's public key; its name is the origin."""
        return self._key.public

    @property
    def witnesses(self) -> tuple[VerifierKey, ...]:
        """The keys of the witnesses that are asked."""
        return tuple(witness.key for witness in self._witnesses)

    @property
    def asked(self) -> tuple[Asked, ...]:
        """What each witness did when this object last published."""
        return self._asked

    @property
    def public(self) -> Path:
        """The folder that any static web server may serve."""
        return self._public

    def create(self) -> SignedCheckpoint:
        """Publish the empty tree. Raises LogError (LOG_EXISTS) where a log is there already."""
        with self.exclusive():
            if (self._public / "checkpoint").exists():
                raise LogError(Code.LOG_EXISTS, f"{self._public} is a log already", stage=_STAGE)
            return self._publish(None, Checkpoint(self.key.name, 0, EMPTY_ROOT))

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the log for writing, and finish what a crash left. Raises LogError (LOG_BUSY, LOG_CORRUPT)."""
        lock = -1
        try:
            make_folder(self._public)
            make_folder(self._writer, 0o700)
            lock = os.open(self._writer / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise LogError(Code.LOG_BUSY, "another writer holds the log", stage=_STAGE) from error
            self._recover()
            yield
        except OSError as error:
            raise LogError(
                Code.LOG_UNREADABLE, f"{error.filename}: {error.strerror}", stage=_STAGE
            ) from error
        finally:
            if lock >= 0:
                os.close(lock)

    def checkpoint(self) -> SignedCheckpoint:
        """The published checkpoint, its log signature verified. Raises TransparencyError."""
        try:
            data = self._read("checkpoint")
        except FileNotFoundError as error:
            raise LogError(Code.LOG_UNREADABLE, f"{self._public} holds no log", stage=_STAGE) from error
        return open_checkpoint(data, (self.key,))

    def entries(self) -> tuple[bytes, ...]:
        """Every entry under the published checkpoint, the whole tree rebuilt and compared.

        Raises LogError.
        """
        return audit(self._read, self.checkpoint().checkpoint)

    def read_on(self, seen: TreeFold, entry: OnEntry) -> TreeFold:
        """What the published checkpoint adds to ``seen``, as ``audit.replay`` reads it. Raises LogError."""
        return replay(self._read, self.checkpoint().checkpoint, seen, entry)

    def reader(self, size: int) -> TileReader:
        """Hashes of the first ``size`` leaves, to make proofs of."""
        return TileReader(self._read, size)

    def append(self, entries: Sequence[bytes]) -> tuple[int, SignedCheckpoint]:
        """Add a batch inside ``exclusive()``: the index of its first entry, and the checkpoint that covers
        it.

        Raises LogError (LIMIT_EXCEEDED, LOG_CORRUPT) and TransparencyError (WITNESS_QUORUM,
        CONSISTENCY_INVALID); after a refusal of a witness the batch stays in the journal and is finished by
        the next writer.
        """
        if not 0 < len(entries) <= MAX_BATCH:
            raise LogError(
                Code.LIMIT_EXCEEDED, "entries in a batch", stage=_STAGE, expected=f"1 to {MAX_BATCH}"
            )
        if any(len(entry) > MAX_LEAF for entry in entries):
            raise LogError(Code.LIMIT_EXCEEDED, "entry", stage=_STAGE, expected=f"≤ {MAX_LEAF} B")
        old = self.checkpoint()
        self._journal.write(old.checkpoint.size, entries)
        return old.checkpoint.size, self._finish(old, entries)

    def recosign(self) -> SignedCheckpoint:
        """Have the witnesses look again, inside ``exclusive()``: the same tree with fresh cosignatures."""
        signed = self.checkpoint()
        return self._publish(signed.checkpoint, signed.checkpoint)

    def _recover(self) -> None:
        unfinished = self._journal.read()
        if unfinished is None:
            return
        size, entries = unfinished
        old = self.checkpoint()
        if old.checkpoint.size == size:
            self._finish(old, entries)
        elif old.checkpoint.size == size + len(entries):
            self._journal.forget()
        else:
            raise LogError(
                Code.LOG_CORRUPT,
                "the journal belongs to another size",
                stage=_STAGE,
                expected=size,
                found=old.checkpoint.size,
            )

    def _finish(self, old: SignedCheckpoint, entries: Sequence[bytes]) -> SignedCheckpoint:
        size = old.checkpoint.size + len(entries)
        self._write_tiles(old.checkpoint.size, size, entries)
        root = root_hash(size, self.reader(size).node)
        signed = self._publish(old.checkpoint, Checkpoint(self.key.name, size, root))
        self._journal.forget()
        return signed

    def _write_tiles(self, old_size: int, size: int, entries: Sequence[bytes]) -> None:
        before = self.reader(old_size)
        files: dict[str, bytes] = {}
        roots: dict[tuple[int, int], bytes] = {}
        for height, index, width in changed_tiles(old_size, size):
            held = tile_width(height, index, old_size)
            if height == 0:
                first = index * WIDTH + held - old_size
                bundle = (*(before.bundle(index) if held else ()), *entries[first : first + width - held])
                files[tile_path(None, index, width)] = encode_bundle(bundle)
                hashes = [leaf_hash(entry) for entry in bundle]
            else:
                kept = before.tile(height, index) if held else b""
                hashes = [kept[at : at + HASH] for at in range(0, len(kept), HASH)]
                # Levels come lowest first: the roots of the tiles below that have just become full are known.
                hashes += [roots[height - 1, index * WIDTH + place] for place in range(held, width)]
            if width == WIDTH:
                roots[height, index] = complete_root(hashes)
            files[tile_path(height, index, width)] = b"".join(hashes)
        add_files({self._public / name: data for name, data in files.items() if self._absent(name, data)})

    def _absent(self, name: str, data: bytes) -> bool:
        """Whether a file is still to be written; one that is there must be the same."""
        try:
            if self._read(name) != data:
                raise LogError(Code.LOG_CORRUPT, f"{name} is published with other content", stage=_STAGE)
        except FileNotFoundError:
            return True
        return False

    def _publish(self, old: Checkpoint | None, new: Checkpoint) -> SignedCheckpoint:
        def prove(size: int) -> tuple[bytes, ...]:
            return prove_consistency(size, new.size, self.reader(new.size).node)

        if old is not None and old.size:
            verify_consistency(
                old_size=old.size,
                new_size=new.size,
                old_root=old.root,
                new_root=new.root,
                path=prove(old.size),
            )
        check_known_views(
            self._witnesses, self.key, new.size, lambda size: root_hash(size, self.reader(size).node)
        )
        note = Note(new.text, (self._key.sign_note(new.text),))
        self._asked = ask_witnesses(self._witnesses, new, note, old.size if old else 0, prove)
        if not self.trust.met_by(one.key for one in self._asked if one.lines):
            raise self._too_few()
        lines = [line for one in self._asked for line in one.lines]
        cosigned = Note(note.text, (*note.signatures, *lines))
        replace_file(self._public / "checkpoint", cosigned.encode())
        return SignedCheckpoint(new, cosigned, self.key)

    def _too_few(self) -> TransparencyError:
        refusals = [f"{one.key.name}: {one.refusal}" for one in self._asked if one.refusal]
        return TransparencyError(
            Code.WITNESS_QUORUM,
            f"too few witnesses cosigned; what was to be published is kept for the next try: {'; '.join(refusals)}",
            stage="witness",
            expected=self._needed,
            found=len(self._asked) - len(refusals),
        )

    def _read(self, name: str) -> bytes:
        with (self._public / name).open("rb") as file:
            return file.read(MAX_BUNDLE + 1)
