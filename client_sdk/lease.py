"""Holding a lease: the node keeps what it computed of one turn for the next, while a stream of ours stays open.

    with client.lease() as lease:
        client.chat(messages, lease=lease)

Nothing is kept unless a client asks for it like this, and a node offers it only if its measured configuration says so.
What it costs in privacy is in docs/leases.md: the node can tell that the requests of one lease are one conversation's,
and what it computed for them lives on until the lease ends.
"""

import asyncio
import base64
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from .answer import SseLines
from .errors import ClientError, ExchangeFailed
from .exchange import InnerRequest

if TYPE_CHECKING:
    from .client import PrivateClient

SECRET_BYTES = 32
_LEAVING_S = 5.0


class Lease:
    """A lease that is held. ``tokens``: how many positions the node keeps at most; ``seconds``: for how long."""

    def __init__(self, secret: bytes) -> None:
        self.tokens = 0
        self.seconds = 0
        self._secret = secret
        self._credential: str | None = None
        self._lines = SseLines()

    def __repr__(self) -> str:
        return f"Lease(open={self.open})"

    @property
    def open(self) -> bool:
        """Whether the node holds it still, as far as is known here."""
        return self._credential is not None

    @property
    def credential(self) -> str | None:
        """What a request brings as its option ``lease`` (``extra_body`` of the ``openai`` package); None once the lease
        has ended, or before it has begun. A request without it is answered all the same.
        """
        return self._credential

    def feed(self, part: bytes) -> None:
        """Take some of the stream. Raises ExchangeFailed for an opening that is none."""
        for data in self._lines.feed(part):
            if data == b"[DONE]":
                self.end()
            elif self.tokens == 0:
                self._begin(data)

    def end(self) -> None:
        """The stream is over."""
        self._credential = None
        self._secret = b""

    def _begin(self, data: bytes) -> None:
        try:
            told = json.loads(data)
            ticket = base64.urlsafe_b64decode(told["ticket"] + "=")
            if told["object"] != "cloister.lease" or len(ticket) != SECRET_BYTES:
                raise ValueError
            tokens, seconds = told["tokens"], told["seconds"]
            if not all(type(number) is int and number > 0 for number in (tokens, seconds)):
                raise ValueError
        except (ValueError, LookupError, TypeError, RecursionError):
            raise ExchangeFailed("event_malformed", "what opens the stream is no lease") from None
        self.tokens, self.seconds = tokens, seconds
        self._credential = _encoded(ticket + self._secret)


@contextmanager
def holding(client: "PrivateClient", secret: bytes, seconds: int | None) -> Iterator[Lease]:
    """Hold a lease under ``secret`` (32 random bytes) on a thread of its own. Raises ClientError where the node gives
    none; a lease that ends early only becomes not ``open``.
    """
    lease, begun, leaving = Lease(secret), threading.Event(), threading.Event()
    failures: list[ClientError] = []

    def hold() -> None:
        try:
            with client.stream(_request(secret, seconds)) as answer:
                answer.raise_for_status()
                for part in answer.content():
                    lease.feed(part)
                    if lease.tokens:
                        begun.set()
                    if leaving.is_set():
                        return
        except ClientError as error:
            failures.append(error)
        finally:
            lease.end()
            begun.set()

    thread = threading.Thread(target=hold, name="lease", daemon=True)
    thread.start()
    try:
        begun.wait()
        if not lease.tokens:
            raise failures[0] if failures else _nothing()
        yield lease
    finally:
        # The thread sees it with the next cell, and closes the stream; that is what ends the lease at the node.
        lease.end()
        leaving.set()
        thread.join(_LEAVING_S)


@asynccontextmanager
async def aholding(client: "PrivateClient", secret: bytes, seconds: int | None) -> AsyncIterator[Lease]:
    """``holding`` for asyncio."""
    lease, begun = Lease(secret), asyncio.Event()

    async def hold() -> None:
        try:
            async with client.astream(_request(secret, seconds)) as answer:
                await answer.raise_for_status()
                async for part in answer.content():
                    lease.feed(part)
                    if lease.tokens:
                        begun.set()
        finally:
            lease.end()
            begun.set()

    task = asyncio.create_task(hold())
    try:
        await begun.wait()
        if not lease.tokens:
            await task
            raise _nothing()
        yield lease
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _request(secret: bytes, seconds: int | None) -> InnerRequest:
    asked: dict[str, str | int] = {"secret": _encoded(secret)}
    if seconds is not None:
        asked["seconds"] = seconds
    headers = ((b"content-type", b"application/json"),)
    return InnerRequest("POST", "/v1/lease", headers, json.dumps(asked).encode())


def _nothing() -> ExchangeFailed:
    return ExchangeFailed("answer_incomplete", "the stream ended before the lease began")


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
