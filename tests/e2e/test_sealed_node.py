"""A real node, sealed, from the outside: evidence, answers, refusals, overload, and its end."""

import concurrent.futures
import json
import os
import secrets
import socket
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from sealed_node import MODEL_NAME, ROOM, Node, chat, running, write_tiny_model

from attestation.appraisal import appraise_bindings, appraise_cpu, appraise_gpus
from attestation.bundle import EvidenceBundle
from attestation.policy import AttestationPolicy
from enclave_runtime.metrics_schema import DEFAULT
from enclave_runtime.seal import Piece
from ohttp.chunked import REQUEST_MEDIA_TYPE

#: Whether a process may lock its memory is up to the machine these tests run on.
LOCKED = Piece.MEMORY_LOCKED


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def node(tmp_path_factory, model):
    with running(tmp_path_factory.mktemp("node"), model) as node:
        yield node


def policy_for(node: Node) -> AttestationPolicy:
    return AttestationPolicy.from_table({"simulated": node.platform.roots})


def test_its_evidence_verifies_and_names_what_was_launched(node):
    bundle = EvidenceBundle.parse(node.bundle())
    at, policy = datetime.now(UTC), policy_for(node)
    cpu = appraise_cpu(bundle, policy, at).require()
    assert cpu.measurement == node.measurement
    gpus = appraise_gpus(bundle, cpu.claims, policy, at)
    assert len(gpus.require().gpus) == 1
    appraise_bindings(bundle, cpu.claims, at).require()
    runtime = json.loads(bundle.runtime)
    assert runtime["model"]["name"] == MODEL_NAME
    assert runtime["metrics"] == DEFAULT.table()
    assert {state for piece, state in runtime["confinement"].items() if piece != LOCKED} == {"in force"}


def test_production_policy_does_not_accept_it(node):
    bundle = EvidenceBundle.parse(node.bundle())
    assert appraise_cpu(bundle, AttestationPolicy.production(), datetime.now(UTC)).error is not None


def test_every_piece_of_the_seal_is_in_force_and_the_kernel_agrees(node):
    # No GPU computes here.
    assert {row["piece"] for row in node.seal} == set(Piece) - {Piece.LANDLOCK_DEVICES}
    assert {row["state"] for row in node.seal if row["piece"] != LOCKED} == {"in force"}
    status = node.status()
    assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb", "CapBnd")} == {"0" * 16}
    for task in Path(f"/proc/{node.process.pid}/task").iterdir():
        assert "Seccomp:\t2" in (task / "status").read_text()
    for stream in ("0", "1", "2"):
        assert os.readlink(f"/proc/{node.process.pid}/fd/{stream}") == "/dev/null"
    open_now = [os.readlink(fd) for fd in Path(f"/proc/{node.process.pid}/fd").iterdir()]
    assert [target for target in open_now if target.startswith("/") and target != "/dev/null"] == []
    # Two pipes: through one numbers go to the process that shows them, through the other fresh staples come.
    pipes = [
        fd for fd in Path(f"/proc/{node.process.pid}/fd").iterdir() if os.readlink(fd).startswith("pipe")
    ]
    modes = [
        int(Path(f"/proc/{node.process.pid}/fdinfo/{fd.name}").read_text().split()[3], 8) for fd in pipes
    ]
    assert sorted(mode & os.O_ACCMODE for mode in modes) == [os.O_RDONLY, os.O_WRONLY]


def test_its_metrics_are_shown_by_a_sealed_process_of_their_own(node):
    families = {f.name: f for f in text_string_to_metric_families(node.metrics().decode())}
    assert set(families) == {m.name.removesuffix("_total") for m in DEFAULT.metrics}
    assert node.plain("GET", "/metrics")[0] == 404
    pid = node.process.pid
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    status = Path(f"/proc/{child}/status").read_text()
    assert "Seccomp:\t2" in status
    assert "CapEff:\t0000000000000000" in status
    open_now = [os.readlink(fd) for fd in Path(f"/proc/{child}/fd").iterdir()]
    kinds = {target.partition(":")[0] for target in open_now}
    assert kinds <= {"/dev/null", "pipe", "socket", "anon_inode"}
    assert len([target for target in open_now if target.startswith("socket")]) == 1  # its listener


def test_it_answers_a_chat_whole_and_streamed_alike(node):
    status, whole = node.ask("/v1/chat/completions", chat("Hello", temperature=0))
    assert status == 200
    text = json.loads(whole)["choices"][0]["message"]["content"]
    assert json.loads(whole)["usage"]["completion_tokens"] == 8
    status, streamed = node.ask("/v1/chat/completions", chat("Hello", temperature=0, stream=True))
    events = [line[6:] for line in streamed.decode().split("\n") if line.startswith("data: ")]
    assert (status, events[-1]) == (200, "[DONE]")
    chunks = [json.loads(event)["choices"][0] for event in events[:-1]]
    assert chunks[0]["delta"]["role"] == "assistant"
    assert "".join(chunk["delta"].get("content", "") for chunk in chunks) == text
    assert chunks[-1]["finish_reason"] == "length"


def test_behind_the_seal_it_answers_in_json_of_a_schema_with_logprobs(node):
    pytest.importorskip("llguidance")
    schema = {
        "type": "object",
        "properties": {"a": {"enum": [1, 2]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    asked = chat(
        "Hello", max_tokens=40, logprobs=True, top_logprobs=2, top_k=50, min_p=0.001, presence_penalty=0.1
    )
    asked["response_format"] = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    status, body = node.ask("/v1/chat/completions", asked)
    assert status == 200
    choice = json.loads(body)["choices"][0]
    assert json.loads(choice["message"]["content"]) in ({"a": 1}, {"a": 2})
    assert len(choice["logprobs"]["content"]) == json.loads(body)["usage"]["completion_tokens"]
    assert all(len(entry["top_logprobs"]) == 2 for entry in choice["logprobs"]["content"])
    asked["response_format"]["json_schema"]["schema"] = {"type": "no such type"}
    assert node.ask("/v1/chat/completions", asked)[0] == 400


def test_it_answers_a_completion_and_lists_its_model(node):
    asked = {"model": MODEL_NAME, "prompt": "Once", "max_tokens": 3}
    assert node.ask("/v1/completions", asked)[0] == 200
    assert json.loads(node.ask("/v1/models")[1])["data"][0]["id"] == MODEL_NAME


def test_a_challenge_is_answered_and_its_bundle_is_live(node):
    nonce = secrets.token_bytes(32)
    status, fresh = node.plain("POST", "/attestation", nonce)
    assert status == 200
    bundle = EvidenceBundle.parse(fresh)
    assert appraise_cpu(bundle, policy_for(node), datetime.now(UTC)).require().claims.nonce == nonce
    assert node.ask("/v1/models", bundle=fresh)[0] == 200


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (chat("x" * ROOM), "context_length_exceeded"),
        (chat("x", model="other"), "model_not_found"),
        (chat("x", n=3), "unsupported_parameter"),
        (chat("x", messages=[{"role": "assistant", "content": "x"}]), "invalid_conversation"),
        ({}, "missing_required_parameter"),
        ([], "invalid_json"),
    ],
)
def test_what_it_does_not_serve_it_refuses_by_name(node, document, code):
    status, body = node.ask("/v1/chat/completions", document)
    assert 400 <= status < 500
    assert json.loads(body)["error"]["code"] == code


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"date": "Thu, 01 Jan 1970 00:00:00 GMT"}, 400),
        ({"date": "yesterday"}, 400),
        ({"request_id": ""}, 400),
        ({"attestation_digest": "sha-256=:" + "A" * 43 + "=:"}, 409),
    ],
)
def test_a_request_on_other_terms_is_refused_inside_the_encryption(node, changes, status):
    assert node.ask("/v1/models", **changes)[0] == status


def test_it_survives_malformed_anything(node):
    ohttp = {"content-type": REQUEST_MEDIA_TYPE}
    for body in (
        b"",
        b"\x00",
        secrets.token_bytes(3000),
        b"\x00" * 100_000,
        bytes([0, 0x64, 0x7A, 0, 1, 0, 2]) * 50,
    ):
        assert node.plain("POST", "/ohttp", body, **ohttp)[0] == 400
    assert node.plain("POST", "/ohttp", b"x" * (1 << 21), **ohttp)[0] in (400, 413)
    assert node.plain("POST", "/ohttp", b"x", **{"content-type": "text/plain"})[0] == 415
    assert node.plain("PUT", "/ohttp", b"x", **ohttp)[0] == 405
    assert node.plain("POST", "/attestation", b"x" * 100_000)[0] == 400
    for raw in (
        b"\x16\x03\x01\x02\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 100_000,
        b"\r\n\r\n",
        b"PRI * HT",
    ):
        with socket.create_connection(("127.0.0.1", node.port), timeout=5) as connection:
            connection.sendall(raw)
    for raw in (b"{", b"[" * 50_000, b"\xff", b"null", secrets.token_bytes(500)):
        assert node.ask("/v1/chat/completions", raw=raw)[0] == 400
    assert node.ask("/v1/models")[0] == 200


def test_a_thousand_requests_at_once_each_get_a_clear_answer_and_the_node_stays_up(node):
    threads_before = node.status()["Threads"]
    bundle = node.bundle()
    request = chat("Hello", max_tokens=4)

    def one(_: int) -> tuple[int, str]:
        status, body = node.ask("/v1/chat/completions", request, bundle=bundle)
        return status, "" if status == 200 else json.loads(body)["error"]["code"]

    with concurrent.futures.ThreadPoolExecutor(250) as clients:
        outcomes = Counter(clients.map(one, range(1000)))
    assert set(outcomes) <= {(200, ""), (503, "overloaded")}
    assert outcomes[(200, "")] >= 12
    assert node.ask("/v1/models")[0] == 200
    assert node.status()["Threads"] == threads_before


def test_a_client_that_leaves_frees_its_place(node):
    for _ in range(30):
        with socket.create_connection(("127.0.0.1", node.port), timeout=5) as connection:
            connection.sendall(b"POST /ohttp HTTP/1.1\r\nhost: x\r\ncontent-length: 99999\r\n\r\nhalf")
    assert node.ask("/v1/chat/completions", chat("Hello"))[0] == 200
