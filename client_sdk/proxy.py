"""A local OpenAI-compatible endpoint: programs that know nothing of attestation talk to it, it to a verified node.

The proxy runs on the user's own machine, since it sees prompts; it listens on the loopback interface. A web page in
the user's browser reaches that too, so a request must name this machine as its host, and come from no other origin.
"""

import json
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol

from .answer import AsyncInnerAnswer
from .errors import ClientError, DirectoryRefused, ExchangeFailed, VerificationRefused
from .exchange import InnerRequest

MAX_BODY: Final = 1024 * 1024
_LOOPBACK: Final = re.compile(
    rb"(?:https?://)?(?:127\.0\.0\.1|localhost|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE
)
_PATHS: Final = ("/v1/chat/completions", "/v1/completions", "/v1/models")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Exchanges(Protocol):
    """What carries a request: a ``PrivateClient`` of one node, or ``client_sdk.conversations`` over several."""

    def astream(self, request: InnerRequest) -> AbstractAsyncContextManager[AsyncInnerAnswer]: ...


class Proxy:
    """An ASGI app that carries ``/v1/...`` through ``client``. Errors have OpenAI's shape and no content."""

    def __init__(self, client: Exchanges) -> None:
        self._client = client

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection event of the ASGI protocol; only ``http`` and ``lifespan`` are known."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        if not _is_local(scope["headers"]):
            await _error(send, 403, "not_local", "this proxy serves programs of this machine alone")
            return
        if scope["path"] not in _PATHS:
            await _error(send, 404, "not_found", f"this proxy serves {', '.join(_PATHS)}")
            return
        body = await _read_body(receive)
        if body is None:
            await _error(send, 413, "request_too_large", f"a request has at most {MAX_BODY} bytes")
            return
        await self._forward(InnerRequest(scope["method"], scope["path"], tuple(scope["headers"]), body), send)

    async def _forward(self, request: InnerRequest, send: Send) -> None:
        started = False
        try:
            async with self._client.astream(request) as answer:
                headers = [(n, v) for n, v in answer.head.headers if n == b"content-type"]
                await send({"type": "http.response.start", "status": answer.head.status, "headers": headers})
                started = True
                async for part in answer.content():
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
        except ClientError as error:
            if started:
                raise  # the server closes the connection: a cut answer must not look like a whole one
            refused = isinstance(error, VerificationRefused | DirectoryRefused | ExchangeFailed)
            await _error(send, 502 if refused else 503, error.code, error.detail)


def _is_local(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether host and origin, where they are given, are this machine: a name that was rebound to it is not."""
    stated = [value for name, value in headers if name in (b"host", b"origin")]
    return all(_LOOPBACK.fullmatch(value) for value in stated)


async def _read_body(receive: Receive) -> bytes | None:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return bytes(body)
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            return None
        if not message.get("more_body"):
            return bytes(body)


async def _error(send: Send, status: int, code: str, detail: str) -> None:
    body = json.dumps({"error": {"type": "cloister", "code": code, "message": detail}}).encode()
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
