"""A relay holds back the end of a request, to learn from what the node does with the beginning."""

import asyncio
import os
from typing import Any

from gateway_driver import JSON, Node, answering, inner, opened, sealed_form

from ohttp.bhttp import RequestDecoder, RequestHead
from ohttp.chunked import ChunkedGateway
from ohttp.keyconfig import KeyRing


def chunk_ends(node: Node, request: bytes) -> list[int]:
    """After how many bytes each chunk but the last is complete."""
    gateway, ends = ChunkedGateway(KeyRing([node.key])), []
    for at in range(len(request)):
        if gateway.receive(request[at : at + 1]):
            ends.append(at + 1)
    return ends


def test_cutting_a_request_after_every_chunk() -> None:
    async def work() -> None:
        ran: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            ran.append(scope)
            await answering(200, JSON, b"{}")(scope, receive, send)

        node = Node(app)
        client = node.client()
        whole = client.seal_request(sealed_form(inner(os.urandom(50_000))))
        ends = chunk_ends(node, whole)
        assert len(ends) == 3
        for cut in (*ends, ends[-1] + 1, len(whole) - 1):
            reply = await node.post(whole[:cut])
            assert reply.status == 400, "refused in clear, with one text for every cause"
            assert reply.body == (await node.post(b"\x07")).body
        assert ran == []

        # Control: the beginning authenticates by itself, so a node that acted on it would run the prefix.
        gateway, decoder = ChunkedGateway(KeyRing([node.key])), RequestDecoder()
        events = [event for chunk in gateway.receive(whole[: ends[0]]) for event in decoder.feed(chunk)]
        assert isinstance(events[0], RequestHead)
        assert len(events) == 2, "and part of the prompt"

        assert opened(client, (await node.post(whole)).parts).status == 200, (
            "a cut request does not use it up"
        )
        assert len(ran) == 1

    asyncio.run(work())


def test_holding_back_the_last_byte_shows_nothing() -> None:
    async def work() -> None:
        started: list[Any] = []
        ran: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            ran.append(scope)

        node = Node(app)
        whole = node.client().seal_request(sealed_form(inner(b"x")))
        parts = [{"type": "http.request", "body": whole[:-1], "more_body": True}]
        released = asyncio.Event()

        async def receive() -> Any:
            if parts:
                return parts.pop()
            await released.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            started.append(message)

        headers = [(b"content-type", b"message/ohttp-chunked-req")]
        scope = {"type": "http", "method": "POST", "path": "/ohttp", "headers": headers}
        exchange = asyncio.create_task(node.gateway(scope, receive, send))
        await asyncio.sleep(0.05)
        assert started == []
        assert ran == []
        released.set()
        await exchange
        assert started == []
        assert ran == []

    asyncio.run(work())
