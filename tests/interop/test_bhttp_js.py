"""Binary HTTP in both directions with npm's bhttp-js, on the plain messages that both sides write alike."""

from typing import Any

import pytest
from node_peers import NodePeers

from ohttp.bhttp import Request, Response, decode_request, decode_response, encode_request, encode_response

REQUESTS = [
    Request(b"GET", b"https", b"example.com", b"/"),
    Request(b"POST", b"https", b"example.com", b"/v1/chat", ((b"content-type", b"application/json"),), b"{}"),
    Request(b"PUT", b"https", b"example.com", b"/a/b", ((b"x-one", b"1"), (b"x-two", b"2")), bytes(20_000)),
]
RESPONSES = [
    Response(200, ((b"content-type", b"text/plain"),), b"hello"),
    Response(404, (), b""),
    Response(201, ((b"x-one", b"1"),), bytes(range(256)) * 300),
]


def fields(pairs: Any) -> set[tuple[str, str]]:
    return {
        tuple(part.decode() if isinstance(part, bytes) else part for part in pair)  # type: ignore[misc]
        for pair in pairs
    }


def told(message: Request | Response) -> dict[str, Any]:
    """The message as the driver takes it."""
    shared = {"headers": [list(pair) for pair in fields(message.headers)], "content": message.body.hex()}
    if isinstance(message, Response):
        return {"status": message.status, **shared}
    parts = {name: getattr(message, name).decode() for name in ("method", "scheme", "authority", "path")}
    return {**parts, **shared}


@pytest.mark.parametrize("padded", [False, True])
def test_it_reads_what_we_write(node_peers: NodePeers, padded: bool) -> None:
    room = 100_000 if padded else None
    requests = [encode_request(request, pad_to=room) for request in REQUESTS]
    responses = [encode_response(response, pad_to=room) for response in RESPONSES]
    questions = [{"op": "decode", "kind": "request", "hex": data.hex()} for data in requests]
    questions += [{"op": "decode", "kind": "response", "hex": data.hex()} for data in responses]
    answers = node_peers.ask("bhttp_peer.js", questions)
    for message, answer in zip([*REQUESTS, *RESPONSES], answers, strict=True):
        assert "error" not in answer, answer
        expected = told(message)
        assert fields(expected.pop("headers")) <= fields(answer.pop("headers"))
        assert answer == expected


def test_we_read_what_it_writes(node_peers: NodePeers) -> None:
    questions = [{"op": "encode", "kind": "request", "message": told(request)} for request in REQUESTS]
    questions += [{"op": "encode", "kind": "response", "message": told(response)} for response in RESPONSES]
    answers = node_peers.ask("bhttp_peer.js", questions)
    for message, answer in zip([*REQUESTS, *RESPONSES], answers, strict=True):
        assert isinstance(answer, str), answer
        data = bytes.fromhex(answer)
        read = decode_request(data) if isinstance(message, Request) else decode_response(data)
        assert fields(message.headers) <= fields(read.headers)
        assert read.body == message.body
        if isinstance(message, Request) and isinstance(read, Request):
            assert (read.method, read.scheme, read.authority, read.path) == (
                message.method,
                message.scheme,
                message.authority,
                message.path,
            )
        elif isinstance(message, Response) and isinstance(read, Response):
            assert read.status == message.status
