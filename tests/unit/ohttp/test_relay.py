"""The relay: what it passes on, what it keeps back, and how it fails."""

import asyncio
import json
import logging
from typing import Any

import httpx2
import pytest
from gateway_driver import BUNDLE, FAST, JSON, Node, answering, drive, inner, opened, sealed_form

from ohttp.asgi import App
from ohttp.errors import RelayError
from ohttp.relay import MAX_ATTESTATION, Relay

OHTTP = (b"content-type", b"message/ohttp-chunked-req")


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 20))


class Target:
    """A node's side of the relay, with everything it was sent."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.scopes: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        await self._app(scope, receive, send)


def relay_to(app: App, **options: Any) -> Relay:
    client = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), trust_env=False)
    return Relay({"node": "http://node.example:8080/"}, client, **options)


def failing_with(error: Exception) -> Relay:
    def handler(request: httpx2.Request) -> httpx2.Response:
        raise error

    return Relay({"node": "http://node"}, httpx2.AsyncClient(transport=httpx2.MockTransport(handler)))


def test_a_media_type_has_no_case_and_is_passed_on_in_one_spelling() -> None:
    async def work() -> None:
        node = Node(answering(200, JSON, b"{}"), profile=FAST)
        target = Target(node.gateway)
        client = node.client()
        body = client.seal_request(sealed_form(inner(b"{}")))
        headers = [(b"content-type", b"Message/OHTTP-Chunked-Req")]
        reply = await drive(relay_to(target), body, method="POST", path="/node/ohttp", headers=headers)
        assert opened(client, reply.parts).body == b"{}"
        (scope,) = target.scopes
        assert OHTTP in scope["headers"]
        # By itself, too, the gateway knows its own media type by any spelling.
        client = node.client()
        body = client.seal_request(sealed_form(inner(b"{}")))
        reply = await drive(node.gateway, body, method="POST", path="/ohttp", headers=headers)
        assert opened(client, reply.parts).body == b"{}"

    run(work())


def test_a_private_request_goes_through_and_leaves_no_trace_of_its_sender() -> None:
    async def work() -> None:
        node = Node(answering(200, JSON, b"{}"), profile=FAST)
        target = Target(node.gateway)
        relay = relay_to(target)
        client = node.client()
        body = client.seal_request(sealed_form(inner(b"{}")))
        headers = [
            OHTTP,
            (b"incremental", b"?1"),
            (b"cookie", b"who=me"),
            (b"user-agent", b"mine"),
            (b"x-forwarded-for", b"203.0.113.9"),
            (b"forwarded", b"for=203.0.113.9"),
            (b"accept-language", b"eo"),
            (b"authorization", b"Bearer me"),
        ]
        reply = await drive(relay, body, method="POST", path="/node/ohttp", query=b"me=1", headers=headers)
        assert reply.status == 200
        assert opened(client, reply.parts).body == b"{}"
        assert reply.headers == [
            (b"content-type", b"message/ohttp-chunked-res"),
            (b"cache-control", b"no-store"),
        ]
        (scope,) = target.scopes
        assert scope["path"] == "/ohttp"
        assert scope["query_string"] == b""
        assert {name.lower() for name, _ in scope["headers"]} == {
            b"host",
            b"content-type",
            b"incremental",
            b"transfer-encoding",
        }
        assert dict(scope["headers"])[b"host"] == b"node.example:8080"
        assert relay.counts() == {"passed": 1}

    run(work())


def test_a_declared_length_is_kept() -> None:
    async def work() -> None:
        target = Target(answering(200, JSON))
        headers = [OHTTP, (b"content-length", b"5")]
        await drive(relay_to(target), b"12345", method="POST", path="/node/ohttp", headers=headers)
        sent = dict(target.scopes[0]["headers"])
        assert sent[b"content-length"] == b"5"
        assert b"transfer-encoding" not in sent

    run(work())


def test_what_a_node_says_beyond_status_and_type_stays_behind() -> None:
    async def work() -> None:
        headers = (*JSON, (b"set-cookie", b"id=7"), (b"etag", b"7"), (b"location", b"/7"), (b"server", b"7"))
        target = Target(answering(400, headers, b"{}"))
        relay = relay_to(target)
        for _ in range(2):
            reply = await drive(relay, b"x", method="POST", path="/node/ohttp", headers=[OHTTP])
            assert (reply.status, reply.body) == (400, b"{}")
            assert reply.headers == [*JSON, (b"cache-control", b"no-store")]
        assert all(b"cookie" not in dict(scope["headers"]) for scope in target.scopes), "no cookie comes back"

    run(work())


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_attestation(method: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = (await receive()).get("body", b"")
        kind = (b"content-type", b"application/vnd.cloister.evidence+json")
        await answering(200, (kind,), scope["method"].encode() + body)(scope, lambda: asyncio.sleep(0), send)

    async def work() -> None:
        target = Target(app)
        challenge = BUNDLE if method == "POST" else b""
        headers = [(b"content-type", b"application/octet-stream"), (b"cookie", b"a=b")]
        reply = await drive(
            relay_to(target), challenge, method=method, path="/node/attestation", headers=headers
        )
        assert reply.status == 200
        assert reply.body == method.encode() + challenge
        assert reply.header(b"content-type") == b"application/vnd.cloister.evidence+json"
        assert target.scopes[0]["path"] == "/attestation"
        assert b"cookie" not in dict(target.scopes[0]["headers"])

    run(work())


def test_evidence_beyond_the_limit_is_not_passed() -> None:
    async def work() -> None:
        relay = relay_to(answering(200, JSON, bytes(MAX_ATTESTATION), b"x"))
        reply = await drive(relay, b"", path="/node/attestation")
        assert reply.status == 502
        fits = await drive(
            relay_to(answering(200, JSON, bytes(MAX_ATTESTATION))), b"", path="/node/attestation"
        )
        assert len(fits.body) == MAX_ATTESTATION

    run(work())


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"path": "/other/ohttp"}, 404),
        ({"path": "/node"}, 404),
        ({"path": "/"}, 404),
        ({"path": "/node/metrics"}, 404),
        ({"path": "/node/ohttp/x"}, 404),
        ({"path": "//ohttp"}, 404),
        ({"path": "/http://node.example/ohttp"}, 404),
        ({"path": "/node/ohttp", "method": "GET"}, 405),
        ({"path": "/node/attestation", "method": "DELETE"}, 405),
        ({"path": "/node/ohttp", "headers": [(b"content-type", b"application/json")]}, 415),
        ({"path": "/node/ohttp", "headers": []}, 415),
        ({"path": "/node/ohttp", "headers": [OHTTP, (b"content-length", b"99999999")]}, 413),
        ({"path": "/node/ohttp", "body": bytes(5000)}, 413),
        ({"path": "/node/attestation", "body": bytes(1025)}, 413),
    ],
)
def test_refused_and_never_sent_on(request_: dict[str, Any], status: int) -> None:
    async def work() -> None:
        target = Target(answering(200, JSON, b"reached"))
        relay = relay_to(target, max_request=4096)
        options = {"method": "POST", "headers": [OHTTP], "body": b"x"} | request_
        reply = await drive(relay, options.pop("body"), **options)
        assert reply.status == status
        assert b"reached" not in reply.body
        assert relay.counts() == {"refused": 1}

    run(work())


@pytest.mark.parametrize(
    "error",
    [
        httpx2.ConnectError("203.0.113.9 refused"),
        httpx2.ReadTimeout("slow"),
        OSError("203.0.113.9"),
        ValueError(),
    ],
)
@pytest.mark.parametrize("leaf", ["ohttp", "attestation"])
def test_an_unreachable_target_is_a_502_that_names_nobody(error: Exception, leaf: str, caplog: Any) -> None:
    async def work() -> None:
        relay = failing_with(error)
        reply = await drive(relay, b"x", method="POST", path=f"/node/{leaf}", headers=[OHTTP])
        assert reply.status == 502
        assert json.loads(reply.body)["error"]["code"] == "unreachable"
        assert b"203" not in reply.body
        assert relay.counts() == {"unreachable": 1}

    with caplog.at_level(logging.WARNING):
        run(work())
    assert caplog.text == ""


@pytest.mark.parametrize(
    "answer", [httpx2.Response(302, headers={"location": "http://elsewhere"}), httpx2.Response(101)]
)
def test_a_redirect_is_not_followed_and_not_passed(answer: httpx2.Response) -> None:
    async def work() -> None:
        asked: list[str] = []

        def handler(request: httpx2.Request) -> httpx2.Response:
            asked.append(str(request.url))
            return answer

        relay = Relay({"node": "http://node"}, httpx2.AsyncClient(transport=httpx2.MockTransport(handler)))
        reply = await drive(relay, b"x", method="POST", path="/node/ohttp", headers=[OHTTP])
        assert reply.status == 502
        assert reply.header(b"location") is None
        assert asked == ["http://node/ohttp"]

    run(work())


class Endless(httpx2.AsyncByteStream):
    """A node's answer that comes slowly, and perhaps breaks."""

    def __init__(self, parts: int, error: Exception | None = None) -> None:
        self.parts, self.error, self.closed = parts, error, False

    async def __aiter__(self) -> Any:
        for _ in range(self.parts):
            yield b"part"
            await asyncio.sleep(0.005)
        if self.error:
            raise self.error

    async def aclose(self) -> None:
        self.closed = True


def relay_streaming(stream: Endless, **options: Any) -> Relay:
    async def handler(request: httpx2.Request) -> httpx2.Response:
        await request.aread()
        return httpx2.Response(200, headers={"content-type": "message/ohttp-chunked-res"}, stream=stream)

    return Relay(
        {"node": "http://node"}, httpx2.AsyncClient(transport=httpx2.MockTransport(handler)), **options
    )


def test_parts_are_passed_as_they_come() -> None:
    async def work() -> None:
        stream = Endless(5)
        reply = await drive(relay_streaming(stream), b"x", method="POST", path="/node/ohttp", headers=[OHTTP])
        assert reply.parts == [b"part"] * 5 + [b""]
        assert reply.times[3] - reply.times[0] > 0.01, "not gathered first"
        assert stream.closed

    run(work())


@pytest.mark.parametrize("how", [{"leave_after": 2}, {"stall_at": 2}])
def test_a_reader_who_leaves_or_stalls_ends_the_request_to_the_node(how: dict[str, int]) -> None:
    async def work() -> None:
        stream = Endless(1000)
        relay = relay_streaming(stream, stall_s=0.05)
        reply = await drive(relay, b"x", method="POST", path="/node/ohttp", headers=[OHTTP], **how)
        assert stream.closed
        assert len(reply.parts) < 5
        assert not reply.complete

    run(work())


def test_a_node_that_breaks_off_is_not_passed_as_an_end() -> None:
    async def work() -> None:
        relay = relay_streaming(Endless(2, httpx2.RemoteProtocolError("cut")))
        reply = await drive(relay, b"x", method="POST", path="/node/ohttp", headers=[OHTTP])
        assert reply.parts == [b"part"] * 2
        assert not reply.complete

    run(work())


def test_beyond_its_places_it_turns_away() -> None:
    async def work() -> None:
        relay = relay_streaming(Endless(3), max_open=8)
        asked = [drive(relay, b"x", method="POST", path="/node/ohttp", headers=[OHTTP]) for _ in range(1000)]
        replies = await asyncio.gather(*asked)
        assert sum(reply.status == 200 for reply in replies) == 8
        assert sum(reply.status == 503 for reply in replies) == 992
        assert (await drive(relay, b"x", method="POST", path="/node/ohttp", headers=[OHTTP])).status == 200

    run(work())


@pytest.mark.parametrize("name", ["", "Node", "a/b", "..", "x" * 64, "a b"])
def test_names_that_no_path_could_hold(name: str) -> None:
    with pytest.raises(RelayError, match="target"):
        Relay({name: "http://node"}, httpx2.AsyncClient())


@pytest.mark.parametrize(
    "url",
    [
        "",
        "node:8080",
        "ftp://node",
        "http://",
        "http://me:secret@node",
        "http://node?x=1",
        "http://node#x",
        "http://n:99999",
    ],
)
def test_urls_that_are_no_targets(url: str) -> None:
    with pytest.raises(RelayError, match="target") as refused:
        Relay({"node": url}, httpx2.AsyncClient())
    assert "secret" not in str(refused.value)


def test_the_list_of_nodes_is_the_same_for_everybody() -> None:
    async def work() -> None:
        shown = [b'{"first":1}']
        relay = relay_to(answering(200, JSON, b"{}"), directory=lambda: shown[0])
        marks = [(b"cookie", b"who=me"), (b"if-none-match", b'"mine"'), (b"range", b"bytes=0-3")]
        plain = await drive(relay, b"", path="/directory")
        marked = await drive(relay, b"", path="/directory", query=b"me=1", headers=marks)
        assert (plain.status, plain.parts) == (200, [b'{"first":1}'])
        assert (marked.status, marked.parts, marked.headers) == (200, plain.parts, plain.headers)
        assert {name for name, _ in plain.headers} == {b"content-type", b"content-length", b"cache-control"}
        shown[0] = b"{}"
        assert (await drive(relay, b"", path="/directory")).parts == [b"{}"]
        assert (await drive(relay, b"", method="POST", path="/directory")).status == 405

        def gone() -> bytes:
            raise OSError("/srv/list: gone")

        broken = await drive(relay_to(answering(200, JSON, b"{}"), directory=gone), b"", path="/directory")
        assert broken.status == 502
        assert b"srv" not in b"".join(broken.parts)
        without = await drive(relay_to(answering(200, JSON, b"{}")), b"", path="/directory")
        assert without.status == 404

    run(work())
