"""What every ASGI application here needs: the types of the interface, and whole plain responses."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from .fields import Fields
from .problems import Problem

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

NO_STORE = (b"cache-control", b"no-store")
"""The header of a response that nobody keeps."""

_STOP_GRACE_S = 5.0


class Started:
    """An ASGI ``send`` that remembers whether the response has started."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False

    def __call__(self, message: Message) -> Awaitable[None]:
        self.started = True
        return self._send(message)


async def respond(send: Send, status: int, headers: Fields, body: bytes) -> None:
    """A whole plain response."""
    sized = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": sized})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def refuse(send: Send, problem: Problem) -> None:
    """A whole plain problem response."""
    await respond(send, problem.status, problem.headers, problem.body)


def header_values(scope: Scope, name: bytes) -> list[bytes]:
    """All values of the header ``name`` (lower case), in order."""
    return [value for found, value in scope["headers"] if found == name]


async def disconnected(receive: Receive) -> None:
    """Returns once the peer has left. To be used after the whole body has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def stop(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel what still runs and wait for it, five seconds at most. No task's exception reaches a log.

    An exception may hold plaintext, and the loop prints those that nobody fetched.
    """
    tasks = list(tasks)
    running = [task for task in tasks if not task.done()]
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running, timeout=_STOP_GRACE_S)
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()


async def serve_other(scope: Scope, receive: Receive, send: Send) -> None:
    """What is no HTTP: start and stop, of an application that has nothing to start or stop; WebSockets are refused."""
    if scope["type"] != "lifespan":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
