"""A node's answer while it streams in, decrypted as it comes."""

import json
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx2

from ohttp import problems
from ohttp.bhttp import Content, Head
from ohttp.chunked import RESPONSE_MEDIA_TYPE
from ohttp.http_date import parse_http_date

from .errors import ExchangeFailed, NodeRefused, RelayUnreachable
from .exchange import Exchange

MAX_PROBLEM = 16 * 1024
PATIENCE = 60.0
_CORRECTABLE = (400, 409)


@dataclass(frozen=True, slots=True)
class Correction:
    """Why a second attempt may succeed: the node's own ``date`` where it refused ours (RFC 9458, section 6.5.2), or
    none where it no longer stands by the evidence that was verified, so that it must be verified anew."""

    date: datetime | None


@dataclass(frozen=True, slots=True)
class InnerHead:
    """Status and headers of the node's own answer, from inside the encryption."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]

    def header(self, name: bytes) -> bytes | None:
        """The first value of the header ``name`` (lower case), or None."""
        return next((value for key, value in self.headers if key == name), None)


class InnerAnswer:
    """The node's answer while it streams in. ``head`` is there from the start; content comes by iterating.

    ``patience``: seconds for which bytes may come without a chunk that authenticates.
    """

    def __init__(self, exchange: Exchange, chunks: Iterator[bytes], *, patience: float = PATIENCE) -> None:
        self._exchange = exchange
        self._chunks = chunks
        self._patience = patience
        self._body = self._read()
        first = next(self._body, None)
        if not isinstance(first, InnerHead):
            raise ExchangeFailed("no_answer", "the answer ended before it began")
        self.head: InnerHead = first
        self._kept: bytes | None = None

    def content(self) -> Iterator[bytes]:
        """The body's bytes as they arrive. Raises ExchangeFailed where the stream was cut or altered."""
        if self._kept is not None:
            yield self._kept
            return
        for part in self._body:
            if isinstance(part, bytes):
                yield part

    def problem(self) -> dict[str, Any]:
        """The body of a problem or error answer (at most 16 KiB) as a JSON object; empty where it is none."""
        if self._kept is None:
            gathered = b""
            for part in self.content():
                gathered = _with(gathered, part)
            self._kept = gathered
        return _json_object(self._kept)

    def raise_for_status(self) -> None:
        """Raises NodeRefused with the node's own error code for a status of 400 and above."""
        if self.head.status >= 400:
            raise _refusal(self.head.status, self.problem())

    def events(self) -> Iterator[dict[str, Any]]:
        """The JSON objects of a ``text/event-stream`` body, up to its ``[DONE]``; then reads the stream to its end."""
        lines = SseLines()
        done = False
        for part in self.content():
            for data in lines.feed(part):
                if data == b"[DONE]":
                    done = True
                elif not done:
                    yield _json_object(data)
        if not done:
            raise ExchangeFailed("answer_incomplete", "the event stream ended without [DONE]")

    def correction(self) -> "Correction | None":
        """What one more attempt could mend, where the node says so; None for every other answer."""
        return _correction(self.head, self.problem()) if self.head.status in _CORRECTABLE else None

    def _read(self) -> Iterator[InnerHead | bytes]:
        watch = _ProgressWatch(self._exchange, self._patience)
        try:
            for chunk in self._chunks:
                yield from _parts(self._exchange.receive(chunk))
                watch.check()
        except httpx2.TransportError as error:
            raise unreachable(error) from error
        yield from _parts(self._exchange.finish())


class AsyncInnerAnswer:
    """``InnerAnswer`` for asyncio: ``head`` is there once ``start`` has returned."""

    def __init__(
        self, exchange: Exchange, chunks: AsyncIterator[bytes], *, patience: float = PATIENCE
    ) -> None:
        self._exchange = exchange
        self._chunks = chunks
        self._patience = patience
        self._body = self._read()
        self._kept: bytes | None = None
        self.head = InnerHead(0, ())

    async def start(self) -> None:
        """Read up to the inner head. Raises ExchangeFailed."""
        async for part in self._body:
            if isinstance(part, InnerHead):
                self.head = part
                return
        raise ExchangeFailed("no_answer", "the answer ended before it began")

    async def content(self) -> AsyncIterator[bytes]:
        """The body's bytes as they arrive. Raises ExchangeFailed where the stream was cut or altered."""
        if self._kept is not None:
            yield self._kept
            return
        async for part in self._body:
            if isinstance(part, bytes):
                yield part

    async def problem(self) -> dict[str, Any]:
        """As ``InnerAnswer.problem``."""
        if self._kept is None:
            gathered = b""
            async for part in self.content():
                gathered = _with(gathered, part)
            self._kept = gathered
        return _json_object(self._kept)

    async def raise_for_status(self) -> None:
        """As ``InnerAnswer.raise_for_status``."""
        if self.head.status >= 400:
            raise _refusal(self.head.status, await self.problem())

    async def correction(self) -> "Correction | None":
        """As ``InnerAnswer.correction``."""
        return _correction(self.head, await self.problem()) if self.head.status in _CORRECTABLE else None

    async def _read(self) -> AsyncIterator[InnerHead | bytes]:
        watch = _ProgressWatch(self._exchange, self._patience)
        try:
            async for chunk in self._chunks:
                for part in _parts(self._exchange.receive(chunk)):
                    yield part
                watch.check()
        except httpx2.TransportError as error:
            raise unreachable(error) from error
        for part in _parts(self._exchange.finish()):
            yield part


class _ProgressWatch:
    """Ends a wait that single bytes prolong forever: a read is no sign of life unless it completes a chunk."""

    def __init__(self, exchange: Exchange, patience: float) -> None:
        self._exchange, self._patience = exchange, patience
        self._opened, self._since = exchange.opened, time.monotonic()

    def check(self) -> None:
        """Call after each read. Raises ExchangeFailed (``stalled``)."""
        now = time.monotonic()
        if self._exchange.opened > self._opened:
            self._opened, self._since = self._exchange.opened, now
        elif now - self._since > self._patience:
            raise ExchangeFailed("stalled", f"bytes came for {self._patience:g} s, but nothing of the node's")


class SseLines:
    """Splits a ``text/event-stream`` into the values of its ``data`` fields; comments (filler) vanish."""

    MAX_LINE = 1024 * 1024

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, part: bytes) -> Iterator[bytes]:
        """Feed bytes, get the complete ``data`` values in them. Raises ExchangeFailed for a line over 1 MiB."""
        *lines, self._rest = (self._rest + part).split(b"\n")
        if len(self._rest) > self.MAX_LINE:
            raise ExchangeFailed("event_too_large", f"an event line has at most {self.MAX_LINE} bytes")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


def check_outer(reply: httpx2.Response) -> None:
    """The outer response must be a chunked OHTTP response. Raises ExchangeFailed or RelayUnreachable.

    Never falls back to an answer outside the encryption: what a relay says in clear is only ever an error.
    """
    kind = reply.headers.get("content-type", "").lower()
    if reply.status_code == 200 and kind == RESPONSE_MEDIA_TYPE:
        return
    if reply.status_code in (502, 503, 504):
        raise RelayUnreachable(
            "node_unavailable",
            f"the relay answered {reply.status_code}",
            "the node is down or full; try again later",
        )
    raise ExchangeFailed(
        "refused_outside",
        f"the request was refused before it was opened (status {reply.status_code})",
        "the node may have restarted with new keys",
        stale_keys=reply.status_code in (400, 401, 422),
    )


def _parts(events: list[Head | Content]) -> Iterator[InnerHead | bytes]:
    for event in events:
        yield event.data if isinstance(event, Content) else InnerHead(event.status, event.headers)


def _with(gathered: bytes, part: bytes) -> bytes:
    if len(gathered) + len(part) > MAX_PROBLEM:
        raise ExchangeFailed("problem_too_large", f"an error answer has at most {MAX_PROBLEM} bytes")
    return gathered + part


def _refusal(status: int, problem: dict[str, Any]) -> NodeRefused:
    inner = problem.get("error")
    if isinstance(inner, dict):
        return NodeRefused(
            str(inner.get("code") or inner.get("type")), str(inner.get("message")), status=status
        )
    return NodeRefused("node_error", str(problem.get("title", "the node refused")), status=status)


def _correction(head: InnerHead, problem: dict[str, Any]) -> Correction | None:
    kind = problem.get("type")
    if head.status == 409 and kind == problems.ATTESTATION:
        return Correction(None)
    stated = head.header(b"date")
    if head.status != 400 or kind != problems.DATE or stated is None:
        return None
    seconds = parse_http_date(stated)
    return None if seconds is None else Correction(datetime.fromtimestamp(seconds, UTC))


def _json_object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def unreachable(error: httpx2.TransportError) -> RelayUnreachable:
    return RelayUnreachable(
        "relay_unreachable",
        f"{type(error).__name__}: no answer",
        "check the relay's address, and that it is running",
    )
