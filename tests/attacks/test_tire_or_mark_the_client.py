"""Attempts of a relay to recognise a client, to make it wait for ever, or to make it stumble; no node is needed."""

import asyncio
import base64
import contextlib
import gzip
import io
import json
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from private_world import POLICY_HEAD, publish, serving
from rich.console import Console
from rich.text import Text

from attestation.device_socket import DeviceSocket
from attestation.nvidia.policy import GpuPolicy
from attestation.simulated.platform import Platform
from client_sdk.client import PrivateClient
from client_sdk.errors import ExchangeFailed, NodeRefused, RelayUnreachable, VerificationRefused
from client_sdk.exchange import InnerRequest
from client_sdk.patient_transport import plain_client
from client_sdk.policy import Policy
from client_sdk.render import show_verification
from client_sdk.verify import verify_bundle
from enclave_runtime.evidence import EvidenceMaker
from measurements.rollback import VolatileMemory
from measurements.staple import Staple
from ohttp.bhttp import ResponseEncoder
from ohttp.chunked import RESPONSE_MEDIA_TYPE, ChunkedGateway
from ohttp.keyconfig import GatewayKey, KeyRing

QUESTION = [{"role": "user", "content": "the canary sings at dawn"}]
ANY_SHAPE = '[runtime]\npadding = ["off"]'
EVIDENCE, SEALED = "/node/attestation", "/node/ohttp"
PLAIN = InnerRequest("POST", "/v1/chat/completions", (), b"{}")


def now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Node:
    """Evidence that verifies, and the keys it vouches for."""

    bundle: bytes
    keys: KeyRing
    policy: Policy

    def answer(self, sealed: bytes, content: bytes) -> bytes:
        """The whole outer body of an answer to a sealed request."""
        gateway = ChunkedGateway(self.keys)
        gateway.receive(sealed)
        gateway.end()
        sealer, encoder = gateway.response(), ResponseEncoder()
        plain = encoder.head(200, [(b"content-type", b"text/event-stream")]) + encoder.content(content)
        return sealer.prologue() + sealer.seal_final(plain + encoder.end())

    def verdict(self, data: bytes, **options: Any) -> Any:
        options.setdefault("memory", VolatileMemory())
        return verify_bundle(data, options.pop("policy", self.policy), at=now(), **options)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("platform")
    platform, digest = Platform.open(folder / "state", now, 1), b"\x05" * 48
    staple, table = publish(folder, digest)
    policy = Policy.parse("\n".join((POLICY_HEAD, platform.policy_table(), table, ANY_SHAPE)).encode())
    keys = KeyRing([GatewayKey.generate(1, 0x647A), GatewayKey.generate(2, 0x0020)])
    ours, theirs = socket.socketpair()
    platform.serve(ours, digest)
    with theirs:
        device = DeviceSocket(theirs)
        gpus = GpuPolicy.from_table(
            {"count": 1, "rim": "off", "revocation": "off"},
            simulated_root=platform.roots["nvidia_root_sha256"],
        )
        runtime = json.dumps({"model": {"name": "tiny", "digest": "ab"}, "padding": {"name": "off"}}).encode()
        maker = EvidenceMaker(device, device, 1, gpus, Staple.parse(staple.read_bytes()), runtime)
        start, end = now() - timedelta(minutes=1), now() + timedelta(hours=24)
        bundle = maker.make(ohttp_keys=keys.encoded(), nonce=b"", not_before=start, not_after=end, at=now())
        yield Node(bundle, keys, policy)


Reply = tuple[int, list[tuple[bytes, bytes]], bytes]


@dataclass
class Relay:
    """Answers as each test says: ``pieces`` cuts what it sends, with ``pause`` seconds between."""

    node: Node
    evidence: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    sealed: Callable[[bytes], Reply] = lambda body: (503, [], b"")
    pieces: int = 1
    pause: float = 0.0
    seen: list[tuple[str, dict[bytes, bytes]]] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.seen.append((scope["path"], dict(scope["headers"])))
        status, headers, data = (200, self.headers, self.evidence or self.node.bundle)
        if scope["path"] == SEALED:
            status, headers, data = self.sealed(body)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        step = -(-len(data) // self.pieces) or 1
        for at in range(0, len(data), step):
            await asyncio.sleep(self.pause)
            await send({"type": "http.response.body", "body": data[at : at + step], "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    def asked(self, path: str) -> int:
        return sum(seen == path for seen, _ in self.seen)


@pytest.fixture
def relay(node: Node) -> Relay:
    return Relay(node)


@pytest.fixture
def url(relay: Relay) -> Iterator[str]:
    with serving(relay) as address:
        yield f"{address}/node"


@pytest.fixture
def client(url: str, node: Node) -> Iterator[PrivateClient]:
    with PrivateClient(url, node.policy, timeout=1.0) as made:
        yield made


def sealed_answers(relay: Relay, content: bytes) -> None:
    kind = [(b"content-type", RESPONSE_MEDIA_TYPE.encode())]
    relay.sealed = lambda body: (200, kind, relay.node.answer(body, content))


def test_a_cookie_of_the_relay_does_not_come_back(relay: Relay, url: str, client: PrivateClient) -> None:
    relay.headers = [(b"set-cookie", b"visitor=1234; Path=/; Max-Age=99999999")]
    client.verify().require()
    client.verify().require()

    async def again() -> None:
        (await client.averify()).require()
        (await client.averify()).require()
        await client.aclose()

    asyncio.run(again())
    assert relay.asked(EVIDENCE) == 4
    assert not any(b"cookie" in headers for _, headers in relay.seen)
    # Control: an HTTP client as it comes bears the mark from then on.
    with httpx2.Client(trust_env=False) as plain:
        plain.get(f"{url}/attestation")
        plain.get(f"{url}/attestation")
    assert relay.seen[-1][1][b"cookie"] == b"visitor=1234"


def test_evidence_that_drips_is_not_waited_for(relay: Relay, client: PrivateClient) -> None:
    relay.pieces, relay.pause = 30, 0.1
    start = time.monotonic()
    with pytest.raises(RelayUnreachable, match="relay_slow"):
        client.verify()
    assert time.monotonic() - start < 5
    # Control: no single wait was too long; the same pieces are taken where all of them come in time.
    relay.pause = 0.001
    client.verify().require()


class DrippingHeads:
    """A server that gives a byte of its head every tenth of a second, each long before any timeout of a read."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._drip, args=(connection,), daemon=True).start()

    @staticmethod
    def _drip(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            for byte in b"HTTP/1.1 200 OK\r\nx-slow: " + b"y" * 20:
                connection.sendall(bytes([byte]))
                time.sleep(0.1)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def dripping() -> Iterator[str]:
    server = DrippingHeads()
    yield server.url
    server.close()


def test_a_head_that_drips_is_not_waited_for(dripping: str) -> None:
    start = time.monotonic()
    with plain_client(0.5) as http, pytest.raises(httpx2.ReadTimeout):
        http.get(dripping)
    assert time.monotonic() - start < 3
    # Control: no single wait was too long for a client as it comes.
    start = time.monotonic()
    with httpx2.Client(timeout=0.5, trust_env=False) as plain, pytest.raises(httpx2.TransportError):
        plain.get(dripping)
    assert time.monotonic() - start > 4


def test_a_head_that_drips_is_not_waited_for_with_asyncio_either(dripping: str, node: Node) -> None:
    async def attempt() -> None:
        client = PrivateClient(dripping, node.policy, timeout=0.5)
        client._node = node.verdict(node.bundle).require()  # what drips is the answer
        with pytest.raises(RelayUnreachable, match="head of the answer"):
            async with client.astream(PLAIN):
                pass
        await client.aclose()

    start = time.monotonic()
    asyncio.run(attempt())
    assert time.monotonic() - start < 3

    async def plain() -> None:  # control: no single wait was too long for a client as it comes
        async with httpx2.AsyncClient(timeout=0.5, trust_env=False) as http:
            with pytest.raises(httpx2.TransportError):
                await http.post(dripping, content=b"x")

    start = time.monotonic()
    asyncio.run(plain())
    assert time.monotonic() - start > 4


def test_a_relay_that_drips_holds_up_nobody_else_of_the_same_loop(
    relay: Relay, client: PrivateClient
) -> None:
    relay.pieces, relay.pause = 30, 0.1
    ticks = 0

    async def neighbour() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.02)
            ticks += 1

    async def attempt() -> None:
        beside = asyncio.create_task(neighbour())
        with pytest.raises(RelayUnreachable, match="relay_slow"):
            async with client.astream(PLAIN):
                pass
        beside.cancel()
        await client.aclose()

    asyncio.run(attempt())
    assert ticks > 10


@pytest.mark.parametrize("coding", [b"gzip", b"gzip, gzip, gzip, gzip, gzip, gzip", b"deflate", b"none such"])
def test_a_content_coding_is_a_refusal_and_no_stumble(
    relay: Relay, client: PrivateClient, coding: bytes
) -> None:
    relay.headers, relay.evidence = [(b"content-encoding", coding)], b"not compressed at all"
    assert client.verify().error is not None
    relay.evidence = gzip.compress(bytes(64 * 1024 * 1024))
    assert client.verify().error is not None
    assert len(client.evidence or b"") == len(relay.evidence)  # nothing was unpacked
    # Control: what makes no difference is the header alone.
    relay.evidence = relay.node.bundle
    client.verify().require()


def test_a_refusal_inside_of_another_exchange_does_not_send_that_one_again(
    relay: Relay, client: PrivateClient
) -> None:
    kind = [(b"content-type", RESPONSE_MEDIA_TYPE.encode())]
    posts: list[bytes] = []

    def first_alone(body: bytes) -> Reply:
        posts.append(body)
        return (200, kind, relay.node.answer(body, b"x")) if len(posts) == 1 else (400, [], b"")

    relay.sealed = first_alone
    with pytest.raises(ExchangeFailed, match="refused_outside"), client.stream(PLAIN), client.stream(PLAIN):
        pass
    assert len(posts) == 3  # the outer one, and two attempts of the inner
    # Control: a refusal of its own is what an exchange tries again.
    posts.clear()
    posts.append(b"")
    with pytest.raises(ExchangeFailed), client.stream(PLAIN):
        pass
    assert len(posts) == 3


def test_an_error_of_the_callers_own_keeps_its_name(relay: Relay, client: PrivateClient) -> None:
    sealed_answers(relay, b"x")
    with pytest.raises(httpx2.ConnectError), client.stream(PLAIN):
        raise httpx2.ConnectError("of another server")


def test_nothing_is_sent_to_a_node_that_was_refused_since(relay: Relay, client: PrivateClient) -> None:
    sealed_answers(relay, b"data: [DONE]\n\n")
    client.verify().require()
    assert list(client.chat(QUESTION)) == []
    assert relay.asked(SEALED) == 1  # control: verified, and so sent to
    relay.evidence = b"{}"
    assert client.verify().error is not None
    with pytest.raises(VerificationRefused):
        list(client.chat(QUESTION))
    assert relay.asked(SEALED) == 1


def test_a_clock_set_back_leads_to_verifying_anew(relay: Relay, url: str, node: Node) -> None:
    sealed_answers(relay, b"data: [DONE]\n\n")
    moment = now()
    with PrivateClient(url, node.policy, timeout=1.0, now=lambda: moment) as client:
        client.verify().require()
        moment -= timedelta(seconds=20)
        assert list(client.chat(QUESTION)) == []
    assert relay.asked(EVIDENCE) == 2


def test_a_refused_node_leaves_no_mark_in_the_memory(node: Node) -> None:
    document = json.loads(node.bundle)
    document["ohttp_keys"] = base64.b64encode(b"other keys").decode()
    memory = VolatileMemory()
    assert node.verdict(json.dumps(document).encode(), memory=memory).error.code == "ohttp_keys_mismatch"
    assert memory.sightings() == ()
    # Control: the same log state is remembered of a node that is verified.
    node.verdict(node.bundle, memory=memory).require()
    assert len(memory.sightings()) == 1


def test_a_verification_does_not_outlive_the_trust_it_rests_on(node: Node) -> None:
    soon = now() + timedelta(minutes=10)
    assert node.policy.transparency is not None
    short = replace(node.policy, transparency=replace(node.policy.transparency, not_after=soon))
    assert node.verdict(node.bundle, policy=short).require().valid_until == soon
    assert node.verdict(node.bundle).require().valid_until > soon


def test_a_node_whose_answers_show_their_lengths_is_refused_unless_the_policy_says_so(node: Node) -> None:
    usual = replace(node.policy, padding=Policy.production().padding)
    refused = node.verdict(node.bundle, policy=usual)
    assert refused.error is not None
    assert (refused.error.code, refused.error.expected, refused.error.found) == (
        "padding_not_allowed",
        "constant",
        "off",
    )
    # Control: the policy of these tests names that profile.
    assert node.verdict(node.bundle).require().padding.name == "off"


@pytest.mark.parametrize("quoted", ["\x1b[2J\x1b[Hverified", "\u202edeifirev", "\r  verified", "\ud800"])
def test_evidence_cannot_write_on_the_terminal(node: Node, quoted: str) -> None:
    document = json.loads(node.bundle) | {"v": quoted}
    shown = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="")
    console = Console(file=shown, force_terminal=True, color_system=None, width=200)
    show_verification(console, node.verdict(json.dumps(document).encode()))
    shown.flush()
    text = shown.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert "bundle_version" in text
    assert quoted not in text
    # Control: the terminal's library lets escape sequences of a quoted text through.
    raw = io.StringIO()
    Console(file=raw, force_terminal=True, color_system=None).print(Text("\x1b[2J"))
    assert "\x1b[2J" in raw.getvalue()


@pytest.mark.parametrize(
    "event",
    ['{"error":"text"}', '{"choices":[1]}', '{"choices":7}', '{"choices":[{"delta":[]}]}', '{"usage":3}'],
)
def test_an_event_of_another_shape_is_an_error_of_the_family(
    relay: Relay, client: PrivateClient, event: str
) -> None:
    sealed_answers(relay, f"data: {event}\n\ndata: [DONE]\n\n".encode())
    with pytest.raises(ExchangeFailed, match="event_malformed"):
        list(client.chat(QUESTION, usage={}))
    sealed_answers(relay, b'data: {"error":{"code":"busy","message":"later"}}\n\ndata: [DONE]\n\n')
    with pytest.raises(NodeRefused, match="busy"):
        list(client.chat(QUESTION))
    sealed_answers(relay, b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\ndata: [DONE]\n\n')
    assert list(client.chat(QUESTION)) == ["hi"]
