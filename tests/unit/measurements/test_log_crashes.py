"""Killed or without power at any step: no acknowledged entry is lost, and nothing published ever changes."""

import os
import random
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from measurements.checkpoint import open_checkpoint
from measurements.errors import Code, LogError
from measurements.journal import Journal
from measurements.log import TileLog
from measurements.merkle import prove_consistency, verify_consistency
from measurements.note import COSIGNATURE_ED25519
from measurements.signing_key import SigningKey
from measurements.witness import Witness
from measurements.witness_database import WitnessDatabase

LOG_KEY = SigningKey.generate("log.example/crash")
WITNESS_KEY = SigningKey.generate("witness.example", COSIGNATURE_ED25519)
FIRST = [b"%d" % number for number in range(255)]
SECOND = [b"next", b"after", b"that"]  # fills a tile, begins another and the level above


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory where there is one: a killed process leaves the same there, and sooner."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as folder:
        yield Path(folder)


def open_log(folder: Path, witness: Path) -> TileLog:
    """The witness has a disk of its own: what it saw stays seen."""
    store = WitnessDatabase(witness)
    return TileLog(folder, LOG_KEY, [Witness(WITNESS_KEY, [LOG_KEY.public], store, lambda: 1_780_000_000)])


def start(folder: Path) -> TileLog:
    folder.mkdir(parents=True)
    log = open_log(folder / "log", folder / "witness.db")
    log.create()
    with log.exclusive():
        log.append(FIRST)
    return log


def published(folder: Path) -> dict[str, bytes]:
    root = folder / "public"
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith(".") and path.name != "checkpoint"
    }


def check_after(folder: Path, witness: Path, before: dict[str, bytes], *, acknowledged: bool) -> None:
    """The next writer goes on, from one of the two sizes that are right, and the log is whole."""
    found = published(folder)
    assert all(found[name] == data for name, data in before.items())
    log = open_log(folder, witness)
    with log.exclusive():
        held = log.entries()
        assert held in ((*FIRST,), (*FIRST, *SECOND))
        assert not acknowledged or len(held) == len(FIRST) + len(SECOND)
        # What had been published of the batch already is what the recovery wrote.
        later = published(folder)
        assert all(later[name] == data for name, data in found.items())
        old = log.checkpoint().checkpoint
        log.append([b"last"])
    assert log.entries() == (*held, b"last")
    new = log.checkpoint().checkpoint
    path = prove_consistency(old.size, new.size, log.reader(new.size).node)
    verify_consistency(old_size=old.size, new_size=new.size, old_root=old.root, new_root=new.root, path=path)
    seen = WitnessDatabase(witness)
    assert seen.forks() == ()
    note = seen.load(LOG_KEY.public.name)
    assert note is not None
    assert open_checkpoint(note, (LOG_KEY.public,)).checkpoint == new


STEPS = ("open", "fsync", "replace", "unlink", "mkdir")


@contextmanager
def stepping(
    before: Callable[[str, tuple[Any, ...]], None], after: Callable[[str, tuple[Any, ...]], None]
) -> Iterator[None]:
    """Every call that changes a disk is announced before and after it happens."""
    real = {name: getattr(os, name) for name in STEPS}

    def announced(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            writes = name != "open" or (arguments[1] & os.O_CREAT)
            if writes:
                before(name, arguments)
            result = real[name](*arguments, **options)
            if writes:
                after(name, (*arguments, result))
            return result

        return call

    for name in STEPS:
        setattr(os, name, announced(name))
    try:
        yield
    finally:
        for name, function in real.items():
            setattr(os, name, function)


def append_and_die(log: TileLog, step: int) -> bool:
    """In a process of its own: SIGKILL before its ``step``-th change of the disk. False once it survives."""
    child = os.fork()
    if child == 0:
        taken = 0

        def before(_: str, __: tuple[Any, ...]) -> None:
            nonlocal taken
            taken += 1
            if taken > step:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            with stepping(before, lambda *_: None), log.exclusive():
                log.append(SECOND)
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
    return os.WIFSIGNALED(status)


def test_kill_9_at_every_step(memory: Path) -> None:
    origin = memory / "origin"
    start(origin)
    before = published(origin / "log")
    for step in range(500):
        folder = memory / str(step)
        shutil.copytree(origin, folder)
        killed = append_and_die(open_log(folder / "log", folder / "witness.db"), step)
        check_after(folder / "log", folder / "witness.db", before, acknowledged=not killed)
        if not killed:
            break
    assert step > 20


class Disk:
    """What a disk holds for certain, while a log is written: file contents that were synced, and names whose
    folder was.

    ``certain`` and ``pending`` hold, by path, a content or None (removed).
    """

    def __init__(self, root: Path, witness: Path) -> None:
        self.root = root
        self.witness = witness
        self.certain: dict[Path, bytes | None] = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
        self.pending: list[tuple[Path, bytes | None]] = []
        self.synced: dict[Path, bytes] = {}
        self.moments: list[tuple[dict[Path, bytes | None], list[tuple[Path, bytes | None]], bytes]] = []

    def after(self, name: str, arguments: tuple[Any, ...]) -> None:
        if name == "fsync":
            path = Path(os.readlink(f"/proc/self/fd/{arguments[0]}"))
            if path.is_dir():
                for changed, content in self.pending:
                    if changed.parent == path:
                        self.certain[changed] = content
                self.pending = [one for one in self.pending if one[0].parent != path]
            else:
                self.synced[path] = path.read_bytes()
        elif name == "replace":
            source, target = map(Path, arguments[:2])
            # Unsynced content may be anything after a power failure.
            self.pending.append((target, self.synced.pop(source, b"\0torn\0")))
        elif name == "unlink":
            self.pending.append((Path(arguments[0]), None))
        # The witness's disk is durable before it answers.
        self.moments.append((dict(self.certain), list(self.pending), self.witness.read_bytes()))

    def restore(self, moment: int, chance: random.Random, folder: Path) -> None:
        """The disk after a power failure at that moment: what is certain, and any part of what is pending."""
        certain, pending, witness = self.moments[moment]
        for path, content in (*certain.items(), *(one for one in pending if chance.random() < 0.5)):
            target = folder / path.relative_to(self.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            if content is not None:
                target.write_bytes(content)
        (folder.parent / "witness.db").write_bytes(witness)


def test_a_power_failure_at_every_step(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # One file at a time, so that each moment is one step; in whichever order, nothing may depend on it.
    monkeypatch.setattr("measurements.durable._AT_ONCE", 1)
    origin = memory / "origin"
    log = start(origin)
    before = published(origin / "log")
    disk = Disk(origin / "log", origin / "witness.db")
    with stepping(lambda *_: None, disk.after), log.exclusive():
        log.append(SECOND)
    moments = len(disk.moments)
    assert moments > 20
    chance = random.Random(7)
    for moment in range(moments):
        for draw in range(2):
            folder = memory / f"{moment}-{draw}"
            disk.restore(moment, chance, folder / "log")
            check_after(folder / "log", folder / "witness.db", before, acknowledged=moment == moments - 1)


def test_without_the_journal_an_entry_would_be_lost(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the same kill, and the journal that the writer would have left is not there."""
    origin = memory / "origin"
    start(origin)
    before = published(origin / "log")
    lost = 0
    for step in range(60):
        folder = memory / str(step)
        shutil.copytree(origin, folder)
        if not append_and_die(open_log(folder / "log", folder / "witness.db"), step):
            break
        (folder / "log" / "writer" / "journal").unlink(missing_ok=True)
        try:
            check_after(folder / "log", folder / "witness.db", before, acknowledged=False)
        except (LogError, AssertionError):
            lost += 1
            break
    assert lost


def test_a_crash_in_the_middle_of_a_recovery(memory: Path) -> None:
    origin = memory / "origin"
    start(origin)
    before = published(origin / "log")
    half = memory / "half"
    shutil.copytree(origin, half)
    assert append_and_die(open_log(half / "log", half / "witness.db"), 12)
    assert (half / "log" / "writer" / "journal").is_file()
    for step in range(60):
        folder = memory / f"again-{step}"
        shutil.copytree(half, folder)
        log = open_log(folder / "log", folder / "witness.db")
        child = os.fork()
        if child == 0:
            taken = 0

            def kill(_: str, __: tuple[Any, ...], step: int = step) -> None:
                nonlocal taken
                taken += 1
                if taken > step:
                    os.kill(os.getpid(), signal.SIGKILL)

            try:
                with stepping(kill, lambda *_: None), log.exclusive():
                    pass
            except BaseException:
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        check_after(folder / "log", folder / "witness.db", before, acknowledged=True)
        if not os.WIFSIGNALED(status):
            break
    assert step > 5


def test_a_journal_that_is_none(memory: Path) -> None:
    journal = Journal(memory / "journal")
    assert journal.read() is None
    journal.write(3, [b"one", b"", b"three" * 9])
    assert journal.read() == (3, (b"one", b"", b"three" * 9))
    good = (memory / "journal").read_bytes()
    for at in range(len(good)):
        for data in (good[:at], good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]):
            (memory / "journal").write_bytes(data)
            with pytest.raises(LogError) as caught:
                journal.read()
            assert caught.value.code is Code.LOG_CORRUPT
    (memory / "journal").write_bytes(good)
    journal.forget()
    journal.forget()
    assert journal.read() is None
