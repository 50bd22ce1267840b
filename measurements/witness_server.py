"""A witness behind HTTP (c2sp.org/tlog-witness): ``add-checkpoint`` for logs, one checkpoint per log for
monitors.

    POST /add-checkpoint                      200 cosignature lines | 400 403 404 409 413 422 | 500
    GET  /<sha256(origin), hex>/checkpoint    the last checkpoint it cosigned, with its cosignatures | 404

Refusals have no body, but for 409, which names the size that the witness holds.
"""

import asyncio
import hashlib
from typing import Any, Final

from .errors import TransparencyError
from .witness import MAX_REQUEST, TEXT_TYPE, Witness, WitnessResponse

BODY_TIMEOUT_S: Final = 15.0
_HEADERS: Final = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


def monitoring_path(origin: str) -> str:
    """Where a witness shows its last checkpoint of ``origin``, below its monitoring prefix."""
    return f"{hashlib.sha256(origin.encode()).hexdigest()}/checkpoint"


def witness_application(witness: Witness) -> Any:
    """The FastAPI application. Raises ModuleNotFoundError where FastAPI is not installed."""
    from fastapi import FastAPI, Request, Response
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException

    application = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    origins = {monitoring_path(origin): origin for origin in witness.origins}

    def answer(response: WitnessResponse) -> Response:
        headers = {**_HEADERS, "content-type": response.content_type}
        return Response(response.body, response.status, headers)

    @application.post("/add-checkpoint")
    async def add_checkpoint(request: Request) -> Response:
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                body = await _bounded(request)
        except TimeoutError:
            return answer(WitnessResponse(408, b""))
        if body is None:
            return answer(WitnessResponse(413, b""))
        try:
            return answer(await run_in_threadpool(witness.add_checkpoint, body))
        except TransparencyError:
            # The store failed: nothing was cosigned, and what went wrong is no stranger's business.
            return answer(WitnessResponse(500, b""))

    @application.api_route("/{identity}/checkpoint", methods=["GET", "HEAD"])
    async def checkpoint(identity: str) -> Response:
        origin = origins.get(f"{identity}/checkpoint")
        try:
            note = None if origin is None else await run_in_threadpool(witness.latest, origin)
        except TransparencyError:
            return answer(WitnessResponse(500, b""))
        return answer(WitnessResponse(404, b"") if note is None else WitnessResponse(200, note))

    @application.exception_handler(HTTPException)
    async def refuse(_: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {}) | _HEADERS | {"content-type": TEXT_TYPE}
        return Response(b"", error.status_code, headers)

    return application


async def _bounded(request: Any) -> bytes | None:
    """The request's body, or None where it is longer than any request of the protocol."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_REQUEST:
            return None
    return bytes(body)
