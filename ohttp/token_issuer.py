"""An issuer of tokens, as an ASGI application (RFC 9578 sections 4 and 6): the directory, and the signing.

It knows who asks, by the account's secret, and signs what it cannot read. It writes no log: a list of who asked when,
laid beside a node's traffic, would undo the blindness by its timing.
"""

import asyncio
from collections import Counter
from collections.abc import Callable

from .asgi import NO_STORE, Receive, Scope, Send, Started, header_values, refuse, respond, serve_other
from .errors import TokenError
from .problems import Problem
from .token_accounts import Accounts, IssuedCounts
from .token_directory import MEDIA_TYPE, WELL_KNOWN
from .token_issuance import REQUEST_BYTES, REQUEST_MEDIA_TYPE, RESPONSE_MEDIA_TYPE, TokenRequest, issue
from .token_issuer_keys import IssuerKeys

REQUEST_PATH = "/token-request"

_NOT_FOUND = Problem(404, "Not found", "not_found")
_METHOD = Problem(405, "Method not allowed", "method_not_allowed")
_UNAUTHENTICATED = Problem(401, "No account has this secret", "unauthenticated")
_TIMEOUT = Problem(408, "The request took too long to arrive", "timeout")
_MEDIA_TYPE = Problem(415, "Not a token request", "unsupported_media_type")
_UNACCEPTABLE = Problem(422, "Not a token request that can be signed now", "unacceptable")
_LIMIT = Problem(429, "This account has had its tokens", "limit")
_BROKEN = Problem(500, "Internal error", "internal_error")
_BUSY = Problem(503, "No tokens can be issued now", "overloaded")

_BY_CODE = {"not_allowed": _UNAUTHENTICATED, "limit": _LIMIT, "store": _BUSY}


class TokenIssuer:
    """ASGI application. ``accounts`` is asked anew for each request, so a changed file counts at once."""

    def __init__(
        self,
        keys: IssuerKeys,
        accounts: Callable[[], Accounts],
        counts: IssuedCounts,
        *,
        body_timeout_s: float = 10.0,
    ) -> None:
        self._keys = keys
        self._accounts = accounts
        self._issued = counts
        self._body_timeout = body_timeout_s
        self._counts: Counter[str] = Counter()

    def counts(self) -> dict[str, int]:
        """Requests by outcome: ``issued``, ``refused``, ``failed``. Of nobody in particular."""
        return dict(self._counts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection event, as ASGI says."""
        if scope["type"] != "http":
            await serve_other(scope, receive, send)
        elif scope["path"] == WELL_KNOWN:
            await self._directory(scope, send)
        elif scope["path"] == REQUEST_PATH:
            started = Started(send)
            try:
                await self._request(scope, receive, started)
            except Exception:
                self._counts["failed"] += 1
                if not started.started:
                    await refuse(send, _BROKEN)
        else:
            await refuse(send, _NOT_FOUND)

    async def _directory(self, scope: Scope, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            await refuse(send, _METHOD)
            return
        directory = self._keys.directory(REQUEST_PATH)
        headers = ((b"content-type", MEDIA_TYPE.encode()), (b"cache-control", b"max-age=300"))
        await respond(send, 200, headers, directory.encode())

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self._answer(scope, receive)
        if isinstance(answer, Problem):
            self._counts["refused"] += 1
            await refuse(send, answer)
            return
        self._counts["issued"] += 1
        await respond(send, 200, ((b"content-type", RESPONSE_MEDIA_TYPE.encode()), NO_STORE), answer)

    async def _answer(self, scope: Scope, receive: Receive) -> Problem | bytes:
        if scope["method"] != "POST":
            return _METHOD
        if header_values(scope, b"content-type") != [REQUEST_MEDIA_TYPE.encode()]:
            return _MEDIA_TYPE
        try:
            account = self._accounts().of_secret(_bearer(scope))
            async with asyncio.timeout(self._body_timeout):
                request = TokenRequest.parse(await _body(receive))
            keys = self._keys.signing()
            if request.truncated_key_id not in keys:
                return _UNACCEPTABLE
            self._issued.take(account, self._keys.epoch())
            return await asyncio.to_thread(issue, request, keys)
        except TimeoutError:
            return _TIMEOUT
        except TokenError as error:
            if error.code in ("signing_fault", "signing_failed"):
                raise
            return _BY_CODE.get(error.code, _UNACCEPTABLE)


def _bearer(scope: Scope) -> str:
    """The secret (RFC 6750). Raises TokenError (``not_allowed``)."""
    values = header_values(scope, b"authorization")
    if len(values) != 1 or values[0][:7].lower() != b"bearer " or len(values[0]) > 512:
        raise TokenError("not_allowed", "no secret")
    return values[0][7:].strip().decode("latin-1")


async def _body(receive: Receive) -> bytes:
    """The body, no further than one byte beyond a token request. Raises TokenError (``malformed``)."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise TokenError("malformed", "the sender left")
        body += message.get("body", b"")[: REQUEST_BYTES + 1]
        more = message.get("more_body", False)
        if len(body) > REQUEST_BYTES:
            raise TokenError("malformed", "longer than a token request")
    return body
