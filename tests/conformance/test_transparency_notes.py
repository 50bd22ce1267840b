"""Notes, verifier keys, checkpoints and cosignatures against the shared vectors."""

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from measurements.checkpoint import Checkpoint
from measurements.errors import TransparencyError
from measurements.note import Note, VerifierKey
from measurements.tlog_policy import TlogPolicy


def cases(folder: Path, name: str) -> Any:
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


def differences(found: list[tuple[dict[str, Any], bool]]) -> list[str]:
    assert found
    return [case["name"] for case, verdict in found if verdict != (case["expect"] == "accept")]


def test_verifier_keys(vectors: Path) -> None:
    found = [
        (case, accepted(lambda case=case: VerifierKey.parse(case["vkey"])))
        for case in cases(vectors, "notes/vkeys.json")
    ]
    assert differences(found) == []
    for case, verdict in found:
        if verdict:
            assert str(VerifierKey.parse(case["vkey"])) == case["vkey"]


def test_signed_notes(vectors: Path) -> None:
    def check(case: dict[str, Any]) -> None:
        data = base64.b64decode(case["note_base64"])
        note = Note.parse(data)
        note.verify([VerifierKey.parse(vkey) for vkey in case["vkeys"]])
        assert note.encode() == data

    listed = cases(vectors, "notes/signed-note.json")
    assert differences([(case, accepted(lambda case=case: check(case))) for case in listed]) == []


def test_checkpoint_texts(vectors: Path) -> None:
    def check(case: dict[str, Any]) -> None:
        assert Checkpoint.parse(case["text"]).text == case["text"]

    listed = cases(vectors, "notes/checkpoint-text.json")
    assert differences([(case, accepted(lambda case=case: check(case))) for case in listed]) == []


def test_cosignatures(vectors: Path) -> None:
    def check(case: dict[str, Any]) -> None:
        policy = TlogPolicy.threshold(
            VerifierKey.parse(case["log_vkey"]),
            [VerifierKey.parse(vkey) for vkey in case["witness_vkeys"]],
            case["k_of_n"],
        )
        policy.check_witnesses(
            policy.open(case["checkpoint"].encode()),
            at=datetime.fromtimestamp(case["now"], UTC),
            max_age_s=case["max_age_s"],
            max_future_s=case["max_future_s"],
        )

    listed = cases(vectors, "cosignature/cosignatures.json")
    assert differences([(case, accepted(lambda case=case: check(case))) for case in listed]) == []


def test_a_real_cosigned_checkpoint(vectors: Path) -> None:
    case = cases(vectors, "cosignature/rekor2-staging-real.json")
    witnesses = [VerifierKey.parse(vkey) for vkey in case["witness_vkeys"]]
    policy = TlogPolicy.threshold(VerifierKey.parse(case["log_vkey"]), witnesses, len(witnesses))
    at = datetime.fromtimestamp(max(case["times"].values()), UTC)
    found = policy.check_witnesses(
        policy.open(case["checkpoint"].encode()), at=at, max_age_s=60, max_future_s=0
    )
    assert {cosignature.key.name: cosignature.time for cosignature in found} == case["times"]
