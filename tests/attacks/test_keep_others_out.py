"""Somebody takes every place of a gateway or a relay with requests that never arrive whole."""

import asyncio
from typing import Any

import httpx2
import pytest
from gateway_driver import FAST, JSON, Node, answering, drive, inner, opened, sealed_form

from ohttp.chunked import REQUEST_MEDIA_TYPE
from ohttp.places import Places
from ohttp.relay import Relay

OHTTP = (b"content-type", REQUEST_MEDIA_TYPE.encode())
PLACES = 8


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ohttp.places.GRACE_S", 0.02)


class Indulgent(Places):
    """The defence removed: who dawdles keeps the place."""

    def take(self) -> bool:
        if self._taken >= self._most:
            return False
        return super().take()


async def dawdle(app: Any, path: str) -> int:
    """One request of which only a byte comes; the status of its answer."""
    sent: list[Any] = []
    waiting = [{"type": "http.request", "body": b"a", "more_body": True}]

    async def receive() -> Any:
        if waiting:
            return waiting.pop()
        return await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "http", "method": "POST", "path": path, "headers": [OHTTP]}, receive, send)
    return int(sent[0]["status"])


async def status_beside_dawdlers(app: Any, path: str, body: bytes) -> tuple[int, list[bytes]]:
    dawdlers = [asyncio.create_task(dawdle(app, path)) for _ in range(PLACES)]
    await asyncio.sleep(0.05)
    reply = await drive(app, body, method="POST", path=path, headers=[OHTTP])
    await asyncio.sleep(0.05)
    for dawdler in dawdlers:
        dawdler.cancel()
    ends = await asyncio.gather(*dawdlers, return_exceptions=True)
    assert [end for end in ends if isinstance(end, int)] == ([408] if reply.status == 200 else [])
    return reply.status, reply.parts


@pytest.mark.parametrize(("places", "expected"), [(Places, 200), (Indulgent, 503)])
def test_taking_every_place_of_a_gateway(
    places: type[Places], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ohttp.gateway.Places", places)

    async def work() -> None:
        node = Node(answering(200, JSON, b"{}"), profile=FAST, max_open=PLACES)
        client = node.client()
        body = client.seal_request(sealed_form(inner()))
        status, parts = await status_beside_dawdlers(node.gateway, "/ohttp", body)
        assert status == expected
        if status == 200:
            assert opened(client, parts).status == 200

    asyncio.run(asyncio.wait_for(work(), 20))


@pytest.mark.parametrize(("places", "expected"), [(Places, 200), (Indulgent, 503)])
def test_taking_every_place_of_a_relay(
    places: type[Places], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ohttp.relay.Places", places)

    async def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=await request.aread())

    async def work() -> None:
        client = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
        relay = Relay({"node": "http://node"}, client, max_open=PLACES)
        status, _ = await status_beside_dawdlers(relay, "/node/ohttp", b"body")
        assert status == expected

    asyncio.run(asyncio.wait_for(work(), 20))


def test_a_request_that_has_arrived_keeps_its_place() -> None:
    async def work() -> None:
        places = Places(2)
        ended: list[str] = []
        assert places.take()
        first = places.arrives(lambda: ended.append("first"))
        assert places.take()
        places.arrives(lambda: ended.append("second"))
        assert not places.take(), "each has its second"
        await asyncio.sleep(0.05)
        places.arrived(first)
        assert places.take()
        assert ended == ["second"]
        places.give_back()
        assert not places.take()

    asyncio.run(work())
