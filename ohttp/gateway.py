"""The encrypted door of a node, as ASGI middleware (draft-ietf-ohai-chunked-ohttp-08, RFC 9458, RFC 9540).

``POST /ohttp``, or ``/.well-known/ohttp-gateway``, takes an encapsulated request, opens it, and runs on it the inner
application, which nothing else can reach; ``GET /.well-known/ohttp-gateway`` gives the keys; every other path belongs
to the outer application. Nothing runs before the last byte of a request has authenticated, nothing runs twice, and
nothing is logged.
"""

from collections.abc import Callable
from enum import StrEnum
from functools import partial

from .admission import MALFORMED, Admission
from .answer import Answer, Work
from .asgi import (
    NO_STORE,
    App,
    Receive,
    Scope,
    Send,
    Started,
    refuse,
    respond,
    serve_other,
)
from .bhttp import Request
from .chunked import MAX_REQUEST, REQUEST_MEDIA_TYPE, ChunkedGateway
from .cutoff import Cutoff
from .discovery import WELL_KNOWN
from .encapsulation import MEDIA_TYPE_REQUEST, WholeGateway
from .errors import OhttpError, UnknownKey
from .http_date import format_http_date
from .inner_app import InnerRun, failure_of, inner_scope
from .keyconfig import MEDIA_TYPE, KeyRing
from .pacing import PacedAnswer
from .padding import CellProfile
from .places import Places
from .problems import OHTTP_KEY, Problem
from .readers import Readers
from .replay import ReplayWindow
from .unpaced import UnpacedAnswer, WholeAnswer

GATEWAY_PATH = "/ohttp"

_MALFORMED = Problem(400, "Malformed encapsulated request", "malformed")
_UNKNOWN_KEY = Problem(400, "Unknown key configuration", "unknown_key", OHTTP_KEY)
_NOT_FOUND = Problem(404, "Not found", "not_found")
_METHOD = Problem(405, "Method not allowed", "method_not_allowed")
_TIMEOUT = Problem(408, "The request took too long to arrive", "timeout")
_TOO_LARGE = Problem(413, "The request is too large", "too_large")
_MEDIA_TYPE = Problem(415, "Not an encapsulated request that is taken here", "unsupported_media_type")
_BROKEN = Problem(500, "Internal error", "internal_error")
_BUSY = Problem(503, "Too many requests are open", "overloaded")

_CHUNKED, _WHOLE = REQUEST_MEDIA_TYPE.encode(), MEDIA_TYPE_REQUEST.encode()


class ExchangeEnd(StrEnum):
    """How an exchange ended, for counting."""

    ANSWERED = "answered"
    REFUSED = "refused"
    OVERLOADED = "overloaded"
    ABANDONED = "abandoned"


class Gateway:
    """ASGI application, for one event loop: ``app`` behind the encryption, ``outer`` beside it.

    ``keyring``: the keys accepted now. ``is_live``: whether evidence with this SHA-256 still stands, which every
    request then has to name; None for a gateway that has no evidence, and asks for a ``date`` alone. ``now``: POSIX
    seconds. ``whole_messages``: whether requests in one piece (RFC 9458) are taken too, and answered in one piece.
    ``max_request``: bytes of an encapsulated request. ``max_open``: exchanges at a time; beyond
    them the slowest to arrive goes, else 503 before anything is opened. ``body_timeout_s``: time for a request
    to arrive. ``stall_s``: how long one write may wait for the reader before the answer is dropped.
    ``observe`` is told how each exchange ended.
    """

    def __init__(
        self,
        app: App,
        *,
        keyring: Callable[[], KeyRing],
        is_live: Callable[[bytes], bool] | None,
        replay: ReplayWindow,
        profile: CellProfile,
        now: Callable[[], float],
        outer: App | None = None,
        whole_messages: bool = False,
        max_request: int = MAX_REQUEST,
        max_open: int = 512,
        body_timeout_s: float = 30.0,
        stall_s: float = 30.0,
        observe: Callable[[ExchangeEnd], None] | None = None,
    ) -> None:
        self._app = app
        self._outer = outer
        self._keyring = keyring
        self._admission = Admission(is_live, replay, now)
        self._profile = profile
        self._media_types = (_CHUNKED, _WHOLE) if whole_messages else (_CHUNKED,)
        self._now = now
        self._max_request = max_request
        self._places = Places(max_open, arrive_s=body_timeout_s)
        self._readers = Readers(stall_s)
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection event, as ASGI says."""
        path = scope["path"] if scope["type"] == "http" else None
        if path == GATEWAY_PATH or (path == WELL_KNOWN and scope["method"] == "POST"):
            await self._counted(scope, receive, send)
        elif path == WELL_KNOWN:
            await self._keys(scope, send)
        elif self._outer is not None and scope["type"] in ("http", "lifespan"):
            await self._outer(scope, receive, send)
        elif scope["type"] == "http":
            await refuse(send, _NOT_FOUND)
        else:
            await serve_other(scope, receive, send)

    async def _keys(self, scope: Scope, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            await refuse(send, _METHOD)
            return
        headers = ((b"content-type", MEDIA_TYPE.encode()), NO_STORE)
        await respond(send, 200, headers, self._keyring().encoded())

    async def _counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        end = ExchangeEnd.ABANDONED
        if not self._places.take():
            await refuse(send, _BUSY)
            self._count(ExchangeEnd.OVERLOADED)
            return
        started = Started(send)
        try:
            end = await self._exchange(scope, receive, started)
        except Exception:
            # Its traceback may hold plaintext, so it goes no further than this.
            if not started.started:
                await refuse(send, _BROKEN)
        finally:
            self._places.give_back()
            self._count(end)

    def _count(self, end: ExchangeEnd) -> None:
        if self._observe is not None:
            self._observe(end)

    async def _exchange(self, scope: Scope, receive: Receive, send: Send) -> ExchangeEnd:
        kind = self._media_type(scope)
        if isinstance(kind, Problem):
            await refuse(send, kind)
            return ExchangeEnd.REFUSED
        gateway = ChunkedGateway if kind == _CHUNKED else WholeGateway
        session = gateway(self._keyring(), max_request=self._max_request)
        refusal: Problem | None = _TIMEOUT
        try:
            with Cutoff() as cutoff:
                opened = await self._read(session, receive, cutoff)
                refusal = opened if isinstance(opened, Problem) else None
                if isinstance(opened, bytes):
                    answer = self._answer(session)
                    work = self._work(opened, session.enc, answer)
                    del opened  # plaintext is held by nobody who does not need it
                    if await answer.deliver(work, receive, send, self._readers, cutoff):
                        return ExchangeEnd.ANSWERED
        except TimeoutError:
            pass  # the sender dawdled; or, where the request had come, its reader left or stalled
        if refusal is None:
            return ExchangeEnd.ABANDONED
        await refuse(send, refusal)
        return ExchangeEnd.REFUSED

    def _media_type(self, scope: Scope) -> bytes | Problem:
        """The kind of request that the headers announce, or why it is not taken."""
        if scope["method"] != "POST":
            return _METHOD
        kinds: list[bytes] = []
        for name, value in scope["headers"]:
            if name == b"content-type":
                kinds.append(value)
            elif name == b"content-length":
                if not value.isdigit() or len(value) > 18:
                    return _MALFORMED
                if int(value) > self._max_request:
                    return _TOO_LARGE
        kind = kinds[0].lower() if len(kinds) == 1 else b""
        return kind if kind in self._media_types else _MEDIA_TYPE

    def _answer(self, session: ChunkedGateway | WholeGateway) -> Answer:
        if isinstance(session, WholeGateway):
            return WholeAnswer(self._profile, session.response())
        paced = self._profile.name == "constant"
        return (PacedAnswer if paced else UnpacedAnswer)(self._profile, session.response())

    async def _read(
        self, session: ChunkedGateway | WholeGateway, receive: Receive, cutoff: Cutoff
    ) -> bytes | Problem | None:
        """The plaintext once its final chunk has authenticated, a refusal, or None for a sender who left."""
        plain: list[bytes] = []
        ticket = self._places.arrives(cutoff.cut)
        try:
            more = True
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    return None
                plain += session.receive(message.get("body", b""))
                more = message.get("more_body", False)
            plain.append(session.end())
        except UnknownKey:
            return _UNKNOWN_KEY
        except OhttpError as error:
            return _TOO_LARGE if error.code in ("message_too_large", "too_large") else _MALFORMED
        finally:
            self._places.arrived(ticket)
        return b"".join(plain)

    def _work(self, plain: bytes, enc: bytes, answer: Answer) -> Work:
        """What writes the answer: the inner application on the request, or the problem that keeps it out."""
        admitted = self._admission.admit(plain, enc)
        if isinstance(admitted, Request):
            try:
                scope = inner_scope(admitted, answer.clock)
            except OhttpError:
                admitted = MALFORMED
            else:
                return partial(InnerRun(answer, admitted.body).run, self._app, scope)
        date = ((b"date", format_http_date(self._now())),)
        answer.stream.fail(failure_of(admitted, date))
        return answer.written
