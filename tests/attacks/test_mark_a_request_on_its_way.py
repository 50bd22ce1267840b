"""A relay tries to tell the node, or a node the relay, who is asking."""

import asyncio
from typing import Any

import httpx2
from gateway_driver import JSON, Node, answering, drive, inner, opened, sealed_form

from ohttp.relay import Relay

MARKS = (
    (b"cookie", b"who=alice"),
    (b"forwarded", b"for=203.0.113.9"),
    (b"x-forwarded-for", b"203.0.113.9"),
    (b"via", b"1.1 relay"),
    (b"authorization", b"Bearer alice"),
    (b"request-id", b"alice-alice-alice-alice"),
    (b"host", b"alice.example"),
)
OHTTP = (b"content-type", b"message/ohttp-chunked-req")


class Seen:
    """An application that keeps all that it could learn about who asks."""

    def __init__(self) -> None:
        self.text = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.text += repr({key: value for key, value in scope.items() if key != "extensions"})
        await answering(200, JSON, b"{}")(scope, receive, send)


def test_a_relay_adds_marks_to_the_outer_request() -> None:
    async def work() -> None:
        seen = Seen()
        node = Node(seen)
        client = node.client()
        sealed = client.seal_request(sealed_form(inner(b"{}")))
        reply = await node.post(sealed, headers=[OHTTP, *MARKS])
        assert opened(client, reply.parts).status == 200
        assert "alice" not in seen.text
        assert "203.0.113.9" not in seen.text
        control = Seen()
        await drive(control, sealed, method="POST", path="/v1/chat/completions", headers=[OHTTP, *MARKS])
        assert "alice" in control.text, "control: behind no gateway the application sees every mark"
        assert "203.0.113.9" in control.text

    asyncio.run(work())


def test_a_client_that_marks_its_outer_request_is_cleaned_by_the_relay() -> None:
    async def work() -> None:
        seen = Seen()
        relay = Relay({"node": "http://node"}, httpx2.AsyncClient(transport=httpx2.ASGITransport(app=seen)))
        await drive(
            relay, b"x", method="POST", path="/node/ohttp", headers=[OHTTP, *MARKS], query=b"who=alice"
        )
        assert seen.text
        assert "alice" not in seen.text
        assert "203.0.113.9" not in seen.text

    asyncio.run(work())


def test_a_node_sets_a_cookie_to_know_the_next_request_again() -> None:
    async def work() -> None:
        seen = Seen()

        async def marking(scope: Any, receive: Any, send: Any) -> None:
            seen.text += repr(scope["headers"])
            await answering(200, ((b"set-cookie", b"who=alice"),), b"{}")(scope, receive, send)

        client = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=marking))
        relay = Relay({"node": "http://node"}, client)
        for _ in range(2):
            reply = await drive(relay, b"x", method="POST", path="/node/ohttp", headers=[OHTTP])
            assert reply.header(b"set-cookie") is None
        assert "alice" not in seen.text
        await client.get("http://node/")
        assert "alice" in seen.text, "control: the client library alone would have brought it back"

    asyncio.run(work())
