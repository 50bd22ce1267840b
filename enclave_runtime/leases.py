"""Leases as clients meet them: opened by a stream, brought by requests, gone with the stream.

Two halves make a lease's credential: a ticket that the node draws and a secret that the client draws. Neither can make
anybody meet somebody else's lease: a secret that others know is of no use without the ticket, which only the stream's
reader was told. What the engine knows a lease by, its salt, is an HMAC of both under a key that is made at the start
and never leaves; a caller's bytes are never used as a salt. A credential that fits nothing (wrong, ended, of another
node) is no error: the request is answered like one without, in the same time.
"""

import asyncio
import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable

from enclave_runtime.engine.engine import Engine
from enclave_runtime.engine.lease import Lease
from enclave_runtime.lease_settings import LeaseSettings

HALF = 32
"""Bytes of a ticket and of a secret."""

_SALT = b"cloister/lease-salt/v1\0"


class OpenLease:
    """A lease while its stream lasts. ``ticket`` is for the stream's reader alone; ``ended`` is set when the node ends
    it, ``seconds`` is how long it may last.
    """

    def __init__(
        self, ticket: bytes, tokens: int, seconds: int, close: Callable[[], "asyncio.Future[None]"]
    ) -> None:
        self.ticket = ticket
        self.tokens = tokens
        self.seconds = seconds
        self.ended = asyncio.Event()
        self._close = close

    def close(self) -> "asyncio.Future[None]":
        """End it; resolves when what it held is overwritten. May be called more than once, and need not be awaited."""
        return self._close()


class Leases:
    """The leases of a node. For one event loop. ``random`` gives so many random bytes."""

    def __init__(
        self, engine: Engine, settings: LeaseSettings, random: Callable[[int], bytes] = secrets.token_bytes
    ) -> None:
        self.settings = settings
        self._engine = engine
        self._random = random
        self._mac = hmac.new(random(HALF), _SALT, hashlib.sha256)
        self._open: dict[bytes, tuple[Lease, OpenLease]] = {}

    def open(self, secret: bytes, seconds: int | None) -> OpenLease:
        """A lease under a client's ``secret``, for at most so many seconds. Raises TooManyLeases or EngineStopped."""
        ticket = self._random(HALF)
        salt = self._salt(ticket, secret)
        lease = self._engine.open_lease(salt)
        limit = self.settings.seconds if seconds is None else min(seconds, self.settings.seconds)

        def close() -> "asyncio.Future[None]":
            self._open.pop(salt, None)
            closed = asyncio.wrap_future(self._engine.close_lease(lease))
            closed.add_done_callback(_noted)  # whoever left does not ask how it went
            return closed

        opened = OpenLease(ticket, self._engine.lease_tokens, limit, close)
        self._open[salt] = lease, opened
        return opened

    def find(self, credential: str) -> Lease | None:
        """The lease that ``credential`` (ticket and secret in base64url) belongs to; None where there is none."""
        both = decoded(credential, 2 * HALF)
        if both is None:
            return None
        found = self._open.get(self._salt(both[:HALF], both[HALF:]))
        return None if found is None else found[0]

    def end_all(self) -> None:
        """Have every lease end now: the node is about to stop."""
        for _, opened in self._open.values():
            opened.ended.set()

    def _salt(self, ticket: bytes, secret: bytes) -> bytes:
        mac = self._mac.copy()
        for half in (ticket, secret):
            mac.update(len(half).to_bytes(4, "big") + half)
        return mac.digest()


def _noted(closed: "asyncio.Future[None]") -> None:
    if not closed.cancelled():
        closed.exception()


def decoded(text: str, length: int) -> bytes | None:
    """``length`` bytes in base64url without padding, in its one canonical spelling; None for anything else."""
    try:
        data = base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except ValueError:
        return None
    return data if len(data) == length and encoded(data) == text else None


def encoded(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
