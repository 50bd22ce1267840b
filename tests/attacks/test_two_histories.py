"""Attempts to have two histories of one log believed. Each stands beside a control that succeeds once the one defence
is taken away."""

import shutil
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from log_programs import ask

from measurements import audit, log, monitor
from measurements.audit import replay
from measurements.checkpoint import Checkpoint, open_checkpoint
from measurements.errors import Code, LogError, TransparencyError
from measurements.log import TileLog
from measurements.log_server import log_application
from measurements.log_source import FolderSource
from measurements.merkle import TreeFold, leaf_hash, prove_consistency, tree_hash
from measurements.monitor import PROVED, Monitor
from measurements.monitor_state import StateFolder
from measurements.note import COSIGNATURE_ED25519, Note
from measurements.policy import TransparencyPolicy
from measurements.signing_key import SigningKey
from measurements.tlog_policy import TlogPolicy
from measurements.views import SplitView
from measurements.witness import VolatileWitnessStore, Witness, encode_request
from measurements.witness_database import WitnessDatabase

AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
NOW = int(AT.timestamp())


class Log:
    """A log whose operator lies, and an honest witness with a database."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = SigningKey.generate("log.example/two")
        self.witness_key = SigningKey.generate("witness.example", COSIGNATURE_ED25519)
        self.database = WitnessDatabase(folder / "witness.db")
        self.witness = Witness(self.witness_key, [self.key.public], self.database, lambda: NOW)

    def tiles(self, name: str) -> TileLog:
        return TileLog(self.folder / name, self.key, [self.witness])

    def signed(self, leaves: list[bytes]) -> Note:
        checkpoint = Checkpoint(self.key.public.name, len(leaves), tree_hash(map(leaf_hash, leaves)))
        return Note(checkpoint.text, (self.key.sign_note(checkpoint.text),))


@pytest.fixture
def place(tmp_path: Path) -> Log:
    return Log(tmp_path)


def append(tiles: TileLog, *entries: bytes) -> None:
    with tiles.exclusive():
        tiles.append(entries)


def test_write_a_second_history_from_a_backup(place: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator restores yesterday's folder and publishes something else over what was published today."""
    tiles = place.tiles("log")
    tiles.create()
    append(tiles, b"yesterday")
    shutil.copytree(place.folder / "log", place.folder / "backup")
    append(tiles, b"today")
    second = place.tiles("backup")
    with pytest.raises(LogError) as caught:
        append(second, b"instead of today")
    assert caught.value.code is Code.LOG_CORRUPT
    assert place.database.forks() == ()  # nothing was signed that could be shown to anybody

    # Without the look at what witnesses hold, the log signs it: the witness still refuses, and now holds the proof.
    monkeypatch.setattr(log, "check_known_views", lambda *_: None)
    with pytest.raises(TransparencyError) as refused:
        append(second, b"instead of today")
    assert refused.value.code is Code.WITNESS_QUORUM
    assert [fork.proved for fork in place.database.forks()] == [True]
    # And with a witness that forgets, it is published.
    amnesia = Witness(place.witness_key, [place.key.public], VolatileWitnessStore(), lambda: NOW)
    append(TileLog(place.folder / "backup", place.key, [amnesia]), b"and more")
    assert b"instead of today" in place.tiles("backup").entries()


class RacyStore(VolatileWitnessStore):
    """Looks, and then writes, as if nobody could come between."""

    def __init__(self, between: Callable[[], None]) -> None:
        super().__init__()
        self.between = between

    def replace(self, origin: str, old: bytes | None, new: bytes) -> bool:
        self.between()
        self._notes[origin] = new
        return True


def race(place: Log, store: VolatileWitnessStore | WitnessDatabase) -> list[int]:
    """Two requests that both grow size 1, into two histories, at the same time."""
    witness = Witness(place.witness_key, [place.key.public], store, lambda: NOW)
    first = [b"one"]
    assert witness.add_checkpoint(encode_request(0, (), place.signed(first).encode())).status == 200
    answers: list[int] = []

    def submit(leaf: bytes) -> None:
        leaves = [*first, leaf]
        path = prove_consistency(1, 2, lambda _, at: leaf_hash(leaves[at]))
        answers.append(witness.add_checkpoint(encode_request(1, path, place.signed(leaves).encode())).status)

    threads = [threading.Thread(target=submit, args=(leaf,)) for leaf in (b"two", b"another two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(answers)


def test_race_a_witness_into_two_histories(place: Log) -> None:
    for number in range(5):
        store = WitnessDatabase(place.folder / f"race{number}.db")
        assert race(place, store) == [200, 409]
    # Without compare and swap both are cosigned.
    barrier = threading.Barrier(2, timeout=20)
    waiting: list[bool] = [False]

    def together() -> None:
        if waiting[0]:
            barrier.wait()
        waiting[0] = True

    assert race(place, RacyStore(together)) == [200, 200]


def watched(place: Log, *others: str) -> int:
    trust = TlogPolicy.threshold(place.key.public, [place.witness_key.public], 1)
    policy = TransparencyPolicy(trust, (SigningKey.generate("s.example").public,), 1, "prod")
    state = StateFolder(place.folder / ("state" + "".join(others)))
    looking = Monitor(
        policy,
        state,
        FolderSource(place.folder / "log"),
        [FolderSource(place.folder / other) for other in others],
    )
    with state.exclusive():
        report = looking.look(AT)
    for alert in report.alerts:
        if alert.evidence:
            SplitView.parse(Path(alert.evidence).read_bytes()).verify(place.key.public)
            return report.status
    return 0


def test_show_a_victim_another_history(place: Log) -> None:
    """Log and witness collude: no signature is missing anywhere. Whoever sees both holds the proof."""
    tiles = place.tiles("log")
    tiles.create()
    append(tiles, b"for all")
    shutil.copytree(place.folder / "log", place.folder / "secret")
    append(tiles, b"for everybody else")
    amnesia = Witness(place.witness_key, [place.key.public], VolatileWitnessStore(), lambda: NOW)
    append(TileLog(place.folder / "secret", place.key, [amnesia]), b"for the victim", b"and this")
    assert watched(place, "secret") == PROVED
    # Who looks at the log alone sees nothing.
    assert watched(place) == 0


def test_change_an_entry_that_was_read_before(place: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry is exchanged after the monitor has read it, and the tree is built anew on top."""
    honest = [b"entry %d" % number for number in range(300)]
    tiles = place.tiles("log")
    tiles.create()
    append(tiles, *honest)
    seen = replay(
        FolderSource(place.folder / "log").read, tiles.checkpoint().checkpoint, TreeFold(), lambda *_: None
    )
    forged = TileLog(place.folder / "forged", place.key, [])
    forged.create()
    append(forged, b"another beginning", *honest[1:], b"one more")
    source = FolderSource(place.folder / "forged")
    with pytest.raises(LogError) as caught:
        replay(source.read, forged.checkpoint().checkpoint, seen, lambda *_: None)
    assert caught.value.code is Code.LOG_CORRUPT
    # Also where the exchanged entry lies in the tile that goes on.
    late = TileLog(place.folder / "late", place.key, [])
    late.create()
    append(late, *honest[:299], b"another end", b"one more")
    with pytest.raises(LogError) as caught:
        replay(FolderSource(place.folder / "late").read, late.checkpoint().checkpoint, seen, lambda *_: None)
    assert caught.value.code is Code.CONSISTENCY_INVALID
    # A monitor that begins anew each time, and compares nothing with what it saw, accepts both.
    for name, made in (("forged", forged), ("late", late)):
        replay(
            FolderSource(place.folder / name).read, made.checkpoint().checkpoint, TreeFold(), lambda *_: None
        )
    monkeypatch.setattr(audit, "_enough", lambda *_: None)
    replay(FolderSource(place.folder / "late").read, late.checkpoint().checkpoint, seen, lambda *_: None)


def test_serve_tiles_that_are_not_the_trees(place: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries are right, but an upper tile would give others proofs of another tree."""
    tiles = place.tiles("log")
    tiles.create()
    append(tiles, *(b"entry %d" % number for number in range(600)))
    path = place.folder / "log" / "public" / "tile" / "1" / "000.p" / "2"
    path.write_bytes(bytes(32) + path.read_bytes()[32:])
    checkpoint = open_checkpoint(
        (place.folder / "log" / "public" / "checkpoint").read_bytes(), [place.key.public]
    )
    read = FolderSource(place.folder / "log").read
    with pytest.raises(LogError) as caught:
        replay(read, checkpoint.checkpoint, TreeFold(), lambda *_: None)
    assert caught.value.code is Code.LOG_CORRUPT
    monkeypatch.setattr(audit, "_check_tiles", lambda *_: None)
    replay(read, checkpoint.checkpoint, TreeFold(), lambda *_: None)


def test_read_the_logs_key_through_its_server(place: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    tiles = place.tiles("log")
    tiles.create()
    (place.folder / "log" / "keys").mkdir()
    (place.folder / "log" / "keys" / "log.key").write_text("the secret")
    application = log_application(place.folder / "log" / "public")
    attempts = ("/../keys/log.key", "/tile/../../keys/log.key", "/checkpoint/../../keys/log.key")
    for attempt in attempts:
        assert ask(application, "GET", attempt).status == 404
    monkeypatch.setattr("measurements.log_server.resource_file", lambda resource: resource)
    assert ask(application, "GET", attempts[0]).body == b"the secret"


def test_a_monitor_is_made_to_forget(place: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log breaks off in the middle of a look: nothing that was not proved to be under the root is remembered."""
    tiles = place.tiles("log")
    tiles.create()
    append(tiles, b"one")
    watched(place)
    before = (place.folder / "state" / "state.json").read_bytes()
    append(tiles, b"two")
    bundle = place.folder / "log" / "public" / "tile" / "entries" / "000.p" / "2"
    bundle.write_bytes(bundle.read_bytes().replace(b"two", b"TWO"))
    with pytest.raises(TransparencyError):
        watched(place)
    assert (place.folder / "state" / "state.json").read_bytes() == before

    def careless(_: object, checkpoint: Checkpoint, *__: object) -> TreeFold:
        fold = TreeFold()
        for leaf in (b"one", b"TWO"):
            fold.add(leaf_hash(leaf))
        return fold

    monkeypatch.setattr(monitor, "replay", careless)
    watched(place)
    assert (place.folder / "state" / "state.json").read_bytes() != before
