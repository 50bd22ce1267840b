"""Merkle proofs, tiles, self-contained proofs and split views against the shared vectors."""

import base64
import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from measurements.audit import audit
from measurements.checkpoint import open_checkpoint
from measurements.errors import TransparencyError
from measurements.log import MAX_BATCH, TileLog
from measurements.merkle import (
    TreeFold,
    leaf_hash,
    node_hash,
    prove_consistency,
    prove_inclusion,
    root_hash,
    verify_consistency,
    verify_inclusion,
)
from measurements.note import VerifierKey
from measurements.signing_key import SigningKey
from measurements.tiles import TileReader, tile_path
from measurements.tlog_policy import TlogPolicy
from measurements.tlog_proof import TlogProof
from measurements.views import SplitView, compare_views


def load(folder: Path, name: str) -> Any:
    path = folder / "transparency" / name
    if not path.is_file():
        pytest.skip(f"{name} is not among the vectors")
    return json.loads(path.read_text())


def accepted(check: Any) -> bool:
    try:
        check()
    except TransparencyError:
        return False
    return True


def decode(value: str | None) -> bytes:
    return base64.b64decode(value or "")


def test_inclusion_proofs(vectors: Path) -> None:
    listed = load(vectors, "merkle/inclusion.json")["cases"]
    wrong = [
        case["name"]
        for case in listed
        if accepted(
            lambda case=case: verify_inclusion(
                index=case["leafIdx"],
                size=case["treeSize"],
                leaf=decode(case["leafHash"]),
                path=[decode(value) for value in case["proof"] or ()],
                root=decode(case["root"]),
            )
        )
        is case["wantErr"]
    ]
    assert listed
    assert wrong == []


def test_consistency_proofs(vectors: Path) -> None:
    listed = load(vectors, "merkle/consistency.json")["cases"]
    wrong = [
        case["name"]
        for case in listed
        if accepted(
            lambda case=case: verify_consistency(
                old_size=case["size1"],
                new_size=case["size2"],
                old_root=decode(case["root1"]),
                new_root=decode(case["root2"]),
                path=[decode(value) for value in case["proof"] or ()],
            )
        )
        is case["wantErr"]
    ]
    assert listed
    assert wrong == []


@pytest.mark.parametrize("limit", [70_000, pytest.param(1_000_000, marks=pytest.mark.exhaustive)])
def test_the_deterministic_tree(vectors: Path, limit: int) -> None:
    """Roots and proofs up to ``limit`` leaves."""
    case = load(vectors, "merkle/deterministic-tree.json")
    levels = [[leaf_hash(f"entry {i}".encode()) for i in range(limit)]]
    while len(levels[-1]) > 1:
        below = levels[-1]
        levels.append([node_hash(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)])

    def node(level: int, index: int) -> bytes:
        return levels[level][index]

    roots = {int(size): decode(root) for size, root in case["roots"].items() if int(size) <= limit}
    assert {size: root_hash(size, node) for size in roots} == roots
    fold = TreeFold()
    for leaf in levels[0][:257]:
        fold.add(leaf)
    assert fold.root() == roots[257]
    proved = 0
    for proof in case["inclusion"]:
        if proof["size"] <= limit:
            path = tuple(decode(value) for value in proof["proof"])
            assert prove_inclusion(proof["index"], proof["size"], node) == path
            verify_inclusion(
                index=proof["index"],
                size=proof["size"],
                leaf=levels[0][proof["index"]],
                path=path,
                root=roots.get(proof["size"]) or root_hash(proof["size"], node),
            )
            proved += 1
    for proof in case["consistency"]:
        if proof["new"] <= limit:
            path = tuple(decode(value) for value in proof["proof"])
            assert prove_consistency(proof["old"], proof["new"], node) == path
            verify_consistency(
                old_size=proof["old"],
                new_size=proof["new"],
                old_root=root_hash(proof["old"], node),
                new_root=root_hash(proof["new"], node),
                path=path,
            )
            proved += 1
    assert proved > 4


def test_tile_names_of_the_deterministic_tree(vectors: Path) -> None:
    names = load(vectors, "merkle/deterministic-tree.json")["tiles_sha256"]
    assert tile_path(0, 3906, 64) in {name.split(":")[1] for name in names}
    for name in names:
        level, rest = name.split(":tile/")[1].split("/", 1)
        number, _, width = rest.partition(".p/")
        index = int("".join(part.lstrip("x") for part in number.split("/")))
        assert tile_path(int(level), index, int(width or 256)) == name.split(":")[1]


def test_we_write_the_log_that_tessera_wrote(vectors: Path, tmp_path: Path) -> None:
    case = load(vectors, "tiles/tessera-testdata.json")
    theirs = vectors / "transparency" / "tiles" / "tessera-testdata"
    log = TileLog(tmp_path, SigningKey.parse(case["signing_key_test_only"]), ())
    log.create()
    for size, entry in enumerate(case["entries"], 1):
        with log.exclusive():
            log.append([entry.encode()])
        published = (tmp_path / "public" / "checkpoint").read_bytes()
        expected = theirs / f"checkpoint.{size}"
        if expected.is_file():
            assert published == expected.read_bytes()
    compared = 0
    for path in sorted((theirs / "tile").rglob("*")):
        if path.is_file():
            name = path.relative_to(theirs)
            assert (tmp_path / "public" / name).read_bytes() == path.read_bytes(), name
            compared += 1
    assert compared > 20


def test_an_audited_log_and_its_corruptions(vectors: Path) -> None:
    case = load(vectors, "tiles/log-700.json")
    folder = vectors / "transparency" / "tiles" / "log-700"
    key = VerifierKey.parse(case["vkey"])

    def check(replaced: dict[str, bytes]) -> tuple[bytes, ...]:
        def read(name: str) -> bytes:
            return replaced[name] if name in replaced else (folder / name).read_bytes()

        return audit(read, open_checkpoint(read("checkpoint"), (key,)).checkpoint)

    assert len(check({})) == case["size"]
    reader = TileReader(lambda name: (folder / name).read_bytes(), case["size"])
    for note in case["checkpoints"].values():
        checkpoint = open_checkpoint(note.encode(), (key,)).checkpoint
        assert root_hash(checkpoint.size, reader.node) == checkpoint.root
    for patch in load(vectors, "tiles/log-700-patches.json"):
        replaced = {patch["replace"]: base64.b64decode(patch["with_base64"])}
        assert accepted(lambda replaced=replaced: check(replaced)) is (patch["expect"] == "accept"), patch[
            "name"
        ]


def test_self_contained_proofs(vectors: Path) -> None:
    def check(case: dict[str, Any]) -> None:
        policy = TlogPolicy.threshold(
            VerifierKey.parse(case["log_vkey"]),
            [VerifierKey.parse(vkey) for vkey in case["witness_vkeys"]],
            case["k_of_n"],
        )
        proof = TlogProof.parse(case["proof"].encode())
        signed = policy.open(proof.checkpoint)
        at = datetime(2100, 1, 1, tzinfo=UTC)
        policy.check_witnesses(signed, at=at, max_age_s=None, max_future_s=0)
        proof.verify_leaf(leaf_hash(base64.b64decode(case["entry_base64"])), signed.checkpoint)
        assert proof.encode() == case["proof"].encode()

    listed = load(vectors, "tlog-proof/proofs.json")
    wrong = [c["name"] for c in listed if accepted(lambda c=c: check(c)) is not (c["expect"] == "accept")]
    assert listed
    assert wrong == []


def test_log_policies(vectors: Path) -> None:
    listed = load(vectors, "policy/policies.json")
    assert listed
    for case in listed:
        data = case["policy"].encode()
        assert accepted(lambda data=data: TlogPolicy.parse(data)) is case["valid"], case["name"]
        if case["valid"]:
            policy = TlogPolicy.parse(data)
            for query in case["quorum"]:
                keys = [policy.witnesses[name] for name in query["witnesses"]]
                assert policy.met_by(keys) is query["met"], (case["name"], query)


def test_split_views(vectors: Path) -> None:
    """Two signed checkpoints and a proof: what they say about the log."""
    document = load(vectors, "split-view/scenarios.json")
    key = VerifierKey.parse(document["log_vkey"])
    assert document["scenarios"]
    for case in document["scenarios"]:
        first, second = (open_checkpoint(note.encode(), (key,)).checkpoint for note in case["seen"])
        path = [decode(value) for value in case["proof"]]
        assert compare_views(first, second, path) == case["verdict"], case["name"]
        if case["verdict"] == "split-view":
            old, new = case["seen"]
            assert SplitView(old.encode(), new.encode()).verify(key) == (first, second)


@pytest.mark.parametrize("limit", [257, pytest.param(1_000_000, marks=pytest.mark.exhaustive)])
def test_digests_of_deterministic_tiles(vectors: Path, tmp_path: Path, limit: int) -> None:
    """A log of the tree's leaves, published at each size that the tree names, writes the tiles that it names."""
    names = load(vectors, "merkle/deterministic-tree.json")["tiles_sha256"]
    log = TileLog(tmp_path, SigningKey.generate("log.example/tiles"), ())
    log.create()
    at = 0
    for size in sorted({int(name.split(":")[0]) for name in names}):
        while at < min(size, limit):
            last = min(at + MAX_BATCH, size)
            with log.exclusive():
                log.append([f"entry {i}".encode() for i in range(at, last)])
            at = last
    compared = 0
    for name, digest in names.items():
        size, path = name.split(":")
        if int(size) <= limit:
            data = (tmp_path / "public" / path).read_bytes()
            assert hashlib.sha256(data).hexdigest() == digest, name
            compared += 1
    assert compared
