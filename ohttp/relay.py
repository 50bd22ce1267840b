"""An oblivious relay (RFC 9458 section 6.1), as an ASGI application: who asks is not what reaches the node.

It knows a fixed table of targets and passes bytes between them and whoever asks. Towards the node go the
method, the content type, the framing and ``incremental``; back come status and content type. Nothing else
goes through: no address, cookie, user agent, ``Via`` or ``Forwarded``. It follows no redirect, repeats no
request, keeps no body and writes no log; it counts.
"""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any, Protocol
from urllib.parse import urlsplit

from .asgi import (
    NO_STORE,
    Receive,
    Scope,
    Send,
    Started,
    disconnected,
    header_values,
    refuse,
    respond,
    serve_other,
    stop,
)
from .chunked import MAX_REQUEST, REQUEST_MEDIA_TYPE
from .encapsulation import MEDIA_TYPE_REQUEST
from .errors import RelayError
from .places import Places
from .problems import Problem

MAX_ATTESTATION = 4 * 1024 * 1024
MAX_CHALLENGE = 1024
OHTTP_MEDIA_TYPES = frozenset((REQUEST_MEDIA_TYPE.encode(), MEDIA_TYPE_REQUEST.encode()))

_NOT_FOUND = Problem(404, "No such target here", "unknown_target")
_METHOD = Problem(405, "Method not allowed", "method_not_allowed")
_TIMEOUT = Problem(408, "The request took too long to arrive", "timeout")
_TOO_LARGE = Problem(413, "The request is too large", "too_large")
_MEDIA_TYPE = Problem(415, "Not an encapsulated request", "unsupported_media_type")
_UNREACHABLE = Problem(502, "The target did not answer", "unreachable")
_UNUSABLE = Problem(502, "The target gave an answer that cannot be passed on", "bad_answer")
_BUSY = Problem(503, "Too many requests are open", "overloaded")

_TARGET_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


class HttpClient(Protocol):
    """The part of ``httpx2.AsyncClient`` that a relay uses."""

    def build_request(self, method: str, url: str, *, content: Any = None, headers: Any = None) -> Any:
        """A request that has not been sent."""

    async def send(self, request: Any, *, stream: bool, auth: Any, follow_redirects: bool) -> Any:
        """Send it; with ``stream`` the body is still to be read."""


class Relay:
    """ASGI application: ``/{target}/ohttp`` and ``/{target}/attestation`` for every name in ``targets``, and
    ``/directory``, where there is one.

    ``targets``: base URL by name; RelayError (``target``) for one that cannot be. ``client``: how they are
    reached; its timeouts hold, and it must neither follow redirects nor take proxies from the environment.
    ``max_open``: requests at a time; beyond them the slowest to arrive goes. ``body_timeout_s`` and
    ``stall_s``: how long a sender and a reader may take. ``directory`` gives the list of nodes that is shown to
    everybody, in the same bytes; OSError where it cannot be had just now.
    """

    def __init__(
        self,
        targets: Mapping[str, str],
        client: HttpClient,
        *,
        max_open: int = 1024,
        max_request: int = MAX_REQUEST,
        body_timeout_s: float = 30.0,
        stall_s: float = 30.0,
        directory: Callable[[], bytes] | None = None,
    ) -> None:
        self._directory = directory
        self._targets = {checked_name(name): checked_base(url) for name, url in targets.items()}
        self._client = client
        self._places = Places(max_open)
        self._max_request = max_request
        self._body_timeout = body_timeout_s
        self._stall = stall_s
        self._counts: Counter[str] = Counter()

    def counts(self) -> dict[str, int]:
        """Requests by outcome: ``passed``, ``refused``, ``unreachable``, ``overloaded``, ``abandoned``."""
        return dict(self._counts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection event, as ASGI says."""
        if scope["type"] != "http":
            await serve_other(scope, receive, send)
        elif not self._places.take():
            self._counts["overloaded"] += 1
            await refuse(send, _BUSY)
        else:
            started = Started(send)
            outcome = "abandoned"
            try:
                outcome = await self._pass(scope, receive, started)
            except _Refused as refused:
                outcome = "unreachable" if refused.problem.status == 502 else "refused"
                if not started.started:
                    await refuse(send, refused.problem)
            except Exception:
                # An exception of a transport names addresses: it is counted, and goes no further.
                outcome = "unreachable"
                if not started.started:
                    await refuse(send, _UNREACHABLE)
            finally:
                self._places.give_back()
                self._counts[outcome] += 1

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> str:
        name, _, leaf = scope["path"].removeprefix("/").partition("/")
        if name == "directory" and not leaf and self._directory is not None:
            return await self._list(scope, self._directory, send)
        base = self._targets.get(name)
        if base is None or leaf not in ("ohttp", "attestation"):
            raise _Refused(_NOT_FOUND)
        if leaf == "ohttp":
            upload = _Upload(scope, receive, self._max_request, self._body_timeout)
            work = self._ohttp(scope, f"{base}/ohttp", upload, send)
        else:
            upload = _Upload(scope, receive, MAX_CHALLENGE, self._body_timeout)
            work = self._attestation(scope, f"{base}/attestation", upload, send)
        working = asyncio.create_task(work)
        watching = asyncio.create_task(upload.sender_left())
        too_slow: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ticket = self._places.arrives(partial(too_slow.set_result, None))
        upload.on_read = partial(self._places.arrived, ticket)
        try:
            ends: set[asyncio.Future[Any]] = {working, watching, too_slow}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if too_slow.done():
                raise _Refused(_TIMEOUT)
            return "passed" if working.done() and working.result() else "abandoned"
        finally:
            self._places.arrived(ticket)
            await stop((working, watching))

    async def _list(self, scope: Scope, directory: Callable[[], bytes], send: Send) -> str:
        if scope["method"] not in ("GET", "HEAD"):
            raise _Refused(_METHOD)
        async with asyncio.timeout(self._stall):
            await respond(send, 200, ((b"content-type", b"application/json"), NO_STORE), directory())
        return "passed"

    async def _ohttp(self, scope: Scope, url: str, upload: "_Upload", send: Send) -> bool:
        if scope["method"] != "POST":
            raise _Refused(_METHOD)
        # Passed on in one spelling: another would mark whoever uses it.
        kinds = [kind.lower() for kind in header_values(scope, b"content-type")]
        if len(kinds) != 1 or kinds[0] not in OHTTP_MEDIA_TYPES:
            raise _Refused(_MEDIA_TYPE)
        headers = [(b"content-type", kinds[0]), *upload.framing()]
        if header_values(scope, b"incremental") == [b"?1"]:
            headers.append((b"incremental", b"?1"))
        answer = await self._send("POST", url, headers, upload)
        try:
            start = [*_passed_headers(answer), NO_STORE]
            await send({"type": "http.response.start", "status": answer.status_code, "headers": start})
            async for part in answer.aiter_raw():
                async with asyncio.timeout(self._stall):
                    await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await answer.aclose()
        return True

    async def _attestation(self, scope: Scope, url: str, upload: "_Upload", send: Send) -> bool:
        method = scope["method"]
        if method not in ("GET", "POST"):
            raise _Refused(_METHOD)
        headers: list[tuple[bytes, bytes]] = []
        if method == "POST":
            kinds = header_values(scope, b"content-type")
            headers = [
                *((b"content-type", kind) for kind in kinds[:1] if len(kind) <= 100),
                *upload.framing(),
            ]
        else:
            await upload.skip()
        answer = await self._send(method, url, headers, upload if method == "POST" else None)
        try:
            body = bytearray()
            async for part in answer.aiter_raw():
                body += part
                if len(body) > MAX_ATTESTATION:
                    raise _Refused(_UNUSABLE)
            passed = (*_passed_headers(answer), NO_STORE)
        finally:
            await answer.aclose()
        async with asyncio.timeout(self._stall):
            await respond(send, answer.status_code, passed, bytes(body))
        return True

    async def _send(
        self, method: str, url: str, headers: list[tuple[bytes, bytes]], upload: "_Upload | None"
    ) -> Any:
        """The target's answer, its body still unread. Raises _Refused, or what the transport raises."""
        content = None if upload is None else upload.parts()
        request = self._client.build_request(method, url, content=content, headers=headers)
        wanted = {name.decode() for name, _ in headers} | {"host", "content-length", "transfer-encoding"}
        # What the client library adds by itself, a cookie that a node had set among it, would mark requests.
        for name in [name for name in request.headers if name.lower() not in wanted]:
            del request.headers[name]
        answer = await self._client.send(request, stream=True, auth=None, follow_redirects=False)
        status = answer.status_code
        if not 200 <= status <= 599 or status // 100 == 3 or "content-encoding" in answer.headers:
            await answer.aclose()
            raise _Refused(_UNUSABLE)
        return answer


class _Refused(Exception):
    """The request or its answer is not passed on."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.code)
        self.problem = problem


class _Upload:
    """The body on its way in: bounded in bytes and in time, never held as a whole."""

    def __init__(self, scope: Scope, receive: Receive, limit: int, timeout_s: float) -> None:
        self._receive = receive
        self._limit = limit
        self._timeout = timeout_s
        self._read = asyncio.Event()
        self.on_read: Callable[[], object] = lambda: None
        self._declared = header_values(scope, b"content-length")
        for declared in self._declared:
            if not declared.isdigit() or len(declared) > 18 or int(declared) > limit:
                raise _Refused(_TOO_LARGE)

    def framing(self) -> list[tuple[bytes, bytes]]:
        """The length, where the sender declared it; otherwise the body is sent on in chunks."""
        return [(b"content-length", declared) for declared in self._declared[:1]]

    async def parts(self) -> AsyncIterator[bytes]:
        """The body's parts as they arrive. Raises _Refused."""
        left, more = self._limit, True
        deadline = asyncio.get_running_loop().time() + self._timeout
        while more:
            try:
                async with asyncio.timeout_at(deadline):
                    message = await self._receive()
            except TimeoutError:
                raise _Refused(_TIMEOUT) from None
            if message["type"] != "http.request":
                raise _Refused(_TIMEOUT)
            more = message.get("more_body", False)
            part = message.get("body", b"")
            left -= len(part)
            if left < 0:
                raise _Refused(_TOO_LARGE)
            if part:
                yield part
        self._read.set()
        self.on_read()

    async def skip(self) -> None:
        """Read the body away."""
        async for _ in self.parts():
            pass

    async def sender_left(self) -> None:
        """Returns when the peer is gone, once its body has been read."""
        await self._read.wait()
        await disconnected(self._receive)


def checked_name(name: str) -> str:
    """A target's name as it stands in paths. Raises RelayError (``target``)."""
    if not _TARGET_NAME.fullmatch(name):
        raise RelayError("target", "a target's name has 1 to 63 of a-z, 0-9, '.', '_' and '-'")
    return name


def checked_base(url: str) -> str:
    """A target's base URL without a slash at its end. Raises RelayError (``target``)."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.username is not None or parts.query or parts.fragment or not url.isascii():
        raise RelayError("target", "a target is an http or https URL without user, query or fragment")
    return url.rstrip("/")


def _passed_headers(answer: Any) -> list[tuple[bytes, bytes]]:
    kind = answer.headers.get("content-type", "").encode("latin-1")
    return [(b"content-type", kind)] if kind and len(kind) <= 100 else []
