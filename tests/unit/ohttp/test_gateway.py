"""The gateway: what it opens, what it refuses and how, and what the wire shows meanwhile."""

import asyncio
import itertools
import json
import logging
from typing import Any

import pytest
from gateway_driver import (
    BUCKET,
    BUNDLE,
    EVENTS,
    FAST,
    JSON,
    NOW,
    OFF,
    Node,
    Reply,
    answering,
    drive,
    inner,
    opened,
    sealed_form,
    without,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from ohttp.bhttp import decode_response
from ohttp.chunked import REQUEST_MEDIA_TYPE, ChunkedClient
from ohttp.encapsulation import ClientRequest
from ohttp.errors import ChunkError
from ohttp.gateway import ExchangeEnd
from ohttp.http_date import format_http_date
from ohttp.keyconfig import GatewayKey, parse_key_configs
from ohttp.padding import CellProfile
from ohttp.replay import ReplayWindow

XWING = 0x647A


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 20))


class Recorder:
    """An application that keeps what it was given."""

    def __init__(self) -> None:
        self.scopes: list[Any] = []
        self.bodies: list[bytes] = []
        self.cancelled = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        self.bodies.append((await receive())["body"])
        await answering(200, JSON, b"{}")(scope, lambda: asyncio.sleep(0), send)


@pytest.mark.parametrize("profile", [FAST, BUCKET, OFF])
@pytest.mark.parametrize("kem", [0x0020, XWING])
def test_a_request_reaches_the_application_and_its_answer_comes_back(profile: CellProfile, kem: int) -> None:
    async def work() -> None:
        app = Recorder()
        node = Node(app, profile=profile)
        node.key = GatewayKey.generate(9, kem)
        path = b"/v1/models%20x?q=1&r=%20"
        response, reply = await node.ask(inner(b'{"a":1}', method=b"PUT", path=path))
        assert (response.status, response.headers, response.body) == (200, JSON, b"{}")
        assert reply.header(b"content-type") == b"message/ohttp-chunked-res"
        assert reply.header(b"cache-control") == b"no-store"
        (scope,) = app.scopes
        assert app.bodies == [b'{"a":1}']
        assert (scope["method"], scope["path"], scope["query_string"]) == (
            "PUT",
            "/v1/models x",
            b"q=1&r=%20",
        )
        assert scope["client"] is None
        assert scope["headers"] == [
            (b"host", b"cloister.internal"),
            (b"content-length", b"7"),
            (b"content-type", b"application/json"),
        ]
        assert ("cloister.cells" in scope["extensions"]) == (profile is FAST)
        assert node.ends == [ExchangeEnd.ANSWERED]

    run(work())


def test_large_request_in_many_chunks_and_many_pieces() -> None:
    async def work() -> None:
        app = Recorder()
        node = Node(app)
        client = node.client()
        body = bytes(range(256)) * 300
        reply = await node.post(client.seal_request(sealed_form(inner(body))), pieces=97)
        assert opened(client, reply.parts).status == 200
        assert app.bodies == [body]

    run(work())


def test_cells_start_at_once_and_keep_their_beat_whatever_the_application_does() -> None:
    async def work() -> None:
        async def slow(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.sleep(0.3)
            await answering(200, EVENTS, b"data: a\n\n", b"data: " + b"b" * 1200 + b"\n\n", pause_s=0.05)(
                scope, receive, send
            )

        node = Node(slow, profile=CellProfile("constant", 512, 30))
        before = asyncio.get_running_loop().time()
        response, reply = await node.ask(inner(b"{}"))
        assert reply.times[0] - before < 0.2
        assert response.informational, "the head was not there for the first cells"
        assert b"data: a\n\n" in response.body
        assert len({len(part) for part in reply.parts[1:-1]}) == 1
        gaps = [later - earlier for earlier, later in itertools.pairwise(reply.times)]
        assert sum(gaps) / len(gaps) == pytest.approx(0.03, rel=0.5)

    run(work())


def test_buckets_leave_when_there_is_something_to_say_and_end_on_a_rung() -> None:
    """No beat: the first word is out at once, every part has one size, and 21 cells are stretched to 25."""

    async def work() -> None:
        words = [b"data: %d\n\n" % number for number in range(20)]
        app = answering(200, EVENTS, *words, pause_s=0.005)
        node = Node(app, profile=BUCKET)
        started = asyncio.get_running_loop().time()
        response, reply = await node.ask(inner())
        assert [line for line in response.body.split(b"\n") if line.startswith(b"data")] == [
            word.strip() for word in words
        ]
        nonce, sealed = 32, 2 + 512 + 16
        assert len(reply.body) in (nonce + 20 * sealed - 1, nonce + 25 * sealed - 1)
        assert {len(part) for part in reply.parts[1:-1]} == {sealed}
        assert reply.times[0] - started < 0.05 < reply.times[-1] - started
        response, reply = await Node(answering(200, JSON, b"x" * 9000), profile=BUCKET).ask(inner())
        assert response.body == b"x" * 9000
        assert len(reply.body) == nonce + 20 * sealed - 1

    run(work())


@pytest.mark.parametrize("profile", [BUCKET, OFF])
def test_an_answer_known_whole_has_its_length_outside_and_leaves_in_one_write(profile: CellProfile) -> None:
    async def work() -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": list(JSON)})
            await send({"type": "http.response.body", "body": b"{}"})

        response, reply = await Node(app, profile=profile).ask(inner())
        assert response.body == b"{}"
        assert reply.header(b"content-length") == b"%d" % len(reply.body)
        assert len(reply.parts) == 1

    run(work())


@pytest.mark.parametrize("profile", [BUCKET, OFF])
def test_a_large_answer_leaves_in_portions(profile: CellProfile) -> None:
    """A slow reader has the time for each of them, not for all together."""

    async def work() -> None:
        body = bytes(range(256)) * 8192
        response, reply = await Node(answering(200, JSON, body), profile=profile).ask(inner())
        assert response.body == body
        assert max(map(len, reply.parts)) < 128 * 1024

    run(work())


@pytest.mark.parametrize("profile", [BUCKET, OFF])
@pytest.mark.parametrize("how", [{"leave_after": 3}, {"stall_at": 3}])
def test_a_reader_who_leaves_or_stalls_ends_an_application_that_goes_on(
    how: dict[str, int], profile: CellProfile
) -> None:
    async def work() -> None:
        seen: list[str] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": list(EVENTS)})
            try:
                while True:
                    await send({"type": "http.response.body", "body": b"data: x\n\n", "more_body": True})
                    await asyncio.sleep(0.001)
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        node = Node(app, profile=profile, stall_s=0.05)
        reply = await node.post(node.client().seal_request(sealed_form(inner())), **how)
        assert seen == ["cancelled"]
        assert not reply.complete
        assert node.ends == [ExchangeEnd.ABANDONED]

    run(work())


@pytest.mark.parametrize("profile", [BUCKET, OFF])
def test_a_transport_that_fails_ends_the_exchange_without_a_word(profile: CellProfile, caplog: Any) -> None:
    async def work() -> None:
        node = Node(answering(200, EVENTS, b"data: secret\n\n"), profile=profile)
        body = [node.client().seal_request(sealed_form(inner(b"secret")))]

        async def receive() -> Any:
            return {"type": "http.request", "body": body.pop(), "more_body": False}

        async def send(message: Any) -> None:
            raise OSError("gone")

        headers = [(b"content-type", REQUEST_MEDIA_TYPE.encode())]
        await node.gateway(
            {"type": "http", "method": "POST", "path": "/ohttp", "headers": headers}, receive, send
        )
        assert node.ends == [ExchangeEnd.ABANDONED]

    with caplog.at_level(logging.DEBUG):
        run(work())
    assert "secret" not in caplog.text


def test_an_application_that_follows_the_clock_fills_cells_with_what_waits() -> None:
    async def work() -> None:
        capacities: list[int] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            clock = scope["extensions"]["cloister.cells"]
            await send({"type": "http.response.start", "status": 200, "headers": list(EVENTS)})
            for _ in range(10):
                room = await clock.tick()
                capacities.append(room)
                event = b"data: " + b"x" * (room - 8) + b"\n\n" if room > 100 else b""
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        response, reply = await Node(app, profile=CellProfile("constant", 512, 20)).ask(inner())
        assert len(reply.parts) == 16
        assert sum(room == 510 for room in capacities) >= 5, "an event fills a cell exactly"
        assert response.body.count(b"data: ") == sum(room > 100 for room in capacities)

    run(work())


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"method": "GET"}, 405),
        ({"headers": ()}, 415),
        ({"headers": ((b"content-type", b"message/ohttp-req"),)}, 415),
        (
            {"headers": ((b"content-type", REQUEST_MEDIA_TYPE.encode()), (b"content-length", b"99999999"))},
            413,
        ),
        ({"headers": ((b"content-type", REQUEST_MEDIA_TYPE.encode()), (b"content-length", b"-1"))}, 400),
    ],
)
def test_refused_before_anything_is_read(change: dict[str, Any], status: int) -> None:
    async def work() -> None:
        node = Node(Recorder())
        reply = await node.post(b"x", **change)
        assert reply.status == status
        assert json.loads(reply.body)["status"] == status
        assert node.ends == [ExchangeEnd.REFUSED]

    run(work())


def test_refused_before_decapsulation() -> None:
    async def work() -> None:
        app = Recorder()
        node = Node(app, max_request=4096)
        good = node.client().seal_request(sealed_form(inner()))
        for body, status in (
            (b"", 400),
            (b"\x07", 400),
            (good[:-1], 400),
            (good + b"x", 400),
            (good + bytes(9000), 413),
        ):
            reply = await node.post(body, pieces=3)
            assert reply.status == status
            assert json.loads(reply.body)["type"] == "about:blank"
        stranger = GatewayKey.generate(8, 0x0020)
        reply = await node.post(ChunkedClient(stranger.config).seal_request(sealed_form(inner())))
        assert reply.status == 400
        assert reply.header(b"content-type") == b"application/problem+json"
        assert json.loads(reply.body)["type"] == "https://iana.org/assignments/http-problem-types#ohttp-key"
        assert app.scopes == []

    run(work())


@pytest.mark.parametrize("profile", [FAST, BUCKET, OFF])
@pytest.mark.parametrize(
    ("request_", "status", "kind"),
    [
        (without(inner(), b"date"), 400, "about:blank"),
        (without(inner(), b"date", b"yesterday"), 400, "about:blank"),
        (without(inner(), b"date", format_http_date(NOW), format_http_date(NOW)), 400, "about:blank"),
        (without(inner(), b"request-id"), 400, "about:blank"),
        (without(inner(), b"request-id", b"short"), 400, "about:blank"),
        (without(inner(), b"attestation-digest"), 400, "about:blank"),
        (without(inner(), b"attestation-digest", b"sha-512=:AAAA:"), 400, "about:blank"),
        (inner(path=b"/%ff"), 400, "about:blank"),
        (
            without(inner(), b"date", format_http_date(NOW - 121)),
            400,
            "https://iana.org/assignments/http-problem-types#date",
        ),
        (
            without(inner(), b"date", format_http_date(NOW + 121)),
            400,
            "https://iana.org/assignments/http-problem-types#date",
        ),
    ],
)
def test_refused_inside_the_encryption(request_: Any, status: int, kind: str, profile: CellProfile) -> None:
    async def work() -> None:
        app = Recorder()
        response, reply = await Node(app, profile=profile).ask(request_)
        assert reply.status == 200
        assert response.status == status
        assert json.loads(response.body)["type"] == kind
        assert dict(response.headers)[b"date"] == format_http_date(NOW)
        assert app.scopes == []

    run(work())


WHOLE = ((b"content-type", b"message/ohttp-req"),)


async def ask_whole(node: Node, request: Any, pieces: int = 1) -> tuple[Any, Reply]:
    client = ClientRequest(node.key.config)
    reply = await node.post(client.seal(sealed_form(request)), headers=WHOLE, pieces=pieces)
    assert reply.status == 200, reply.body
    return decode_response(client.open(reply.body)), reply


@pytest.mark.parametrize("profile", [FAST, BUCKET, OFF])
def test_messages_in_one_piece_are_taken_where_that_is_wanted(profile: CellProfile) -> None:
    async def work() -> None:
        app = Recorder()
        node = Node(app, profile=profile, whole_messages=True)
        response, reply = await ask_whole(node, inner(b'{"a":1}'), pieces=5)
        assert (response.status, response.headers, response.body) == (200, JSON, b"{}")
        assert reply.header(b"content-type") == b"message/ohttp-res"
        assert reply.header(b"content-length") == b"%d" % len(reply.body)
        padded = len(reply.body) - 32 - 16
        assert padded == 16 * 512 if profile is not OFF else padded < 100
        assert (await ask_whole(node, without(inner(), b"date")))[0].status == 400
        assert (await node.ask(inner()))[0].status == 200, "and chunks as before"
        sealed = ClientRequest(node.key.config).seal(sealed_form(inner()))
        for body, status in ((sealed[:-1], 400), (sealed[:20], 400), (b"", 400), (bytes(2_000_000), 413)):
            assert (await node.post(body, headers=WHOLE, pieces=3)).status == status
        assert len(app.scopes) == 2
        for _ in range(2):
            await node.post(sealed, headers=WHOLE)
        assert len(app.scopes) == 3, "the second was a replay"

    run(work())


def test_messages_in_one_piece_are_refused_where_nothing_was_said() -> None:
    async def work() -> None:
        app = Recorder()
        node = Node(app)
        reply = await node.post(ClientRequest(node.key.config).seal(sealed_form(inner())), headers=WHOLE)
        assert reply.status == 415
        assert app.scopes == []

    run(work())


@pytest.mark.parametrize("app_name", ["raising", "returning_early", "endless"])
def test_a_broken_application_behind_whole_messages_gives_one_uniform_answer(app_name: str) -> None:
    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(JSON)})
        while True:
            await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})

    async def work() -> None:
        app = {"raising": raising, "returning_early": returning_early, "endless": endless}[app_name]
        response, _ = await ask_whole(Node(app, whole_messages=True), inner(b"secret"))
        assert response.status == 500
        assert json.loads(response.body)["error"]["code"] == "internal_error"

    run(work())


def test_a_gateway_without_evidence_asks_for_a_date_alone_and_still_remembers() -> None:
    async def work() -> None:
        app = Recorder()
        node = Node(app, is_live=None)
        bare = without(without(inner(), b"attestation-digest"), b"request-id")
        assert (await node.ask(bare))[0].status == 200
        assert (await node.ask(without(bare, b"date")))[0].status == 400
        client = node.client()
        sealed = client.seal_request(sealed_form(bare))
        assert opened(client, (await node.post(sealed)).parts).status == 200
        assert opened(client_again(client), (await node.post(sealed)).parts).status == 400
        assert len(app.scopes) == 2

    run(work())


def client_again(client: ChunkedClient) -> ChunkedClient:
    """The same session, ready for another response: what only a test can make."""
    again = ChunkedClient.__new__(ChunkedClient)
    again.__dict__.update(client.__dict__)
    again._start, again._reader, again._progress = bytearray(), None, type(client._progress)(1 << 20)
    return again


def test_malformed_binary_http_is_refused_inside() -> None:
    async def work() -> None:
        node = Node(Recorder())
        client = node.client()
        reply = await node.post(client.seal_request(b"\x05 not binary HTTP"))
        assert reply.status == 200
        assert opened(client, reply.parts).status == 400

    run(work())


def test_a_full_replay_window_refuses_inside() -> None:
    async def work() -> None:
        node = Node(Recorder(), replay=ReplayWindow(120, capacity=1))
        assert (await node.ask(inner()))[0].status == 200
        assert (await node.ask(inner()))[0].status == 503

    run(work())


async def raising(scope: Any, receive: Any, send: Any) -> None:
    raise RuntimeError("the prompt was: secret")


async def raising_after_its_own_500(scope: Any, receive: Any, send: Any) -> None:
    await answering(500, ((b"content-type", b"text/plain"),), b"Internal Server Error")(scope, receive, send)
    raise RuntimeError("the prompt was: secret")


async def returning_early(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": list(JSON)})
    await send({"type": "http.response.body", "body": b'{"secret"', "more_body": True})


async def splitting_headers(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"secret\r\ny: z")]})


@pytest.mark.parametrize("app", [raising, raising_after_its_own_500, returning_early, splitting_headers])
def test_a_broken_application_gives_one_uniform_answer_and_no_log(app: Any, caplog: Any, capfd: Any) -> None:
    async def work() -> None:
        node = Node(app)
        answers = {
            (r.status, r.headers, r.body) for r in [(await node.ask(inner(b"secret")))[0] for _ in range(2)]
        }
        ((status, headers, body),) = answers
        assert status == 500
        assert dict(headers)[b"content-type"] == b"application/problem+json"
        assert json.loads(body)["error"]["code"] == "internal_error"
        assert b"secret" not in body

    with caplog.at_level(logging.DEBUG):
        run(work())
    printed = capfd.readouterr()
    assert "secret" not in caplog.text + printed.out + printed.err


def test_an_application_that_breaks_inside_a_stream_says_so_in_the_stream() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(EVENTS)})
        await send({"type": "http.response.body", "body": b"data: a\n\n", "more_body": True})
        await asyncio.sleep(0.02)
        raise RuntimeError("secret")

    async def work(profile: CellProfile) -> None:
        response, _ = await Node(app, profile=profile).ask(inner())
        said = [line for line in response.body.split(b"\n") if line.startswith(b"data:")]
        assert said[0] == b"data: a"
        assert json.loads(said[1][5:])["error"]["code"] == "internal_error"
        assert b"secret" not in response.body

    run(work(FAST))
    run(work(BUCKET))
    run(work(OFF))


def test_without_padding_a_broken_body_is_never_taken_for_a_whole_one() -> None:
    async def work() -> None:
        node = Node(returning_early, profile=OFF)
        client = node.client()
        reply = await node.post(client.seal_request(sealed_form(inner())))
        assert not reply.complete
        with pytest.raises(ChunkError, match="truncated"):
            opened(client, reply.parts)
        assert node.ends == [ExchangeEnd.ABANDONED]

    run(work())


def waiting_app(seen: list[str]) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append("started")
        try:
            await send({"type": "http.response.start", "status": 200, "headers": list(EVENTS)})
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    return app


@pytest.mark.parametrize("how", [{"leave_after": 3}, {"stall_at": 3}])
def test_a_reader_who_leaves_or_stalls_ends_the_application(how: dict[str, int]) -> None:
    async def work() -> None:
        seen: list[str] = []
        node = Node(waiting_app(seen), stall_s=0.05)
        reply = await node.post(node.client().seal_request(sealed_form(inner())), **how)
        assert seen == ["started", "cancelled"]
        assert not reply.complete
        assert node.ends == [ExchangeEnd.ABANDONED]

    run(work())


def test_a_sender_who_dawdles_is_refused_and_one_who_leaves_is_forgotten() -> None:
    async def work() -> None:
        node = Node(Recorder(), body_timeout_s=0.05)
        sent: list[Any] = []
        parts = [{"type": "http.request", "body": b"\x07", "more_body": True}]

        async def receive() -> Any:
            if parts:
                return parts.pop()
            await asyncio.sleep(1 if not leaving else 0)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"content-type", REQUEST_MEDIA_TYPE.encode())]
        scope = {"type": "http", "method": "POST", "path": "/ohttp", "headers": headers}
        leaving = False
        await node.gateway(scope, receive, send)
        assert sent[0]["status"] == 408
        sent.clear()
        leaving = True
        await node.gateway(scope, receive, send)
        assert sent == []
        assert node.ends == [ExchangeEnd.REFUSED, ExchangeEnd.ABANDONED]

    run(work())


class Panic(BaseException):
    """What a library in Rust raises when it panics: no Exception."""


@pytest.mark.parametrize("profile", [FAST, BUCKET, OFF])
def test_a_panic_inside_is_an_answer_like_any_error(profile: CellProfile) -> None:
    async def panicking(scope: Any, receive: Any, send: Any) -> None:
        raise Panic("secret")

    async def work() -> None:
        response, _ = await Node(panicking, profile=profile).ask(inner())
        assert response.status == 500
        assert b"secret" not in response.body

    run(work())


def test_a_thousand_at_once_are_answered_or_turned_away_and_the_node_stays_up() -> None:
    async def work() -> None:
        node = Node(answering(200, JSON, b"{}", pause_s=0.01), max_open=64, profile=OFF)
        bodies = [node.client().seal_request(sealed_form(inner())) for _ in range(1000)]
        replies = await asyncio.gather(*(node.post(body) for body in bodies))
        assert {reply.status for reply in replies} == {200, 503}
        assert sum(reply.status == 200 for reply in replies) == 64
        assert node.ends.count(ExchangeEnd.OVERLOADED) == 1000 - 64
        assert (await node.ask(inner()))[0].status == 200

    run(work())


def test_keys_other_paths_and_other_protocols() -> None:
    async def outer(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await answering(200, JSON, b"outer")(scope, receive, send)

    async def work() -> None:
        node = Node(Recorder(), outer=outer)
        reply = await node.post(b"", method="GET", path="/.well-known/ohttp-gateway")
        assert reply.header(b"content-type") == b"application/ohttp-keys"
        assert parse_key_configs(reply.body) == (node.key.config,)
        assert (await node.post(b"", method="PUT", path="/.well-known/ohttp-gateway")).status == 405
        client = node.client()
        sealed = client.seal_request(sealed_form(inner()))
        there = await node.post(sealed, path="/.well-known/ohttp-gateway")
        assert opened(client, there.parts).status == 200
        assert (await node.post(b"", method="GET", path="/metrics")).body == b"outer"
        assert (await drive(Node(Recorder()).gateway, b"", path="/v1/models")).status == 404
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await node.gateway({"type": "websocket", "path": "/ohttp"}, receive, send)
        assert sent == [{"type": "websocket.close", "code": 1008}]
        steps = iter(("lifespan.startup", "lifespan.shutdown"))

        async def lifespan() -> Any:
            return {"type": next(steps)}

        sent.clear()
        await Node(Recorder()).gateway({"type": "lifespan"}, lifespan, send)
        assert [message["type"] for message in sent] == [
            "lifespan.startup.complete",
            "lifespan.shutdown.complete",
        ]

    run(work())


def test_a_broken_keyring_or_liveness_check_lets_nothing_through() -> None:
    def broken(_: bytes) -> bool:
        raise RuntimeError("secret")

    async def work() -> None:
        app = Recorder()
        node = Node(app, is_live=broken)
        reply = await node.post(node.client().seal_request(sealed_form(inner())))
        assert reply.status == 500
        assert b"secret" not in reply.body
        assert app.scopes == []
        assert BUNDLE not in reply.body

    run(work())


def test_an_application_that_writes_faster_than_cells_leave_is_held_up() -> None:
    async def work() -> None:
        written = 0

        async def app(scope: Any, receive: Any, send: Any) -> None:
            nonlocal written
            await send({"type": "http.response.start", "status": 200, "headers": list(EVENTS)})
            while True:
                await send(
                    {
                        "type": "http.response.body",
                        "body": b"data: " + b"x" * 4088 + b"\n\n",
                        "more_body": True,
                    }
                )
                written += 4096

        node = Node(app)
        await node.post(node.client().seal_request(sealed_form(inner())), leave_after=8)
        assert 64 * 1024 <= written <= 80 * 1024

    run(work())


@settings(max_examples=25, deadline=None)
@given(
    noise=st.binary(max_size=200), at=st.integers(0, 2150), flip=st.integers(1, 255), cut=st.integers(0, 2150)
)
def test_any_bytes_are_refused_in_clear_and_run_nothing(noise: bytes, at: int, flip: int, cut: int) -> None:
    async def work() -> None:
        app = Recorder()
        node = Node(app)
        good = node.client().seal_request(sealed_form(inner()))
        flipped = bytearray(good)
        flipped[at % len(good)] ^= flip
        for body in (noise, bytes(flipped), good[: cut % len(good)], good + noise + b"x"):
            reply = await node.post(body)
            assert reply.status == 400
            assert reply.complete
        assert app.scopes == []
        assert set(node.ends) == {ExchangeEnd.REFUSED}

    run(work())
