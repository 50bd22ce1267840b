"""The writer of a log: what it published stays, whatever stops it."""

import os
import stat
from pathlib import Path

import pytest

from measurements.audit import audit
from measurements.checkpoint import open_checkpoint
from measurements.cosignature import verify_cosignatures
from measurements.errors import Code, LogError, TransparencyError
from measurements.log import TileLog
from measurements.merkle import prove_consistency, verify_consistency
from measurements.note import COSIGNATURE_ED25519
from measurements.signing_key import SigningKey
from measurements.tiles import TileReader, changed_tiles, tile_path
from measurements.witness import FileWitnessStore, Witness, WitnessResponse


class Clock:
    def __init__(self) -> None:
        self.seconds = 1_780_000_000

    def __call__(self) -> int:
        return self.seconds


def new_log(folder: Path, key: SigningKey | None = None, clock: Clock | None = None) -> TileLog:
    signing = key or SigningKey.generate("log.example/writer")
    witness = Witness(
        SigningKey.generate("witness.example", COSIGNATURE_ED25519),
        [signing.public],
        FileWitnessStore(folder / "witness"),
        clock or Clock(),
    )
    log = TileLog(folder, signing, [witness])
    log.create()
    return log


def published(folder: Path) -> dict[str, bytes]:
    root = folder / "public"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_growth_across_tiles(tmp_path: Path) -> None:
    log = new_log(tmp_path)
    entries: list[bytes] = []
    seen: dict[str, bytes] = {}
    sizes = []
    for batch in (1, 2, 252, 1, 1, 300, 3):
        new = [f"entry {len(entries) + i}".encode() for i in range(batch)]
        with log.exclusive():
            first, signed = log.append(new)
        assert first == len(entries)
        entries += new
        sizes.append(signed.checkpoint)
        assert log.entries() == tuple(entries)
        assert verify_cosignatures(signed.note, signed.checkpoint, log.witnesses)
        files = published(tmp_path)
        assert all(files[name] == data for name, data in seen.items() if name != "checkpoint")
        seen = files
    newest = sizes[-1]
    node = log.reader(newest.size).node
    for old in sizes:
        verify_consistency(
            old_size=old.size,
            new_size=newest.size,
            old_root=old.root,
            new_root=newest.root,
            path=prove_consistency(old.size, newest.size, node),
        )


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    log = new_log(tmp_path)
    with log.exclusive(), pytest.raises(LogError) as caught, log.exclusive():
        pass
    assert caught.value.code is Code.LOG_BUSY


def test_a_log_is_made_once(tmp_path: Path) -> None:
    log = new_log(tmp_path)
    with pytest.raises(LogError) as caught:
        log.create()
    assert caught.value.code is Code.LOG_EXISTS


def test_a_published_tile_is_never_written_again(tmp_path: Path) -> None:
    log = new_log(tmp_path)
    with log.exclusive():
        log.append([b"one"])
    path = tmp_path / "public" / tile_path(None, 0, 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"what another writer published")
    with pytest.raises(LogError) as caught, log.exclusive():
        log.append([b"two"])
    assert caught.value.code is Code.LOG_CORRUPT
    assert path.read_bytes() == b"what another writer published"


def test_a_witness_that_refuses_stops_publication(tmp_path: Path) -> None:
    class Refusing:
        key = SigningKey.generate("witness.example", COSIGNATURE_ED25519).public

        def add_checkpoint(self, body: bytes) -> WitnessResponse:
            return WitnessResponse(403, b"")

        def latest(self, origin: str) -> bytes | None:
            return None

    key = SigningKey.generate("log.example/refused")
    TileLog(tmp_path, key, []).create()
    log = TileLog(tmp_path, key, [Refusing()])
    with pytest.raises(TransparencyError) as caught, log.exclusive():
        log.append([b"one"])
    assert caught.value.code is Code.WITNESS_QUORUM
    assert log.checkpoint().checkpoint.size == 0
    patient = TileLog(tmp_path, key, [])
    with patient.exclusive():
        pass
    assert patient.entries() == (b"one",)


def test_a_witness_that_is_behind_is_brought_up_to_date(tmp_path: Path) -> None:
    key = SigningKey.generate("log.example/late")
    clock = Clock()
    alone = TileLog(tmp_path, key, [])
    alone.create()
    with alone.exclusive():
        alone.append([b"one", b"two", b"three"])
    late = Witness(
        SigningKey.generate("late.example", COSIGNATURE_ED25519),
        [key.public],
        FileWitnessStore(tmp_path / "w"),
        clock,
    )
    log = TileLog(tmp_path, key, [late])
    with log.exclusive():
        log.append([b"four"])
    with log.exclusive():
        log.append([b"five"])
    clock.seconds += 3600
    with log.exclusive():
        signed = log.recosign()
    found = verify_cosignatures(signed.note, signed.checkpoint, [late.key])
    assert [cosignature.time for cosignature in found] == [clock.seconds]
    assert open_checkpoint((tmp_path / "public" / "checkpoint").read_bytes(), [key.public]) == signed


def test_the_log_reads_nothing_outside_its_size(tmp_path: Path) -> None:
    log = new_log(tmp_path)
    with log.exclusive():
        log.append([b"one", b"two"])
    for level, index in ((0, 2), (1, 1), (8, 0), (20, 3)):
        with pytest.raises(LogError):
            TileReader(lambda name: (tmp_path / "public" / name).read_bytes(), 2).node(level, index)


def test_an_oversized_entry_or_batch_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    log = new_log(tmp_path)
    before = published(tmp_path)
    for batch in ([b"a" * 65_536], [], [b"a"] * 4097):
        with log.exclusive(), pytest.raises(LogError) as caught:
            log.append(batch)
        assert caught.value.code is Code.LIMIT_EXCEEDED
    assert published(tmp_path) == before
    assert not (tmp_path / "writer" / "journal").exists()
    with log.exclusive():
        log.append([b"a" * 65_535])
    assert len(log.entries()[0]) == 65_535


def test_tile_names() -> None:
    assert tile_path(0, 1_234_067) == "tile/0/x001/x234/067"
    assert tile_path(None, 5, 17) == "tile/entries/005.p/17"
    assert tile_path(3, 1000) == "tile/3/x001/000"
    assert list(changed_tiles(0, 70_000))[-3:] == [(1, 0, 256), (1, 1, 17), (2, 0, 1)]
    assert list(changed_tiles(256, 256)) == []
    assert list(changed_tiles(255, 256)) == [(0, 0, 256), (1, 0, 1)]


def test_an_audit_needs_every_tile(tmp_path: Path) -> None:
    log = new_log(tmp_path)
    with log.exclusive():
        log.append([b"%d" % i for i in range(600)])
    files = published(tmp_path)
    checkpoint = log.checkpoint().checkpoint

    def read(name: str) -> bytes:
        if name not in present:
            raise FileNotFoundError(name)
        return present[name]

    for name in files:
        if name != "checkpoint":
            present = {key: value for key, value in files.items() if key != name}
            with pytest.raises(LogError):
                audit(read, checkpoint)
    present = files
    assert len(audit(read, checkpoint)) == 600


def test_keys_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    key = SigningKey.generate("name.example")
    key.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert SigningKey.load(path).public == key.public
    with pytest.raises(LogError):
        key.save(path)
    os.chmod(path, 0o640)
    with pytest.raises(LogError) as caught:
        SigningKey.load(path)
    assert caught.value.code is Code.KEY_UNUSABLE
