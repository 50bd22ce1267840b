"""Drives a gateway in this process: seals requests as a client does, and keeps what the wire shows."""

import asyncio
import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from ohttp.asgi import App, Message
from ohttp.bhttp import Request, Response, decode_response, encode_request
from ohttp.chunked import REQUEST_MEDIA_TYPE, ChunkedClient
from ohttp.gateway import ExchangeEnd, Gateway
from ohttp.http_date import format_http_date
from ohttp.keyconfig import GatewayKey, KeyRing
from ohttp.padding import CellCheck, CellProfile, padme
from ohttp.replay import ReplayWindow

NOW = 1_800_000_000.0
BUNDLE = hashlib.sha256(b"the evidence that was verified").digest()
FAST = CellProfile("constant", cell_bytes=512, interval_ms=5)
BUCKET = CellProfile("bucket", cell_bytes=512)
OFF = CellProfile("off")
X25519 = 0x0020


@dataclass
class Reply:
    """The outer response: what a relay sees of it."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    parts: list[bytes] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    complete: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.parts)

    def header(self, name: bytes) -> bytes | None:
        return next((value for found, value in self.headers if found == name), None)


class Node:
    """A gateway with one key, a clock that stands still, and live evidence ``BUNDLE``."""

    def __init__(
        self, app: App, *, profile: CellProfile = FAST, outer: App | None = None, **options: Any
    ) -> None:
        self.key = GatewayKey.generate(7, X25519)
        self.profile = profile
        self.now = NOW
        self.live = {BUNDLE}
        self.ends: list[ExchangeEnd] = []
        options.setdefault("replay", ReplayWindow(120))
        options.setdefault("is_live", lambda digest: digest in self.live)
        self.gateway = Gateway(
            app,
            keyring=lambda: KeyRing([self.key]),
            profile=profile,
            now=lambda: self.now,
            outer=outer,
            observe=self.ends.append,
            **options,
        )

    def client(self) -> ChunkedClient:
        return ChunkedClient(self.key.config)

    async def ask(self, request: Request) -> tuple[Response, Reply]:
        """Seal ``request``, send it, and open the answer. Raises OhttpError where the answer is not whole."""
        client = self.client()
        reply = await self.post(client.seal_request(sealed_form(request)))
        assert reply.status == 200, reply.body
        return opened(client, reply.parts, self.profile), reply

    async def post(
        self,
        body: bytes,
        *,
        headers: Iterable[tuple[bytes, bytes]] = ((b"content-type", REQUEST_MEDIA_TYPE.encode()),),
        method: str = "POST",
        path: str = "/ohttp",
        pieces: int = 1,
        leave_after: int | None = None,
        stall_at: int | None = None,
    ) -> Reply:
        """One outer request. The peer goes after ``leave_after`` parts, or stops reading at ``stall_at``."""
        return await drive(
            self.gateway,
            body,
            headers=headers,
            method=method,
            path=path,
            pieces=pieces,
            leave_after=leave_after,
            stall_at=stall_at,
        )


async def drive(
    app: App,
    body: bytes,
    *,
    headers: Iterable[tuple[bytes, bytes]] = (),
    method: str = "GET",
    path: str = "/",
    query: bytes = b"",
    pieces: int = 1,
    leave_after: int | None = None,
    stall_at: int | None = None,
) -> Reply:
    """Run one request through an ASGI application."""
    reply = Reply()
    loop = asyncio.get_running_loop()
    step = max(1, -(-len(body) // pieces))
    waiting = [body[at : at + step] for at in range(0, len(body), step)] or [b""]
    gone = asyncio.Event()

    async def receive() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            reply.status, reply.headers = message["status"], list(message["headers"])
            return
        if stall_at is not None and len(reply.parts) >= stall_at:
            await asyncio.Event().wait()
        reply.parts.append(message.get("body", b""))
        reply.times.append(loop.time())
        reply.complete = not message.get("more_body", False)
        if reply.complete or (leave_after is not None and len(reply.parts) >= leave_after):
            gone.set()

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "headers": list(headers),
        "client": ("203.0.113.9", 40000),
    }
    await app(scope, receive, send)
    return reply


def inner(body: bytes = b"", **changes: Any) -> Request:
    """A well-formed inner request; ``changes`` to its parts."""
    request = Request(
        b"POST",
        b"https",
        b"cloister.internal",
        b"/v1/chat/completions",
        (
            (b"content-type", b"application/json"),
            (b"date", format_http_date(NOW)),
            (b"request-id", b"00112233445566778899aabbccddeeff"),
            (b"attestation-digest", attestation_digest(BUNDLE)),
        ),
        body,
    )
    return replace(request, **changes)


def without(request: Request, name: bytes, *instead: bytes) -> Request:
    """The same request with other values for the header ``name``."""
    kept = tuple(header for header in request.headers if header[0] != name)
    return replace(request, headers=kept + tuple((name, value) for value in instead))


def attestation_digest(bundle: bytes) -> bytes:
    return b"sha-256=:" + base64.b64encode(bundle) + b":"


def sealed_form(request: Request) -> bytes:
    return encode_request(request, pad_to=padme(len(encode_request(request))))


def opened(client: ChunkedClient, parts: Iterable[bytes], profile: CellProfile = OFF) -> Response:
    """The inner response out of the parts of the outer one, held to the shape that ``profile`` promises."""
    plain = [chunk for part in parts for chunk in client.receive(part)]
    plain += client.finish()
    check = CellCheck(profile)
    for chunk in plain:
        check.chunk(chunk)
    check.finish()
    return decode_response(b"".join(plain))


def answering(
    status: int, headers: Iterable[tuple[bytes, bytes]], *pieces: bytes, pause_s: float = 0.0
) -> App:
    """An application that reads its request and answers with ``pieces``."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})
        for piece in pieces:
            await asyncio.sleep(pause_s)
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return app


EVENTS = ((b"content-type", b"text/event-stream; charset=utf-8"),)
JSON = ((b"content-type", b"application/json"),)
