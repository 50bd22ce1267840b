"""A relay shows the node that was drawn, and brings another one in where the client verifies anew: with genuine
evidence, of the same release, only that somebody has broken into it.
"""

import asyncio
import hashlib
import json
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from private_world import POLICY_HEAD, publish, serving

from attestation.device_socket import DeviceSocket
from attestation.nvidia.policy import GpuPolicy
from attestation.simulated.platform import Platform
from client_sdk.client import PrivateClient
from client_sdk.errors import DirectoryRefused
from client_sdk.exchange import InnerRequest
from client_sdk.policy import Policy
from enclave_runtime.evidence import EvidenceMaker
from measurements.staple import Staple
from ohttp.bhttp import ResponseEncoder, decode_request
from ohttp.chunked import RESPONSE_MEDIA_TYPE, ChunkedGateway
from ohttp.keyconfig import GatewayKey, KeyRing

SECRET = "the canary sings at dawn"
QUESTION = [{"role": "user", "content": SECRET}]
ANSWER = b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\ndata: [DONE]\n\n'
PLAIN = InnerRequest("POST", "/v1/chat/completions", (), SECRET.encode())
RUNTIME = json.dumps({"model": {"name": "tiny", "digest": "ab"}, "padding": {"name": "off"}}).encode()


def now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Node:
    """A node of the release: evidence that verifies, the keys it vouches for, and what was read with them."""

    bundle: bytes
    keys: KeyRing
    read: list[bytes] = field(default_factory=list)

    @property
    def listed(self) -> bytes:
        """What a list of nodes says of it."""
        return hashlib.sha256(self.keys.encoded()).digest()

    def answer(self, sealed: bytes) -> bytes:
        gateway = ChunkedGateway(self.keys)
        plain = b"".join(gateway.receive(sealed)) + gateway.end()
        self.read.append(decode_request(plain).body)
        sealer, encoder = gateway.response(), ResponseEncoder()
        head = encoder.head(200, [(b"content-type", b"text/event-stream")])
        return sealer.prologue() + sealer.seal_final(head + encoder.content(ANSWER) + encoder.end())


@dataclass
class Relay:
    """Shows ``drawn`` until the first request, which it refuses in clear, and ``favourite`` from then on."""

    drawn: Node
    favourite: Node
    swapped: bool = False

    async def __call__(self, scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        status, headers, data = 200, [], (self.favourite if self.swapped else self.drawn).bundle
        if scope["path"].endswith("/ohttp"):
            if self.swapped:
                headers, data = (
                    [(b"content-type", RESPONSE_MEDIA_TYPE.encode())],
                    self.favourite.answer(body),
                )
            else:
                self.swapped, status, data = True, 400, b""
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": data})


@dataclass
class Fleet:
    """Two nodes of one release, and the policy that both satisfy."""

    policy: Policy
    nodes: tuple[Node, Node]


@pytest.fixture
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("platform")
    platform, digest = Platform.open(folder / "state", now, 1), b"\x05" * 48
    staple, table = publish(folder, digest)
    shape = '[runtime]\npadding = ["off"]'
    policy = Policy.parse("\n".join((POLICY_HEAD, platform.policy_table(), table, shape)).encode())
    gpus = GpuPolicy.from_table(
        {"count": 1, "rim": "off", "revocation": "off"}, simulated_root=platform.roots["nvidia_root_sha256"]
    )
    ours, theirs = socket.socketpair()
    platform.serve(ours, digest)
    with theirs:
        device = DeviceSocket(theirs)
        maker = EvidenceMaker(device, device, 1, gpus, Staple.parse(staple.read_bytes()), RUNTIME)

        def node() -> Node:
            keys = KeyRing([GatewayKey.generate(1, 0x647A), GatewayKey.generate(2, 0x0020)])
            start, end = now() - timedelta(minutes=1), now() + timedelta(hours=24)
            bundle = maker.make(
                ohttp_keys=keys.encoded(), nonce=b"", not_before=start, not_after=end, at=now()
            )
            return Node(bundle, keys)

        yield Fleet(policy, (node(), node()))


def test_bring_another_node_in_where_the_client_verifies_anew(fleet: Fleet) -> None:
    drawn, favourite = fleet.nodes
    with (
        serving(Relay(drawn, favourite)) as url,
        PrivateClient(f"{url}/node", fleet.policy, listed_keys=drawn.listed, timeout=10) as client,
    ):
        client.verify().require()
        with pytest.raises(DirectoryRefused) as refused:
            list(client.chat(QUESTION))
        assert refused.value.code == "directory_keys"
        with pytest.raises(DirectoryRefused):  # and it stays so
            list(client.chat(QUESTION))
    assert not favourite.read


def test_the_same_with_asyncio(fleet: Fleet) -> None:
    drawn, favourite = fleet.nodes

    async def attempt(url: str) -> None:
        client = PrivateClient(f"{url}/node", fleet.policy, listed_keys=drawn.listed, timeout=10)
        (await client.averify()).require()
        with pytest.raises(DirectoryRefused):
            async with client.astream(PLAIN):
                pass
        await client.aclose()

    with serving(Relay(drawn, favourite)) as url:
        asyncio.run(attempt(url))
    assert not favourite.read


def test_control_a_client_that_takes_any_keys_is_read_by_the_favourite(fleet: Fleet) -> None:
    drawn, favourite = fleet.nodes
    with (
        serving(Relay(drawn, favourite)) as url,
        PrivateClient(f"{url}/node", fleet.policy, timeout=10) as client,
    ):
        client.verify().require()
        assert list(client.chat(QUESTION)) == ["hi"]
    assert SECRET.encode() in favourite.read[0]
