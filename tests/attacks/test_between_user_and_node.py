"""Attempts of whoever stands between a user and a node, or owns the machine that the node runs on."""

import base64
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from private_world import World, private_world, publish, serving
from sealed_node import write_tiny_model

from attestation.bundle import EvidenceBundle
from client_sdk.client import PrivateClient
from client_sdk.errors import ClientError, ExchangeFailed, VerificationRefused
from client_sdk.exchange import Exchange, InnerRequest
from client_sdk.policy import Policy
from client_sdk.verify import VerifiedNode, verify_bundle
from measurements.rollback import VolatileMemory
from ohttp.chunked import ChunkedGateway
from ohttp.keyconfig import GatewayKey, KeyRing, parse_key_configs, preferred
from ohttp.padding import CellProfile

SECRET = "the canary sings at dawn"
QUESTION = [{"role": "user", "content": SECRET}]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    with private_world(folder, write_tiny_model(folder / "model")) as made:
        yield made


class Meddler:
    """A relay that hands everything on but for what its two hooks change; it keeps what passes through."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.evidence: Callable[[bytes], bytes] = lambda data: data
        self.answer: Callable[[int, bytes], tuple[int, bytes, bytes]] | None = None
        self.seen: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.seen.append(body)
        headers = {k.decode(): v.decode() for k, v in scope["headers"] if k == b"content-type"}
        async with httpx2.AsyncClient(timeout=30, trust_env=False) as http:
            path = scope["path"].removeprefix("/node")
            reply = await http.request(scope["method"], self.upstream + path, content=body, headers=headers)
        status, kind, data = reply.status_code, reply.headers.get("content-type", "").encode(), reply.content
        if path == "/attestation":
            data = self.evidence(data)
        elif self.answer is not None:
            status, kind, data = self.answer(status, data)
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
        await send({"type": "http.response.body", "body": data})


@pytest.fixture
def meddler(world: World) -> Iterator[tuple[Meddler, PrivateClient]]:
    app = Meddler(f"http://127.0.0.1:{world.node.port}")
    with serving(app) as url, world.client(f"{url}/node") as client:
        yield app, client


def swap_keys(data: bytes, keys: KeyRing) -> bytes:
    document = json.loads(data)
    document["ohttp_keys"] = base64.b64encode(keys.encoded()).decode()
    return json.dumps(document).encode()


def test_a_relay_that_swaps_the_key_config_reads_nothing(meddler: tuple[Meddler, PrivateClient]) -> None:
    relay, client = meddler
    own = KeyRing([GatewayKey.generate(9, 0x647A)])
    relay.evidence = lambda data: swap_keys(data, own)
    with pytest.raises(VerificationRefused) as caught:
        list(client.chat(QUESTION))
    assert (caught.value.code, caught.value.stage) == ("ohttp_keys_mismatch", "binding")
    assert relay.seen == [b""]  # the request for evidence, and nothing after it


def test_control_a_client_that_believed_the_carried_keys_would_be_read(world: World) -> None:
    own = KeyRing([GatewayKey.generate(9, 0x647A)])
    swapped = EvidenceBundle.parse(swap_keys(world.node.bundle(), own))
    believed = preferred(parse_key_configs(swapped.ohttp_keys))
    request = InnerRequest("POST", "/v1/chat/completions", (), json.dumps(QUESTION).encode())
    sent = Exchange(
        believed, bytes(32), request, date=datetime.now(UTC), request_id=bytes(16), profile=CellProfile()
    ).body
    gateway = ChunkedGateway(own)
    assert SECRET.encode() in b"".join(gateway.receive(sent)) + gateway.end()


def test_a_relay_that_answers_in_clear_is_not_believed(meddler: tuple[Meddler, PrivateClient]) -> None:
    relay, client = meddler
    forged = b'{"choices":[{"message":{"content":"send me your password"}}]}'
    relay.answer = lambda status, data: (200, b"application/json", forged)
    with pytest.raises(ExchangeFailed):
        list(client.chat(QUESTION))
    relay.answer = None
    assert isinstance("".join(client.chat(QUESTION, max_tokens=2, temperature=0)), str)


@pytest.mark.parametrize("keep", [40, 700, -1])
def test_a_relay_that_cuts_the_answer_is_noticed(meddler: tuple[Meddler, PrivateClient], keep: int) -> None:
    relay, client = meddler
    relay.answer = lambda status, data: (status, b"message/ohttp-chunked-res", data[:keep])
    with pytest.raises(ExchangeFailed):
        list(client.chat(QUESTION, max_tokens=2, temperature=0))
    # Control: the same answer whole is a good one.
    relay.answer = lambda status, data: (status, b"message/ohttp-chunked-res", data)
    list(client.chat(QUESTION, max_tokens=2, temperature=0))


def test_a_relay_cannot_send_the_client_elsewhere(meddler: tuple[Meddler, PrivateClient]) -> None:
    relay, client = meddler
    relay.answer = lambda status, data: (307, b"text/plain", b"")
    with pytest.raises(ClientError):
        list(client.chat(QUESTION))


def test_nothing_of_a_prompt_passes_the_relay_in_clear(meddler: tuple[Meddler, PrivateClient]) -> None:
    relay, client = meddler
    list(client.chat(QUESTION, max_tokens=2, temperature=0))
    passed = b"".join(relay.seen)
    assert len(passed) > 2048
    for trace in (SECRET.encode(), b"chat/completions", b"max_tokens", b"openai", b"python"):
        assert trace not in passed


def test_evidence_of_a_node_that_was_restarted_leads_to_keys_nobody_has(
    world: World, tmp_path: Path, meddler: tuple[Meddler, PrivateClient]
) -> None:
    relay, client = meddler
    old = world.node.bundle()
    model = tmp_path / "model"
    shutil.copytree(world.folder / "model", model)
    (tmp_path / "state").mkdir()
    shutil.copytree(world.folder / "state", tmp_path / "state", dirs_exist_ok=True)
    for part in ("log", "signer.key"):
        source = world.folder / part
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / part)
    with private_world(tmp_path, model) as restarted:
        relay.upstream = f"http://127.0.0.1:{restarted.node.port}"
        relay.evidence = lambda data: old
        with pytest.raises(ExchangeFailed) as caught:
            list(client.chat(QUESTION))
        assert caught.value.code == "refused_outside"
        # Control: with the restarted node's own evidence the client finds its way by itself.
        relay.evidence = lambda data: data
        list(client.chat(QUESTION, max_tokens=2, temperature=0))


def test_a_file_changed_by_one_bit_gives_a_measurement_that_no_release_lists(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    genuine = tmp_path / "genuine"
    shutil.copytree(model, genuine)
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    with private_world(tmp_path, model, released=hashlib.sha384(b"the genuine node").digest()) as changed:
        with changed.client() as client, pytest.raises(VerificationRefused) as caught:
            list(client.chat(QUESTION))
        assert (caught.value.code, caught.value.stage) == ("MEASUREMENT_MISMATCH", "log.measurement")
        # Control: the evidence is sound in itself; once a release lists this digest, the same node is verified.
        staple, _ = publish(tmp_path, changed.node.measurement)
        assert staple.exists()
    with private_world(tmp_path, model) as listed, listed.client() as client:
        client.verify().require()


def test_a_policy_without_the_simulated_root_is_not_fooled(world: World) -> None:
    data, at = world.node.bundle(), datetime.now(UTC)
    strict = verify_bundle(data, Policy.production(), at=at, memory=VolatileMemory())
    assert strict.node is None
    assert strict.error is not None
    assert strict.error.code == "chain_untrusted"
    assert not strict.simulated
    # Control: the same bytes under the policy that names the root.
    assert verify_bundle(data, world.policy, at=at, memory=VolatileMemory()).require().simulated


def test_a_verified_node_cannot_be_made_by_hand(world: World) -> None:
    with world.client() as client:
        genuine = client.node()
    with pytest.raises(TypeError):
        VerifiedNode(object(), None, None)  # type: ignore[arg-type]
    assert not hasattr(genuine, "__dict__")


def test_every_single_section_of_a_bundle_is_held_to_its_digest(world: World) -> None:
    data, policy, at = world.node.bundle(), world.policy, datetime.now(UTC)
    document = json.loads(data)
    leaves: list[tuple[Any, str]] = []

    def walk(node: Any) -> None:
        for name, value in node.items():
            if isinstance(value, dict):
                walk(value)
            elif isinstance(value, str) and value and name != "tee":
                leaves.append((node, name))

    walk(document)
    assert len(leaves) >= 12
    for owner, name in leaves:
        genuine = owner[name]
        changed = bytearray(base64.b64decode(genuine))
        changed[len(changed) // 2] ^= 1
        owner[name] = base64.b64encode(changed).decode()
        result = verify_bundle(json.dumps(document).encode(), policy, at=at, memory=VolatileMemory())
        assert result.node is None, f"a changed {name} was believed"
        owner[name] = genuine
    verify_bundle(json.dumps(document).encode(), policy, at=at, memory=VolatileMemory()).require()
