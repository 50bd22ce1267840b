"""A log served over HTTP (c2sp.org/tlog-tiles): what a static web server would do with LOG/public.

A request names a resource of the format or nothing: the file's name is made anew from the numbers that were
parsed, so no other file can be asked for.
"""

import gzip
import re
from pathlib import Path
from typing import Any, Final

from .tiles import MAX_BUNDLE, parse_tile_path, tile_path

CHECKPOINT_CACHE: Final = "public, max-age=2, must-revalidate"
"""The one resource that changes; nobody should see it older than a few seconds."""
TILE_CACHE: Final = "public, max-age=31536000, immutable"
BUNDLE_CACHE: Final = "public, max-age=3600"
"""Sigstore bundles of releases, beside the log: not of the format, and not proved by it."""
_BUNDLE: Final = re.compile(r"sigstore/[0-9a-f]{64}\.json", re.ASCII)
_JSON: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
_TEXT: Final = "text/plain; charset=utf-8"
_BYTES: Final = "application/octet-stream"
_COMMON: Final = {"x-content-type-options": "nosniff", "access-control-allow-origin": "*"}
_GONE: Final = {**_COMMON, "cache-control": "no-store", "content-type": _TEXT}


def log_application(public: Path) -> Any:
    """The ASGI application for a log's public folder. Raises ModuleNotFoundError without FastAPI."""
    from fastapi import FastAPI, Request, Response
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException

    application = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)

    @application.api_route("/{resource:path}", methods=["GET", "HEAD"])
    async def read(resource: str, request: Request) -> Response:
        named = resource_file(resource)
        data = None if named is None else await run_in_threadpool(_read, public / named)
        if named is None or data is None:
            return Response(b"", 404, _GONE)
        if named == "checkpoint":
            return Response(data, 200, {**_COMMON, "cache-control": CHECKPOINT_CACHE, "content-type": _TEXT})
        if named.startswith("sigstore/"):
            return Response(data, 200, {**_COMMON, "cache-control": BUNDLE_CACHE, "content-type": _JSON})
        headers = {**_COMMON, "cache-control": TILE_CACHE, "content-type": _BYTES}
        if named.startswith("tile/entries/"):
            # Hashes do not compress; entries are text and do.
            headers["vary"] = "accept-encoding"
            if _takes_gzip(request.headers.get("accept-encoding", "")):
                data = await run_in_threadpool(gzip.compress, data, 6, mtime=0)
                headers["content-encoding"] = "gzip"
        return Response(data, 200, headers)

    @application.exception_handler(HTTPException)
    async def refuse(_: Request, error: HTTPException) -> Response:
        return Response(b"", error.status_code, {**dict(error.headers or {}), **_GONE})

    return application


def resource_file(resource: str) -> str | None:
    """The path below the public folder that a request's path names; None where it names no resource."""
    if resource == "checkpoint":
        return resource
    if _BUNDLE.fullmatch(resource):
        return resource
    tile = parse_tile_path(resource)
    return None if tile is None else tile_path(*tile)


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BUNDLE + 1)
    except OSError:
        return None


def _takes_gzip(accepted: str) -> bool:
    for part in accepted.lower().split(","):
        name, _, weight = part.partition(";")
        if name.strip() == "gzip":
            return weight.strip().replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
