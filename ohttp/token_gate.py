"""Asks for a token before an application runs (RFC 9577), as ASGI middleware.

It stands behind the gateway, so a token travels inside the encryption: a relay can neither see nor steal it. A token
counts as spent before the application sees the request, and stays spent whatever comes of it.
"""

from collections.abc import Callable

from .asgi import App, Receive, Scope, Send, header_values, respond
from .errors import TokenError
from .problems import Problem
from .spent_tokens import SpentTokens
from .token_header import parse_authorization, www_authenticate
from .token_policy import TokenPolicy

_REQUIRED = Problem(401, "A token is required", "token_required")
_REFUSED = Problem(401, "This token is not taken, or was spent", "token_refused")
_FULL = Problem(503, "No more tokens can be taken now", "overloaded")


class TokenGate:
    """ASGI application: ``app`` for whoever brings a token that ``policy`` takes and nobody has spent.

    ``now``: POSIX seconds. Refusals say whether a token came, and nothing of why it was not taken.
    """

    def __init__(
        self, app: App, policy: TokenPolicy, spent: SpentTokens, *, now: Callable[[], float]
    ) -> None:
        self._app = app
        self._policy = policy
        self._spent = spent
        self._now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection event, as ASGI says."""
        if scope["type"] == "http":
            if self._policy.costs(scope["method"], scope["path"]):
                problem = await self._admit(scope)
                if problem is not None:
                    await self._refuse(send, problem)
                    return
            # What is behind has no use for a token, and must not be able to keep one.
            headers = [header for header in scope["headers"] if header[0] != b"authorization"]
            scope = {**scope, "headers": headers}
        await self._app(scope, receive, send)

    async def _admit(self, scope: Scope) -> Problem | None:
        values = header_values(scope, b"authorization")
        if not values:
            return _REQUIRED
        try:
            await self._spend(values)
        except TokenError as error:
            return _FULL if error.code in ("full", "store") else _REFUSED
        return None

    async def _spend(self, values: list[bytes]) -> None:
        if len(values) != 1:
            raise TokenError("malformed", "one token a request")
        token = parse_authorization(values[0].decode("latin-1"))
        now = self._now()
        for accepted in self._policy.accepted(now):
            if accepted.key.key_id == token.key_id:
                token.check(self._policy.challenge, accepted.key)
                await self._spent.spend(token, accepted.not_after, now)
                return
        raise TokenError("unknown_key", "no key that is accepted now signed this token")

    async def _refuse(self, send: Send, problem: Problem) -> None:
        headers = problem.headers
        if problem.status == 401:
            offer = www_authenticate([self._policy.offer(self._now())])
            headers = (*headers, (b"www-authenticate", offer.encode("ascii")))
        await respond(send, problem.status, headers, problem.body)
