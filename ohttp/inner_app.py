"""Runs the application behind a gateway on a request that came out of an encapsulation.

All that the application sees comes from inside the encryption: no address, and no header that a relay could
have added. Whatever it raises ends here, unlogged: an exception can hold a prompt.
"""

import asyncio
from urllib.parse import unquote_to_bytes

from .answer import Answer, CellClock
from .asgi import App, Message, Scope
from .bhttp import Request
from .cells import Failure
from .errors import BhttpError
from .fields import Fields
from .problems import Problem

CELLS_EXTENSION = "cloister.cells"
INTERNAL_ERROR = Problem(500, "Internal error", "internal_error")

_OF_A_CONNECTION = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)
_NOT_PASSED_IN = _OF_A_CONNECTION | {
    b"date",
    b"request-id",
    b"attestation-digest",
    b"content-length",
    b"host",
}
_NOT_PASSED_OUT = _OF_A_CONNECTION | {b"content-length"}


def inner_scope(request: Request, clock: CellClock | None) -> Scope:
    """The ASGI scope of an inner request. ``clock`` is offered as the extension ``cloister.cells``.

    Raises BhttpError (``control_data``) where the path is not UTF-8 behind its percent-encoding.
    """
    raw_path, _, query = request.path.partition(b"?")
    try:
        path = (unquote_to_bytes(raw_path) if b"%" in raw_path else raw_path).decode("utf-8")
    except UnicodeDecodeError:
        raise BhttpError("control_data", "the path is not UTF-8") from None
    host = request.authority or next((value for name, value in request.headers if name == b"host"), b"")
    headers = [(b"host", host), (b"content-length", b"%d" % len(request.body))]
    headers += [line for line in request.headers if line[0] not in _NOT_PASSED_IN and line[0][:1] != b":"]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": request.method.decode("ascii"),
        "scheme": "https",
        "path": path,
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": headers,
        "client": None,
        "server": None,
        "extensions": {} if clock is None else {CELLS_EXTENSION: clock},
    }


def failure_of(problem: Problem, extra: Fields = ()) -> Failure:
    """The problem as an answer of its own, with ``extra`` headers, and as an event."""
    return Failure(problem.status, (*problem.headers, *extra), problem.body, problem.event)


class InnerRun:
    """One run of the application: its ``receive`` and ``send``, and what happens when it fails."""

    def __init__(self, answer: Answer, body: bytes) -> None:
        self._answer = answer
        self._body: bytes | None = body

    async def run(self, app: App, scope: Scope) -> None:
        """Returns when the application has. Only cancellation gets out, which is how a disconnect ends it."""
        try:
            await app(scope, self._receive, self._send)
            failed = not self._answer.stream.ended
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # a panic of a library in Rust is no Exception
            failed = True
        if failed:
            self._answer.stream.fail(failure_of(INTERNAL_ERROR))
            await self._answer.written()

    async def _receive(self) -> Message:
        body, self._body = self._body, None
        if body is None:
            await asyncio.Event().wait()  # until cancelled: there is nothing more to tell
        return {"type": "http.request", "body": body, "more_body": False}

    async def _send(self, message: Message) -> None:
        stream = self._answer.stream
        kind = message["type"]
        if kind == "http.response.start":
            headers = [(bytes(name).lower(), bytes(value)) for name, value in message.get("headers", ())]
            passed = tuple([line for line in headers if line[0] not in _NOT_PASSED_OUT])
            stream.head(message["status"], passed)
            return  # it leaves with the beginning of the body
        if kind == "http.response.body":
            stream.content(message.get("body", b""))
            if not message.get("more_body", False):
                stream.end()
            await self._answer.written()
        else:
            raise RuntimeError("the application sent what a gateway cannot pass on")
