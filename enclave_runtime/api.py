"""The two faces of a node: OpenAI's API inside the encryption, evidence outside.

Both answer with bodies made here; the framework's own error bodies and redirects are off, because some of them
repeat what came in. Every error is one of a fixed list and holds nothing of the request.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from enclave_runtime.answer_stream import INTERNAL, Answer, CellClock, Generation
from enclave_runtime.departure import unless_gone
from enclave_runtime.lease_stream import LeaseStream
from enclave_runtime.leases import Leases, OpenLease
from enclave_runtime.metrics import Metrics, RequestOutcome
from enclave_runtime.openai_answers import AnswerShape, error_body, model_list, one_model
from enclave_runtime.openai_requests import (
    MAX_BODY,
    ChatRequest,
    CompletionRequest,
    LeaseRequest,
    RequestRefused,
    parse_request,
)

EVIDENCE_MEDIA_TYPE = "application/vnd.cloister.evidence+json"
NONCE_BYTES = 32
API_VERSION = 1

_Endpoint = Callable[[Request], Awaitable[Response]]


class Completions(Protocol):
    """What makes answers. Every method may raise RequestRefused, and nothing that repeats a prompt."""

    @property
    def model_name(self) -> str: ...
    @property
    def leases(self) -> Leases | None: ...
    def open_lease(self, request: LeaseRequest) -> OpenLease:
        """A lease, where there are any."""
        ...

    async def chat(self, request: ChatRequest) -> tuple[Generation, int]:
        """The generation and the number of tokens in its prompt."""
        ...

    async def complete(self, request: CompletionRequest) -> tuple[Generation, int]:
        """The generation and the number of tokens in its prompt."""
        ...


class Evidence(Protocol):
    """The node's evidence bundles, as bytes ready to serve."""

    def current(self) -> bytes: ...
    async def fresh(self, nonce: bytes) -> bytes | None:
        """A bundle made for ``nonce``; None where too many were asked for of late."""
        ...


def inner_app(
    completions: Completions, evidence: Evidence, metrics: Metrics, now: Callable[[], float]
) -> Starlette:
    """The API that is reached only through OHTTP. ``now`` gives POSIX seconds."""
    app = _bare_app()
    created = int(now())

    async def list_models(request: Request) -> Response:
        return _json(model_list(completions.model_name, created))

    async def get_model(request: Request) -> Response:
        if request.path_params["name"] != completions.model_name:
            raise _MODEL_NOT_FOUND.anew()
        return _json(one_model(completions.model_name, created))

    async def chat(request: Request) -> Response:
        wanted = parse_request(ChatRequest, await _body(request, MAX_BODY))
        _require_model(wanted.model, completions.model_name)
        generation, prompt_tokens = await completions.chat(wanted)
        shape = AnswerShape("chat", f"chatcmpl-{secrets.token_hex(8)}", completions.model_name, int(now()))
        answer = Answer(generation, shape, prompt_tokens, logprobs=wanted.logprobs)
        return await _answer(request, wanted, generation, answer, metrics)

    async def complete(request: Request) -> Response:
        wanted = parse_request(CompletionRequest, await _body(request, MAX_BODY))
        _require_model(wanted.model, completions.model_name)
        generation, prompt_tokens = await completions.complete(wanted)
        shape = AnswerShape("text", f"cmpl-{secrets.token_hex(8)}", completions.model_name, int(now()))
        return await _answer(request, wanted, generation, Answer(generation, shape, prompt_tokens), metrics)

    async def lease(request: Request) -> Response:
        wanted = parse_request(LeaseRequest, await _body(request, MAX_BODY))
        return LeaseStream(completions.open_lease(wanted), metrics)

    _route(app, "GET", "/v1/models", list_models)
    _route(app, "GET", "/v1/models/{name:path}", get_model)
    _route(app, "POST", "/v1/chat/completions", _counted(chat, metrics))
    _route(app, "POST", "/v1/completions", _counted(complete, metrics))
    if completions.leases is not None:
        _route(app, "POST", "/v1/lease", _counted(lease, metrics))
    _add_evidence(app, evidence)
    return app


def outer_app(evidence: Evidence) -> Starlette:
    """What anyone may ask a node: its evidence, and whether it serves."""
    app = _bare_app()

    async def health(request: Request) -> Response:
        return _json(b'{"status":"serving"}')

    _add_evidence(app, evidence)
    _route(app, "GET", "/health", health)
    return app


_NO_STORE: Mapping[str, str] = {"cache-control": "no-store"}
_MODEL_NOT_FOUND = RequestRefused(
    404, "model_not_found", "This node serves another model; see /v1/models.", "model"
)
_BY_STATUS: Mapping[int, RequestRefused] = {
    404: RequestRefused(404, "not_found", "There is nothing at this path."),
    405: RequestRefused(405, "method_not_allowed", "This path takes another method."),
}
_MALFORMED = RequestRefused(400, "invalid_request", "The request is malformed.")
_TOO_LARGE = RequestRefused(413, "request_too_large", f"A request body has at most {MAX_BODY} bytes.")
_BAD_NONCE = RequestRefused(400, "invalid_nonce", f"A challenge is exactly {NONCE_BYTES} bytes.")
_TOO_MANY_CHALLENGES = RequestRefused(
    429, "too_many_challenges", "Fresh evidence is limited; try again later."
)


def _bare_app() -> Starlette:
    app = Starlette()
    app.router.redirect_slashes = False

    async def refused(request: Request, error: Exception) -> Response:
        return _error(error if isinstance(error, RequestRefused) else _MALFORMED)

    async def by_status(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 400
        return _error(_BY_STATUS.get(status, _MALFORMED))

    app.add_exception_handler(RequestRefused, refused)
    app.add_exception_handler(HTTPException, by_status)
    return app


def _route(app: Starlette, method: str, path: str, endpoint: _Endpoint) -> None:
    async def guarded(request: Request) -> Response:
        try:
            return await endpoint(request)
        except (RequestRefused, HTTPException):
            raise
        except Exception:  # whatever it is, its text stays inside
            return _error(INTERNAL)

    app.router.add_route(path, guarded, methods=[method])


def _counted(endpoint: _Endpoint, metrics: Metrics) -> _Endpoint:
    """Count how a request ended, unless its answer is a stream, which counts itself."""

    async def counting(request: Request) -> Response:
        try:
            response = await endpoint(request)
        except RequestRefused as refused:
            overloaded = refused.status in (429, 503)
            metrics.request_ended(RequestOutcome.OVERLOADED if overloaded else RequestOutcome.REFUSED)
            raise
        except (asyncio.CancelledError, ClientDisconnect):
            metrics.request_ended(RequestOutcome.ABANDONED)
            raise
        except Exception:
            metrics.request_ended(RequestOutcome.FAILED)
            raise
        if not isinstance(response, _EventStream | LeaseStream):
            metrics.request_ended(RequestOutcome.ANSWERED)
        return response

    return counting


async def _answer(
    request: Request,
    wanted: ChatRequest | CompletionRequest,
    generation: Generation,
    answer: Answer,
    metrics: Metrics,
) -> Response:
    if wanted.stream:
        clock = request.scope.get("extensions", {}).get("cloister.cells")
        include_usage = wanted.stream_options is not None and wanted.stream_options.include_usage
        return _EventStream(answer, generation, clock, include_usage, metrics)
    try:
        body = await unless_gone(request.receive, answer.whole())
    finally:
        generation.cancel()
        metrics.tokens_generated(answer.completion_tokens)
    if body is None:
        raise asyncio.CancelledError
    return _json(body)


class _EventStream(Response):
    """A streamed answer. It ends the generation however it ends, also where nobody began to read."""

    def __init__(
        self,
        answer: Answer,
        generation: Generation,
        clock: CellClock | None,
        include_usage: bool,
        metrics: Metrics,
    ) -> None:
        super().__init__(media_type="text/event-stream", headers=_NO_STORE)
        del self.headers["content-length"]
        self._answer = answer
        self._generation = generation
        self._metrics = metrics
        self._outcome = RequestOutcome.ABANDONED
        self._events = answer.events(clock, include_usage, self._failed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_gone(receive, self._send_all(send))
        finally:
            self._generation.cancel()
            self._metrics.request_ended(self._outcome)
            self._metrics.tokens_generated(self._answer.completion_tokens)

    def _failed(self) -> None:
        self._outcome = RequestOutcome.FAILED

    async def _send_all(self, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for event in self._events:
                if event:
                    await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            if self._outcome is RequestOutcome.ABANDONED:
                self._outcome = RequestOutcome.ANSWERED
        finally:
            await _close(self._events)


async def _close(events: AsyncIterator[bytes]) -> None:
    aclose = getattr(events, "aclose", None)
    if aclose is not None:
        await aclose()


def _add_evidence(app: Starlette, evidence: Evidence) -> None:
    async def current(request: Request) -> Response:
        return Response(evidence.current(), media_type=EVIDENCE_MEDIA_TYPE, headers=_NO_STORE)

    async def fresh(request: Request) -> Response:
        nonce = await _body(request, NONCE_BYTES)
        if len(nonce) != NONCE_BYTES:
            raise _BAD_NONCE.anew()
        bundle = await evidence.fresh(nonce)
        if bundle is None:
            raise _TOO_MANY_CHALLENGES.anew()
        return Response(bundle, media_type=EVIDENCE_MEDIA_TYPE, headers=_NO_STORE)

    _route(app, "GET", "/attestation", current)
    _route(app, "POST", "/attestation", fresh)


async def _body(request: Request, limit: int) -> bytes:
    """The body, read no further than ``limit`` bytes. Raises RequestRefused 413 beyond."""
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise (_BAD_NONCE if limit == NONCE_BYTES else _TOO_LARGE).anew()
        parts.append(part)
    return b"".join(parts)


def _require_model(asked: str, served: str) -> None:
    if asked != served:
        raise _MODEL_NOT_FOUND.anew()


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json", headers=_NO_STORE)


def _error(refused: RequestRefused) -> Response:
    headers = dict(_NO_STORE)
    if refused.status in (429, 503):
        headers["retry-after"] = "1"
    return Response(error_body(refused), refused.status, headers, "application/json")
