"""Attempts to take up a server's connections for ever, each beside uvicorn's own protocol, where they succeed."""

import asyncio
import socket
import sys
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from enclave_runtime.http_server import PromptProtocol, Server
from ohttp import impatience

POST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 32\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
PATIENCE = 20.0
LONG = bytes(16 * 1024 * 1024)  # no socket buffer holds it


async def trusting(scope: Any, receive: Any, send: Any) -> None:
    """An application without any limit of its own."""
    if scope["method"] == "POST":
        while (await receive()).get("more_body", False):
            pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": LONG if scope["method"] == "GET" else b"ok"})


async def still_held(protocol: type[Any], sent: bytes, seconds: float = 1.9) -> int:
    """How many connections a server holds ``seconds`` after ten peers have sent ``sent`` and read nothing.

    Asked again and again until there is none: a busy machine may be late, and is late for the defence alone.
    """
    config = uvicorn.Config(
        trusting, http=protocol, ws="none", lifespan="off", log_config=None, timeout_keep_alive=1
    )
    config.load()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = Server(config)
        listens = asyncio.Event()
        server.when_listening = listens.set
        serving = asyncio.create_task(server.serve([listener]))
        await listens.wait()
        peers = []
        for _ in range(10):
            peer = socket.socket()
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            peer.connect(listener.getsockname())
            peer.sendall(sent)
            peers.append(peer)
        until = asyncio.get_running_loop().time() + seconds
        await asyncio.sleep(0.5)
        while (held := len(server.server_state.connections)) and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.1)
        for peer in peers:
            peer.close()
        server.stop()
        server.force_exit = True
        await serving
        return held


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(POST + b"a", id="a body that never comes whole"),
        pytest.param(POST + bytes(32) + POST, id="a body promised behind another request"),
        pytest.param(GET, id="an answer that nobody reads"),
        pytest.param(GET * 50, id="many answers that nobody reads"),
    ],
)
def test_holding_connections(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEAD_TIMEOUT_S", "BODY_TIMEOUT_S", "STALL_S", "LINGER_S"):
        monkeypatch.setattr(impatience, name, 0.3)

    async def both() -> list[int]:
        return await asyncio.gather(still_held(PromptProtocol, sent, PATIENCE), still_held(H11Protocol, sent))

    assert asyncio.run(both()) == [0, 10], "control: without impatience all ten are held"


def test_leaving_the_rest_of_a_closed_connection_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(impatience, "LINGER_S", 0.3)
    assert asyncio.run(still_held(PromptProtocol, GET, PATIENCE)) == 0
    monkeypatch.setattr(impatience, "LINGER_S", sys.maxsize // 10**12)
    assert asyncio.run(still_held(PromptProtocol, GET)) == 10, "control: without the time limit all are held"
