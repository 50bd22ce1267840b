"""Every witness dialogue of the vectors against the program that answers HTTP, restarted on the way."""

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from log_programs import running

from measurements.checkpoint import open_checkpoint
from measurements.cosignature import verify_cosignatures
from measurements.note import COSIGNATURE_ED25519, Note, VerifierKey
from measurements.signing_key import SigningKey
from measurements.strict_base64 import encode
from measurements.witness import parse_request
from measurements.witness_database import WitnessDatabase
from measurements.witness_server import monitoring_path


def load(folder: Path, name: str) -> Any:
    path = folder / "transparency" / name
    if not path.is_file():
        pytest.skip(f"{name} is not among the vectors")
    return json.loads(path.read_text())


def converse(
    client: httpx2.Client, url: str, log: VerifierKey, witness: VerifierKey, body: bytes
) -> httpx2.Response:
    """Ask; a 200 must carry a cosignature that verifies, and monitors must then see the same checkpoint."""
    response = client.post(f"{url}/add-checkpoint", content=body)
    if response.status_code == 200:
        text = Note.parse(parse_request(body)[2]).text
        answer = Note.parse(text.encode() + b"\n" + response.content)
        checkpoint = open_checkpoint(parse_request(body)[2], (log,)).checkpoint
        assert len(verify_cosignatures(answer, checkpoint, (witness,))) == 1
        shown = client.get(f"{url}/{monitoring_path(log.name)}")
        assert shown.status_code == 200
        assert shown.headers["content-type"] == "text/plain; charset=utf-8"
        seen = open_checkpoint(shown.content, (log,))
        assert seen.checkpoint == checkpoint
        assert seen.note.by(witness) == answer.by(witness)
    elif response.status_code == 409:
        assert response.headers["content-type"] == "text/x.tlog.size"
        assert response.content == b"%d\n" % int(response.content)
    else:
        assert response.content == b""
    return response


def test_witness_dialogues_over_http(vectors: Path, tmp_path: Path) -> None:
    document = load(vectors, "witness/add-checkpoint.json")
    key = VerifierKey.parse(document["witness"]["vkey"])
    material = bytes([COSIGNATURE_ED25519]) + bytes.fromhex(document["witness"]["signing_seed_hex_test_only"])
    file = tmp_path / "witness.key"
    SigningKey.parse(f"PRIVATE+KEY+{key.name}+{key.id.hex()}+{encode(material)}").save(file)
    logs = [option for one in document["sequences"] for option in ("--log", one["log_vkey"])]
    program = ("log", "witness", "--key", str(file), "--state", str(tmp_path / "state"), *logs)
    asked = 0
    # Each sequence meets a program that was just started: what it knows can only come from the disk.
    for sequence in document["sequences"]:
        log = VerifierKey.parse(sequence["log_vkey"])
        middle = len(sequence["steps"]) // 2
        for steps in (sequence["steps"][:middle], sequence["steps"][middle:]):
            with running(*program) as url, httpx2.Client(timeout=30) as client:
                for step in steps:
                    response = converse(client, url, log, key, step["request"].encode())
                    assert response.status_code in step["status"], step["step"]
                    if "response" in step:
                        assert response.content == step["response"].encode(), step["step"]
                    if "size_after" in step:
                        held = client.get(f"{url}/{monitoring_path(log.name)}").content
                        checkpoint = open_checkpoint(held, (log,)).checkpoint
                        assert checkpoint.size == step["size_after"], step["step"]
                    asked += 1
    assert asked
    kept = WitnessDatabase(tmp_path / "state" / "witness.db").forks()
    named = [s for one in document["sequences"] for s in one["steps"] if s["step"].startswith("fork")]
    for step in named:
        assert any(step["request"].encode().endswith(fork.submitted) for fork in kept), step["step"]


def test_litewitness_dialogue_over_http(vectors: Path, tmp_path: Path) -> None:
    document = load(vectors, "witness/litewitness.json")
    first = parse_request(document["steps"][0]["body"].encode())[2]
    log = VerifierKey(Note.parse(first).signatures[0].name, 1, bytes.fromhex(document["log_public_key_hex"]))
    signing = SigningKey.generate("witness.example/l", COSIGNATURE_ED25519)
    signing.save(tmp_path / "witness.key")
    options = ("--key", str(tmp_path / "witness.key"), "--state", str(tmp_path), "--log", str(log))
    with running("log", "witness", *options) as url, httpx2.Client(timeout=30) as client:
        for number, step in enumerate(document["steps"]):
            response = converse(client, url, log, signing.public, step["body"].encode())
            assert response.status_code in step["status"], number
