"""Our log's folder and program, read by an implementation of the same formats that shares no code with ours."""

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from log_programs import running

from measurements.log import TileLog
from measurements.merkle import leaf_hash, prove_consistency, prove_inclusion
from measurements.note import COSIGNATURE_ED25519, VerifierKey
from measurements.signing_key import SigningKey
from measurements.witness import VolatileWitnessStore, Witness

other: Any = pytest.importorskip(
    "aics_tlog", reason="the other implementation (aics-tlog, for Python 3.12 and later) is not installed"
)

SIZES = (1, 2, 255, 256, 257, 700)


def entry(number: int) -> bytes:
    return b'{"n":%d}' % number * (1 + number % 7)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> TileLog:
    """A log grown in steps, cosigned by two witnesses, with every partial tile of its sizes."""
    key = SigningKey.generate("log.example/read-by-others")
    now = int(datetime(2026, 6, 1, tzinfo=UTC).timestamp())
    witnesses = [
        Witness(
            SigningKey.generate(f"witness{n}.example", COSIGNATURE_ED25519),
            [key.public],
            VolatileWitnessStore(),
            lambda: now,
        )
        for n in range(2)
    ]
    made = TileLog(tmp_path_factory.mktemp("log"), key, witnesses)
    made.create()
    for old, new in zip((0, *SIZES), SIZES, strict=False):
        with made.exclusive():
            made.append([entry(number) for number in range(old, new)])
    return made


def vkey(key: VerifierKey) -> Any:
    return other.parse_vkey(str(key))


def test_the_folder_is_read_and_audited(log: TileLog) -> None:
    reader = other.FileSystemTileReader(log.public)
    note = other.parse_note((log.public / "checkpoint").read_bytes())
    verdict = other.verify_checkpoint(note, vkey(log.key), [vkey(key) for key in log.witnesses], quorum=2)
    assert verdict.ok, verdict
    checkpoint = log.checkpoint().checkpoint
    report = other.audit_tiles(reader, checkpoint.size, checkpoint.root)
    assert (report.size, report.bundles) == (700, 3)
    for number in (0, 255, 256, 699):
        assert other.read_entry(reader, number, 700) == entry(number)


def test_roots_and_proofs_are_the_same(log: TileLog) -> None:
    reader = other.FileSystemTileReader(log.public)
    for size in SIZES:
        root = other.tree_root_from_tiles(reader, size, 700)
        node = log.reader(700).node
        for index in {0, size // 2, size - 1}:
            path = prove_inclusion(index, size, log.reader(700).node)
            assert list(path) == list(other.inclusion_proof_from_tiles(reader, index, size, 700))
            assert other.verify_inclusion(leaf_hash(entry(index)), index, size, list(path), root)
        for old in (one for one in SIZES if one < size):
            proof = prove_consistency(old, size, node)
            assert list(proof) == list(other.consistency_proof_from_tiles(reader, old, size, 700))
            before = other.tree_root_from_tiles(reader, old, 700)
            assert other.verify_consistency(old, size, before, root, list(proof))


def test_a_changed_file_is_refused_by_the_other_too(log: TileLog, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(log.public, copy)
    checkpoint = log.checkpoint().checkpoint
    path = copy / "tile" / "0" / "001"
    path.write_bytes(bytes(32) + path.read_bytes()[32:])
    with pytest.raises(Exception, match=r"000|001|tile"):
        other.audit_tiles(other.FileSystemTileReader(copy), checkpoint.size, checkpoint.root)


def test_the_program_is_read_over_http(log: TileLog) -> None:
    with running("log", "serve", "--log", str(log.public.parent)) as url:
        reader = other.HttpTileReader(url, proxies={})
        checkpoint = log.checkpoint().checkpoint
        report = other.audit_tiles(reader, checkpoint.size, checkpoint.root)
        assert report.size == 700
        fetched = reader.fetch_checkpoints()
        assert [one.data for one in fetched] == [(log.public / "checkpoint").read_bytes()]


def test_tiles_of_the_same_leaves_are_byte_for_byte_the_same(log: TileLog) -> None:
    theirs = other.tiles.materialise_tiles([entry(number) for number in range(700)])
    assert len(theirs) > 6
    for name, data in theirs.items():
        assert (log.public / name).read_bytes() == data, name
