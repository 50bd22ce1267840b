"""Witness dialogues and release decisions against the shared vectors."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from measurements.checkpoint import open_checkpoint
from measurements.cosignature import verify_cosignatures
from measurements.decision import judge_active, judge_release, judge_status
from measurements.errors import Code, TransparencyError
from measurements.note import COSIGNATURE_ED25519, Note, VerifierKey
from measurements.policy import TransparencyPolicy
from measurements.release import RELEASE_TYPE, STATUS_TYPE, Release, Status
from measurements.rollback import Sighting, VolatileMemory
from measurements.signing_key import SigningKey
from measurements.statement import Statement, canonical, instant
from measurements.strict_base64 import encode
from measurements.tlog_policy import TlogPolicy
from measurements.verified_release import verified
from measurements.witness import VolatileWitnessStore, Witness, parse_request


def load(folder: Path, name: str) -> Any:
    path = folder / "transparency" / name
    if not path.is_file():
        pytest.skip(f"{name} is not among the vectors")
    return json.loads(path.read_text())


def answers(witness: Witness, log: VerifierKey, body: bytes, statuses: list[int]) -> bytes:
    """Ask, and check a 200 answer as a log would: it must be a cosignature that verifies."""
    response = witness.add_checkpoint(body)
    assert response.status in statuses
    if response.status == 200:
        _, _, note = parse_request(body)
        text = Note.parse(note).text
        answer = Note.parse(text.encode() + b"\n" + response.body)
        checkpoint = open_checkpoint(note, (log,)).checkpoint
        assert len(verify_cosignatures(answer, checkpoint, (witness.key,))) == 1
    return response.body


def test_witness_dialogue(vectors: Path) -> None:
    document = load(vectors, "witness/add-checkpoint.json")
    key = VerifierKey.parse(document["witness"]["vkey"])
    material = bytes([COSIGNATURE_ED25519]) + bytes.fromhex(document["witness"]["signing_seed_hex_test_only"])
    signing = SigningKey.parse(f"PRIVATE+KEY+{key.name}+{key.id.hex()}+{encode(material)}")
    assert signing.public == key
    for sequence in document["sequences"]:
        log = VerifierKey.parse(sequence["log_vkey"])
        store = VolatileWitnessStore()
        witness = Witness(signing, (log,), store, lambda: 1_780_000_000)
        for step in sequence["steps"]:
            body = answers(witness, log, step["request"].encode(), step["status"])
            if "response" in step:
                assert body == step["response"].encode(), step["step"]
            if "size_after" in step:
                held = store.load(log.name)
                assert held is not None
                assert open_checkpoint(held, (log,)).checkpoint.size == step["size_after"], step["step"]
            if step["step"] == "fork-bigger":
                assert any(
                    body == step["request"].encode()[-len(body) :] for _, (_, body), _, _ in store.forks
                )


def test_litewitness_dialogue(vectors: Path) -> None:
    document = load(vectors, "witness/litewitness.json")
    first = parse_request(document["steps"][0]["body"].encode())[2]
    log = VerifierKey(Note.parse(first).signatures[0].name, 1, bytes.fromhex(document["log_public_key_hex"]))
    signing = SigningKey.generate("witness.example/l", COSIGNATURE_ED25519)
    witness = Witness(signing, (log,), VolatileWitnessStore(), lambda: 1_780_000_000)
    for step in document["steps"]:
        answers(witness, log, step["body"].encode(), step["status"])


def test_release_decisions(vectors: Path) -> None:
    """The vectors take every entry as proved to be logged, so only the decisions are asked here."""
    document = load(vectors, "release-policy.json")
    log = SigningKey.generate("log.example/p").public
    signer = SigningKey.generate("signer.example").public
    policy = TransparencyPolicy(TlogPolicy.threshold(log, (), 0), (signer,), 1, "prod", max_future_s=0)
    assert document["queries"]
    for query in document["queries"]:
        try:
            decide(document, query, policy)
            found = "accept"
        except TransparencyError as error:
            found = error.code
        assert found == query.get("code", query["expect"]), query["name"]


def decide(document: dict[str, Any], query: dict[str, Any], policy: TransparencyPolicy) -> None:
    at = instant(query["now"], "now")
    if query["status"] is None:
        # Where a status is missing is decided on the staple's bytes, before any of this.
        raise TransparencyError(Code.STATUS_MISSING, stage="log.status")
    status = Status.parse(statement(document, query["status"], STATUS_TYPE))
    release = Release.parse(statement(document, query["release"], RELEASE_TYPE))
    identity = bytes.fromhex(document["release_ids"][query["release"]])
    judge_status(status, policy, at)
    judge_release(release, policy)
    judge_active(release, identity, status, policy, at)
    memory = VolatileMemory()
    remembered = query["client_state"]
    memory.advance(sighting(remembered["statusSequence"], remembered["minReleaseSequence"], b"\0" * 32))
    memory.advance(sighting(status.sequence, status.min_release_sequence, b"\1" * 32))
    facts = {
        "leaf_hash": identity,
        "index": 0,
        "log": "log.example/p",
        "tree_size": 1,
        "status_sequence": status.sequence,
        "status_issued_at": status.issued_at,
        "status_expires_at": status.expires_at,
    }
    measured = dict(query["measured"])
    verified(release, **facts).match_cpu(measured.pop("tee"), measured)


def sighting(sequence: int, minimum: int, status: bytes) -> Sighting:
    return Sighting("log.example/p", "prod", sequence, status, minimum, sequence, bytes(32), b"")


def statement(document: dict[str, Any], name: str, predicate_type: str) -> Statement:
    return Statement.parse(canonical({**document["entries"][name], "predicateType": predicate_type}))


def test_the_clock_is_always_passed_in() -> None:
    assert datetime(2026, 6, 1, tzinfo=UTC) == instant("2026-06-01T00:00:00Z", "time")
