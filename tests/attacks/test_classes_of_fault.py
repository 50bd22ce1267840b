"""Faults that implementations of this protocol have had, each tried on this one.

Those that need more than a few lines have files of their own: replays (test_run_a_prompt_again.py), streams cut or
rearranged (test_ohttp_tampering.py), cookies and marks on the way (test_mark_a_request_on_its_way.py).
"""

import asyncio
import logging
import threading
from typing import Any

import pytest
from gateway_driver import EVENTS, JSON, OFF, Node, answering, drive, inner, opened, sealed_form

from ohttp import kem, varint
from ohttp.bhttp import (
    Request,
    Response,
    ResponseDecoder,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from ohttp.chunked import REQUEST_LABEL, REQUEST_MEDIA_TYPE, ChunkedClient, ChunkedGateway
from ohttp.encapsulation import ClientRequest, GatewayRequest, start_request
from ohttp.errors import BhttpError, ChunkError, OhttpError, UnknownKey, UnsupportedSuite
from ohttp.keyconfig import GatewayKey, KeyRing

RING = KeyRing([GatewayKey.generate(1, kem.X25519), GatewayKey.generate(2, kem.MLKEM768_X25519)])
CANARY = b"canary-4711"


class Seen:
    """An application that keeps the scopes it was called with."""

    def __init__(self) -> None:
        self.scopes: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        await answering(200, JSON, b"{}")(scope, receive, send)


# -- keys and threads ----------------------------------------------------------------------------------------


def exchanges_in_threads(label_of: Any) -> list[BaseException]:
    """32 threads ask one ring under two key ids at once; ``label_of(key_id, own)`` gives each request's text."""
    failures: list[BaseException] = []
    start = threading.Barrier(32)

    def work(worker: int) -> None:
        start.wait()
        try:
            for turn in range(12):
                config = RING.configs[(worker + turn) % 2]
                client = ClientRequest(config)
                own = b"%d/%d/%d" % (config.key_id, worker, turn)
                sealed = client.seal(label_of(config.key_id, own))
                request = GatewayRequest.open(RING, sealed)
                assert request.plaintext == own
                assert client.open(request.seal(own[::-1])) == own[::-1]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def test_two_key_ids_under_32_threads_never_mix() -> None:
    assert exchanges_in_threads(lambda key_id, own: own) == []


def test_control_a_buffer_that_requests_share_mixes_them() -> None:
    """What went wrong elsewhere: a label written into memory that the next request writes to as well."""
    shared = bytearray()
    turn = threading.Semaphore(2)

    def mixed(key_id: int, own: bytes) -> bytes:
        with turn:
            shared[:] = own
            threading.Event().wait(0.0002)
            return bytes(shared)

    assert exchanges_in_threads(mixed) != []


@pytest.mark.parametrize("position", [0, 1, 3, 5])
def test_every_part_of_a_header_has_to_fit_the_key(position: int) -> None:
    """Key id, KEM, KDF and AEAD each by itself; an unknown number is refused like a wrong one."""
    good = ClientRequest(RING.configs[0]).seal(b"x")
    for value in {0, 0x10, 0x30, 0xFF} - {good[position]}:
        altered = bytearray(good)
        altered[position] = value
        for read in (
            lambda data: GatewayRequest.open(RING, data),
            lambda data: ChunkedGateway(RING).receive(data),
        ):
            with pytest.raises(UnknownKey) as caught:
                read(bytes(altered))
            assert isinstance(caught.value, UnsupportedSuite) == (position > 0)


# -- streams -------------------------------------------------------------------------------------------------


def test_a_cut_is_an_error_that_nobody_takes_for_an_end() -> None:
    for start in range(60):
        client, gateway = ChunkedClient(RING.configs[0]), ChunkedGateway(RING)
        gateway.receive(client.seal_request(b"x"))
        gateway.end()
        sealer = gateway.response()
        stream = sealer.prologue() + sealer.seal(b"one")
        client.receive(stream[:start])
        with pytest.raises(ChunkError) as caught:
            client.finish()
        assert caught.value.code == "truncated"
        assert not isinstance(caught.value, EOFError | StopIteration | StopAsyncIteration | OSError)


def test_short_answers_are_errors_at_every_length_and_never_a_crash() -> None:
    client = ClientRequest(RING.configs[0])
    request = GatewayRequest.open(RING, client.seal(b"x"))
    answer = request.seal(b"")
    for length in range(len(answer)):
        with pytest.raises(OhttpError):
            client.open(answer[:length])
    assert client.open(answer) == b""


@pytest.mark.parametrize("suite", [(1, 1), (1, 2), (1, 3)])
@pytest.mark.parametrize("portion", [1, 5, 12, 16, 31, 32, 33])
def test_the_nonce_of_every_suite_may_come_in_pieces(suite: tuple[int, int], portion: int) -> None:
    """16 bytes for AES-128, 32 for the others: a buffer made for the one must not be cut for the other."""
    ring = KeyRing([GatewayKey.generate(1, kem.X25519, ((1, 1), (1, 2), (1, 3)))])
    client, gateway = ChunkedClient(ring.configs[0], suite), ChunkedGateway(ring)
    gateway.receive(client.seal_request(b"x"))
    gateway.end()
    sealer = gateway.response()
    stream = sealer.prologue() + sealer.seal(b"one") + sealer.seal_final(b"two")
    chunks = [
        chunk for at in range(0, len(stream), portion) for chunk in client.receive(stream[at : at + portion])
    ]
    assert b"".join(chunks + client.finish()) == b"onetwo"


def test_an_application_that_writes_nothing_makes_no_empty_chunk() -> None:
    async def work() -> None:
        node = Node(
            answering(200, EVENTS, b"data: a\n\n", b"", b"", b"data: b\n\n", pause_s=0.001), profile=OFF
        )
        client = node.client()
        reply = await node.post(client.seal_request(sealed_form(inner())))
        assert opened(client, reply.parts).body == b"data: a\n\ndata: b\n\n"
        assert all(reply.parts)

    asyncio.run(work())


def test_an_empty_chunk_of_somebody_else_is_refused() -> None:
    header, context = start_request(RING.configs[0], None, REQUEST_LABEL, None)
    for chunk, refused in ((b"x", False), (b"", True)):
        ciphertext = context.seal(chunk)
        gateway = ChunkedGateway(RING)
        stream = header + context.enc + varint.encode(len(ciphertext)) + ciphertext
        if refused:
            with pytest.raises(ChunkError) as caught:
                gateway.receive(stream)
            assert caught.value.code == "empty_chunk"
        else:
            assert gateway.receive(stream) == [chunk], "control: the same with a byte in it"
        header, context = start_request(RING.configs[0], None, REQUEST_LABEL, None)


# -- Binary HTTP ---------------------------------------------------------------------------------------------


def test_trailers_queries_and_repeated_fields_survive_the_whole_way() -> None:
    app = Seen()
    request = inner(b"{}", path=b"/v1/x?a=1&a=2&b=%20%3F", trailers=((b"x-sum", b"7"), (b"x-sum", b"8")))
    repeated = ((b"accept", b"a"), (b"accept", b"b"), (b"x-" + b"n" * 70, b"long"))
    request = Request(
        request.method,
        request.scheme,
        request.authority,
        request.path,
        request.headers + repeated,
        request.body,
        request.trailers,
    )
    response, _ = asyncio.run(Node(app, profile=OFF).ask(request))
    assert response.status == 200
    (scope,) = app.scopes
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == (
        "/v1/x",
        b"/v1/x",
        b"a=1&a=2&b=%20%3F",
    )
    assert [pair for pair in scope["headers"] if pair in repeated] == list(repeated)


def test_repeated_set_cookie_and_trailers_of_an_answer_stay_apart() -> None:
    fields = ((b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"))
    response = Response(200, fields, b"x", ((b"x-t", b"1"), (b"x-t", b"2")))
    assert decode_response(encode_response(response)) == response


@pytest.mark.parametrize("length", [1, 62, 63, 64, 65, 255, 256, 16383, 16384])
def test_fields_of_every_length_of_length(length: int) -> None:
    request = Request(b"GET", b"https", b"h", b"/", ((b"n" * length, b"v" * length),), b"b" * length)
    assert decode_request(encode_request(request)) == request


def test_a_body_cut_short_is_never_filled_up() -> None:
    whole = encode_response(Response(200, (), b"0123456789"))
    ends = whole.index(b"0123456789")
    for length in range(ends + 1, ends + 10):
        with pytest.raises(BhttpError):
            decode_response(whole[:length])
        decoder = ResponseDecoder()
        decoder.feed(whole[:length])
        with pytest.raises(BhttpError):
            decoder.finish()


# -- the gateway ---------------------------------------------------------------------------------------------


STEERING = (
    (b"host", b"other.example"),
    (b"enginetarget", b"/admin"),
    (b"x-forwarded-host", b"other.example"),
    (b"x-forwarded-for", b"203.0.113.7"),
    (b"x-original-url", b"/admin"),
    (b"x-http-method-override", b"DELETE"),
    (b"authorization", b"Bearer " + CANARY),
    (b"cookie", b"id=" + CANARY),
    (b"date", b"Sun, 06 Nov 1994 08:49:37 GMT"),
)


def test_nothing_outside_steers_what_is_inside() -> None:
    async def work() -> None:
        app = Seen()
        node = Node(app, profile=OFF)
        bodies = [node.client().seal_request(sealed_form(inner(b"{}"))) for _ in range(2)]
        kind = ((b"content-type", REQUEST_MEDIA_TYPE.encode()),)
        await drive(node.gateway, bodies[0], headers=kind, method="POST", path="/ohttp")
        await drive(
            node.gateway,
            bodies[1],
            headers=kind + STEERING,
            method="POST",
            path="/ohttp",
            query=b"path=/admin",
        )
        plain, steered = app.scopes
        assert steered == plain
        assert steered["path"] == "/v1/chat/completions"
        # Control: the same headers inside do reach the application, but for those that are the gateway's own.
        await node.ask(inner(b"{}", headers=inner().headers + STEERING[1:-1]))
        assert (b"enginetarget", b"/admin") in app.scopes[-1]["headers"]

    asyncio.run(work())


def test_nothing_of_what_is_inside_is_logged(caplog: Any, capfd: Any) -> None:
    """A canary in path, query, header names and values, and body; through answers and failures of every kind."""

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError(repr(scope))

    async def work() -> None:
        for app in (Seen(), failing):
            node = Node(app, profile=OFF)
            told = inner(CANARY, path=b"/" + CANARY + b"?" + CANARY)
            headers = (*told.headers, (b"x-" + CANARY, CANARY), (b"authorization", CANARY))
            request = Request(told.method, told.scheme, told.authority, told.path, headers, CANARY)
            await node.ask(request)
            sealed = node.client().seal_request(sealed_form(request))
            for body in (sealed, sealed, sealed[:-1], sealed[:100], CANARY * 10):
                await node.post(body)
            await node.post(node.client().seal_request(CANARY))

    with caplog.at_level(logging.DEBUG):
        asyncio.run(work(), debug=True)
        logging.getLogger("control").debug("%s", CANARY)
    shown = capfd.readouterr()
    logged = [record.getMessage() for record in caplog.records if record.name != "control"]
    assert CANARY.decode() not in "".join(logged) + shown.out + shown.err
    assert CANARY.decode() in caplog.text, "control: what is logged is seen here"


def test_a_request_without_a_body_is_sealed_and_answered_sealed_like_any_other() -> None:
    async def work() -> None:
        node = Node(answering(200, JSON, CANARY), profile=OFF)
        request = inner(b"", method=b"GET", path=b"/v1/models")
        client = node.client()
        reply = await node.post(client.seal_request(sealed_form(request)))
        assert CANARY not in reply.body
        assert opened(client, reply.parts).body == CANARY

    asyncio.run(work())


def test_a_body_without_end_is_read_to_its_limit_and_no_further() -> None:
    async def work() -> None:
        node = Node(Seen(), max_request=4096)
        start = node.client().seal_request(sealed_form(inner()))[:39]
        given = 0

        async def receive() -> Any:
            nonlocal given
            given += 1
            return {
                "type": "http.request",
                "body": start if given == 1 else b"\x40\x01x" * 100,
                "more_body": True,
            }

        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"content-type", REQUEST_MEDIA_TYPE.encode())]
        await node.gateway(
            {"type": "http", "method": "POST", "path": "/ohttp", "headers": headers}, receive, send
        )
        assert sent[0]["status"] in (400, 413)
        assert given < 20

    asyncio.run(work())
