"""The node's HTTP server stops when told, says when it listens, and waits for nobody for ever."""

import asyncio
import socket

import pytest

from enclave_runtime import http_server
from enclave_runtime.http_server import Server, server_config
from ohttp import impatience

REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


async def slow_app(scope, receive, send):
    await asyncio.sleep(0.3)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def impatient(monkeypatch):
    for name in ("HEAD_TIMEOUT_S", "BODY_TIMEOUT_S", "STALL_S", "LINGER_S"):
        monkeypatch.setattr(impatience, name, 0.1)
    monkeypatch.setattr(http_server, "KEEP_ALIVE_S", 0.1)


def served(talk):
    """Run ``talk(port)`` against a server, then stop it."""

    async def run():
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        server = Server(server_config(slow_app))
        listens = asyncio.Event()
        server.when_listening = listens.set
        serving = asyncio.create_task(server.serve([listener]))
        await asyncio.wait_for(listens.wait(), 5)
        try:
            return await asyncio.wait_for(talk(listener.getsockname()[1]), 10)
        finally:
            server.stop()
            await asyncio.wait_for(serving, 10)

    return asyncio.run(run())


@pytest.mark.parametrize("sent", [b"", b"GET /", REQUEST + b"GET / HTTP/1.1\r\nx: "])
def test_a_connection_that_does_not_bring_a_head_is_closed(impatient, sent):
    async def talk(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        return answer

    assert served(talk).count(b"200 OK") == (1 if sent.startswith(REQUEST) else 0)


def test_a_slow_answer_is_not_cut(impatient):
    async def talk(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST)
        answer = await reader.readuntil(b"ok")
        writer.close()
        return answer

    assert b"200 OK" in served(talk)


def test_the_answer_names_no_server_and_no_date():
    async def talk(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST)
        answer = await reader.readuntil(b"ok")
        writer.close()
        return answer.lower()

    answer = served(talk)
    assert b"server:" not in answer
    assert b"date:" not in answer
