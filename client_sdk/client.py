"""The client: fetch evidence through the relay, verify it, then exchange encrypted requests.

    client = PrivateClient("https://relay.example/node-a", Policy.load(Path("policy.toml")))
    with client.stream(chat_request) as answer: ...

For programs that already speak OpenAI's API, ``http_transport()`` gives an httpx2 transport to hand to the
official ``openai`` package; see ``client_sdk.transport``.
"""

import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx2

from attestation.bundle import MAX_BUNDLE
from measurements.rollback import FileMemory, VolatileMemory

from .answer import AsyncInnerAnswer, Correction, InnerAnswer, check_outer, unreachable
from .errors import ExchangeFailed, NodeRefused, RelayUnreachable
from .exchange import REQUEST_MEDIA_TYPE, Exchange, InnerRequest
from .policy import Policy
from .transport import AsyncPrivateTransport, PrivateTransport
from .verify import Verification, VerifiedNode, verify_bundle

_OUTER_HEADERS = {"content-type": REQUEST_MEDIA_TYPE, "incremental": "?1", "accept-encoding": "identity"}


class PrivateClient:
    """Talks to one node through one relay, and only after verifying the node.

    ``relay_url`` is the relay's URL for the node, ``policy`` what the node must prove, ``memory`` where the newest
    log state seen is remembered across runs (in memory only where None). ``now`` and ``random`` are the clock and
    the source of randomness; ``timeout`` is in seconds, for each wait on the network.

    A verification is kept for at most an hour. A node that restarted has new keys: the client then verifies it
    anew, once, before it sends the request again. Every method raises ``client_sdk.errors.ClientError``.
    """

    def __init__(
        self,
        relay_url: str,
        policy: Policy,
        *,
        memory: Path | None = None,
        timeout: float = 60.0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._url = relay_url.rstrip("/")
        self._policy = policy
        self._memory = FileMemory(memory) if memory else VolatileMemory()
        self._now = now
        self._random = random
        self._timeout = timeout
        self._http = httpx2.Client(timeout=timeout, trust_env=False, follow_redirects=False)
        self._async_http: httpx2.AsyncClient | None = None
        self._node: VerifiedNode | None = None
        self.evidence: bytes | None = None
        """The last evidence bundle fetched, as served; for keeping beside a result."""

    def verify(self, *, fresh: bool = False) -> Verification:
        """Fetch the node's evidence and check all of it; the result holds every row.

        ``fresh`` sends a random 32-byte challenge that both the CPU's and the GPUs' evidence must answer.
        Raises RelayUnreachable; a refusal is in the result.
        """
        challenge = self._random(32) if fresh else None
        try:
            with self._http.stream(
                *self._evidence_request(challenge), **self._evidence_content(challenge)
            ) as reply:
                data = _join_bounded(reply.iter_bytes(), reply.status_code)
        except httpx2.TransportError as error:
            raise unreachable(error) from error
        return self._judge(data, challenge)

    def node(self) -> VerifiedNode:
        """The verified node, verifying it first where that is due. Raises VerificationRefused."""
        if self._node is None or self._now() >= self._node.valid_until:
            self._node = None
            self.verify().require()
        if self._node is None:
            raise RelayUnreachable("no_node", "verification left no node")
        return self._node

    @contextmanager
    def stream(self, request: InnerRequest) -> Iterator[InnerAnswer]:
        """Send ``request`` encrypted and stream the node's answer.

        Raises VerificationRefused before anything is sent; RelayUnreachable; ExchangeFailed where the answer was
        cut or altered. A status of 400 and above is an answer like any other: ``InnerAnswer.raise_for_status``.
        """
        date: datetime | None = None
        for attempt in (0, 1):
            exchange = self._begin(request, date)
            try:
                with self._http.stream(
                    "POST", f"{self._url}/ohttp", content=exchange.body, headers=_OUTER_HEADERS
                ) as r:
                    check_outer(r)
                    answer = InnerAnswer(exchange, r.iter_raw())
                    correction = answer.correction() if attempt == 0 else None
                    if correction is None:
                        yield answer
                        return
                    date = self._corrected(correction)
            except ExchangeFailed as error:
                if attempt or not error.stale_keys:
                    raise
                self._node = None
            except httpx2.TransportError as error:
                raise unreachable(error) from error

    @asynccontextmanager
    async def astream(self, request: InnerRequest) -> AsyncIterator[AsyncInnerAnswer]:
        """``stream`` for asyncio. Verification itself takes milliseconds and runs in the calling task."""
        if self._async_http is None:
            self._async_http = httpx2.AsyncClient(
                timeout=self._timeout, trust_env=False, follow_redirects=False
            )
        date: datetime | None = None
        for attempt in (0, 1):
            exchange = self._begin(request, date)
            try:
                async with self._async_http.stream(
                    "POST", f"{self._url}/ohttp", content=exchange.body, headers=_OUTER_HEADERS
                ) as reply:
                    check_outer(reply)
                    answer = AsyncInnerAnswer(exchange, reply.aiter_raw())
                    await answer.start()
                    correction = await answer.correction() if attempt == 0 else None
                    if correction is None:
                        yield answer
                        return
                    date = self._corrected(correction)
            except ExchangeFailed as error:
                if attempt or not error.stale_keys:
                    raise
                self._node = None
            except httpx2.TransportError as error:
                raise unreachable(error) from error

    def chat(
        self, messages: list[dict[str, str]], *, usage: dict[str, Any] | None = None, **options: Any
    ) -> Iterator[str]:
        """Stream the answer to OpenAI-shaped ``messages`` as pieces of text; ``options`` go into the request body.

        ``usage``, where given, is filled with the node's token counts at the end. Raises NodeRefused for an error
        of the node's, and ExchangeFailed where the answer was cut or altered.
        """
        document = {
            "model": self.node().model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            **options,
        }
        body = json.dumps(document).encode()
        request = InnerRequest(
            "POST", "/v1/chat/completions", ((b"content-type", b"application/json"),), body
        )
        with self.stream(request) as answer:
            answer.raise_for_status()
            for event in answer.events():
                if "error" in event:
                    raise NodeRefused(
                        str(event["error"].get("code")), str(event["error"].get("message")), status=200
                    )
                if usage is not None and event.get("usage"):
                    usage.update(event["usage"])
                for choice in event.get("choices", ()):
                    if text := choice.get("delta", {}).get("content"):
                        yield text

    def http_transport(self) -> PrivateTransport:
        """A transport for ``httpx2.Client``, which the ``openai`` package takes as ``http_client``."""
        return PrivateTransport(self)

    def async_http_transport(self) -> AsyncPrivateTransport:
        """A transport for ``httpx2.AsyncClient``, for ``openai.AsyncOpenAI``."""
        return AsyncPrivateTransport(self)

    def close(self) -> None:
        """Close the connection to the relay and forget the verified node."""
        self._node = None
        self._http.close()

    async def aclose(self) -> None:
        """``close`` for a client that was used with asyncio."""
        self.close()
        if self._async_http is not None:
            await self._async_http.aclose()

    def __enter__(self) -> "PrivateClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self, request: InnerRequest, date: datetime | None) -> Exchange:
        node = self.node()
        return node.begin(request, date=self._now(), request_id=self._random(16), stated_date=date)

    def _corrected(self, correction: Correction) -> datetime | None:
        if correction.date is None:
            self._node = None  # the next attempt verifies it anew
        return correction.date

    def _evidence_request(self, challenge: bytes | None) -> tuple[str, str]:
        return ("GET" if challenge is None else "POST", f"{self._url}/attestation")

    def _evidence_content(self, challenge: bytes | None) -> dict[str, Any]:
        if challenge is None:
            return {}
        return {"content": challenge, "headers": {"content-type": "application/octet-stream"}}

    def _judge(self, data: bytes, challenge: bytes | None) -> Verification:
        self.evidence = data
        verification = verify_bundle(
            data, self._policy, at=self._now(), memory=self._memory, challenge=challenge
        )
        if verification.node is not None and challenge is None:
            # A bundle made for our own challenge is ours alone: requests that named it could be linked to each other.
            self._node = verification.node
        return verification


def _join_bounded(chunks: Iterator[bytes], status: int) -> bytes:
    if status != 200:
        raise RelayUnreachable(
            "no_evidence", f"no evidence from the node (status {status})", "is the node running?"
        )
    data = bytearray()
    for chunk in chunks:
        data += chunk
        if len(data) > MAX_BUNDLE:
            break  # one byte too many is enough for the parser to name the limit
    return bytes(data[: MAX_BUNDLE + 1])
