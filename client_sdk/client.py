"""The client: fetch evidence through the relay, verify it, then exchange encrypted requests.

    client = PrivateClient("https://relay.example/node-a", Policy.load(Path("policy.toml")))
    with client.stream(chat_request) as answer: ...

For programs that already speak OpenAI's API, ``http_transport()`` gives an httpx2 transport to hand to the
official ``openai`` package; see ``client_sdk.transport``.
"""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx2

from attestation.bundle import MAX_BUNDLE
from attestation.cpu_memory import CpuMemory
from measurements.rollback import FileMemory, RollbackMemory, VolatileMemory
from ohttp.chunked import REQUEST_MEDIA_TYPE
from ohttp.token_wallet import Wallet

from .answer import AsyncInnerAnswer, Correction, InnerAnswer, check_outer, unreachable
from .directory import require_listed_keys
from .errors import ClientError, ExchangeFailed, NodeRefused, RelayUnreachable
from .exchange import Exchange, InnerRequest
from .lease import SECRET_BYTES, Lease, aholding, holding
from .patient_transport import no_cookies, plain_client
from .payment import Payment
from .policy import Policy
from .transport import AsyncPrivateTransport, PrivateTransport
from .verify import Verification, VerifiedNode, verify_bundle

_IDENTITY = {"accept-encoding": "identity"}
_ANOTHER_RELAY = "try again, or another relay"
_OUTER_HEADERS = {"content-type": REQUEST_MEDIA_TYPE, "incremental": "?1", **_IDENTITY}


class PrivateClient:
    """Talks to one node through one relay, and only after verifying the node.

    ``relay_url`` is the relay's URL for the node, ``policy`` what the node must prove, ``memory`` where the newest
    log state seen is remembered: a file, across runs, or what several clients share (None: while this one lives),
    ``wallet`` the file of blind tokens for nodes that ask for them (``cloister tokens get`` fills it), ``listed_keys``
    the SHA-256 of the only key configs that the node may show, whenever it is verified (None: any that it proves to be
    its own). ``now`` and ``random`` are the clock and the source of randomness; ``timeout`` is in seconds, for each
    wait on the network, for the head of an answer, for the whole of the evidence once it has begun, and between two
    chunks of an answer that authenticate.

    A verification is kept for at most an hour, and not beyond one that refuses. A node that restarted has new keys:
    the client then verifies it anew, once, before it sends the request again. Cookies are neither kept nor sent.
    Every method raises ``client_sdk.errors.ClientError``.
    """

    def __init__(
        self,
        relay_url: str,
        policy: Policy,
        *,
        memory: Path | RollbackMemory | None = None,
        wallet: Path | None = None,
        listed_keys: bytes | None = None,
        timeout: float = 60.0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._url = _usable(relay_url).rstrip("/")
        self._listed_keys = listed_keys
        self._policy = policy
        self._memory = FileMemory(memory) if isinstance(memory, Path) else memory or VolatileMemory()
        self._cpu_memory = CpuMemory()
        self._wallet = Wallet(wallet) if wallet else None
        self._now = now
        self._random = random
        self._timeout = timeout
        self._http = plain_client(timeout)
        self._async_http: httpx2.AsyncClient | None = None
        self._node: VerifiedNode | None = None
        self.evidence: bytes | None = None
        """The last evidence bundle fetched, as served; for keeping beside a result."""

    def verify(self, *, fresh: bool = False) -> Verification:
        """Fetch the node's evidence and check all of it; the result holds every row.

        ``fresh`` sends a random 32-byte challenge that both the CPU's and the GPUs' evidence must answer.
        Raises RelayUnreachable, and DirectoryRefused for other keys than are listed; other refusals are in the result.
        """
        challenge = self._random(32) if fresh else None
        evidence = _Evidence(self._timeout)
        try:
            with self._http.stream(
                *self._evidence_request(challenge), **self._evidence_content(challenge)
            ) as reply:
                evidence.begin(reply.status_code)
                for part in reply.iter_raw():
                    if not evidence.wants_more_than(part):
                        break
        except httpx2.TransportError as error:
            raise unreachable(error) from error
        return self._judge(evidence.data, challenge)

    async def averify(self, *, fresh: bool = False) -> Verification:
        """``verify`` for asyncio: a slow relay holds up nobody else."""
        challenge = self._random(32) if fresh else None
        evidence = _Evidence(self._timeout)
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._asyncio_http().stream(
                    *self._evidence_request(challenge), **self._evidence_content(challenge)
                ) as reply,
            ):
                evidence.begin(reply.status_code)
                async for part in reply.aiter_raw():
                    if not evidence.wants_more_than(part):
                        break
        except httpx2.TransportError as error:
            raise unreachable(error) from error
        except TimeoutError as error:
            raise _too_slow() from error
        return self._judge(evidence.data, challenge)

    def node(self) -> VerifiedNode:
        """The verified node, verifying it first where that is due. Raises VerificationRefused."""
        return self._kept_node() or self.verify().require()

    async def anode(self) -> VerifiedNode:
        """``node`` for asyncio."""
        return self._kept_node() or (await self.averify()).require()

    @contextmanager
    def stream(self, request: InnerRequest) -> Iterator[InnerAnswer]:
        """Send ``request`` encrypted and stream the node's answer.

        Raises VerificationRefused before anything is sent; RelayUnreachable; ExchangeFailed where the answer was
        cut or altered. A status of 400 and above is an answer like any other: ``InnerAnswer.raise_for_status``.
        """
        date, payment = None, Payment(self._wallet, request)
        for attempt in (0, 1):
            exchange = self._begin(self.node(), request, date, payment)
            # The caller's own block runs outside of the handlers: its errors are neither ours to name nor to retry.
            with ExitStack() as opened:
                try:
                    reply = opened.enter_context(
                        self._http.stream(
                            "POST", f"{self._url}/ohttp", content=exchange.body, headers=_OUTER_HEADERS
                        )
                    )
                    check_outer(reply)
                    answer = InnerAnswer(exchange, reply.iter_raw(), patience=self._timeout)
                    correction = answer.correction() if attempt == 0 else None
                except ExchangeFailed as error:
                    if attempt or not error.stale_keys:
                        raise
                    self._node = None
                    continue
                except httpx2.TransportError as error:
                    raise unreachable(error) from error
                if correction is None:
                    yield answer
                    return
                date = self._corrected(correction)

    @asynccontextmanager
    async def astream(self, request: InnerRequest) -> AsyncIterator[AsyncInnerAnswer]:
        """``stream`` for asyncio. The checks take milliseconds and run in the calling task."""
        date, payment = None, Payment(self._wallet, request)
        for attempt in (0, 1):
            exchange = await self._abegin(await self.anode(), request, date, payment)
            async with AsyncExitStack() as opened:
                try:
                    # Each read has its own timeout; a head that drips would never run into one.
                    async with asyncio.timeout(self._timeout):
                        reply = await opened.enter_async_context(
                            self._asyncio_http().stream(
                                "POST", f"{self._url}/ohttp", content=exchange.body, headers=_OUTER_HEADERS
                            )
                        )
                    check_outer(reply)
                    answer = AsyncInnerAnswer(exchange, reply.aiter_raw(), patience=self._timeout)
                    await answer.start()
                    correction = await answer.correction() if attempt == 0 else None
                except ExchangeFailed as error:
                    if attempt or not error.stale_keys:
                        raise
                    self._node = None
                    continue
                except httpx2.TransportError as error:
                    raise unreachable(error) from error
                except TimeoutError as error:
                    raise RelayUnreachable(
                        "relay_unreachable", "the head of the answer did not come in time", _ANOTHER_RELAY
                    ) from error
                if correction is None:
                    yield answer
                    return
                date = self._corrected(correction)

    def lease(self, *, seconds: int | None = None) -> AbstractContextManager[Lease]:
        """Hold a lease for as long as the block lasts, for at most ``seconds`` and what the node allows: requests that
        bring it find what the ones before computed. Raises NodeRefused (``not_found``) where a node offers none.
        """
        return holding(self, self._random(SECRET_BYTES), seconds)

    def alease(self, *, seconds: int | None = None) -> AbstractAsyncContextManager[Lease]:
        """``lease`` for asyncio."""
        return aholding(self, self._random(SECRET_BYTES), seconds)

    def chat(
        self,
        messages: list[dict[str, str]],
        *,
        usage: dict[str, Any] | None = None,
        lease: Lease | None = None,
        **options: Any,
    ) -> Iterator[str]:
        """Stream the answer to OpenAI-shaped ``messages`` as pieces of text; ``options`` go into the request body.

        ``usage``, where given, is filled with the node's token counts at the end. ``lease`` is one that is held; one
        that has ended changes nothing. Raises NodeRefused for an error of the node's, and ExchangeFailed where the
        answer was cut or altered.
        """
        document = {
            "model": self.node().model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            **options,
        }
        if lease is not None and lease.credential is not None:
            document["lease"] = lease.credential
        body = json.dumps(document).encode()
        request = InnerRequest(
            "POST", "/v1/chat/completions", ((b"content-type", b"application/json"),), body
        )
        with self.stream(request) as answer:
            answer.raise_for_status()
            for event in answer.events():
                try:
                    if "error" in event:
                        raise NodeRefused(
                            str(event["error"].get("code")), str(event["error"].get("message")), status=200
                        )
                    if usage is not None and event.get("usage"):
                        usage.update(event["usage"])
                    texts = [choice.get("delta", {}).get("content") for choice in event.get("choices", ())]
                except (AttributeError, TypeError, ValueError):
                    raise ExchangeFailed("event_malformed", "an event is not a chat completion's") from None
                yield from (text for text in texts if isinstance(text, str) and text)

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

    def _asyncio_http(self) -> httpx2.AsyncClient:
        if self._async_http is None:
            self._async_http = httpx2.AsyncClient(
                timeout=self._timeout, trust_env=False, follow_redirects=False, cookies=no_cookies()
            )
        return self._async_http

    def _kept_node(self) -> VerifiedNode | None:
        """The node verified before, unless that has run out, or the clock was set back before it."""
        node = self._node
        return node if node is not None and node.valid_from <= self._now() < node.valid_until else None

    def _begin(
        self, node: VerifiedNode, request: InnerRequest, date: datetime | None, payment: Payment
    ) -> Exchange:
        now = self._now()
        token = payment.token(node.tokens, now.timestamp())
        return node.begin(request, date=now, request_id=self._random(16), stated_date=date, token=token)

    async def _abegin(
        self, node: VerifiedNode, request: InnerRequest, date: datetime | None, payment: Payment
    ) -> Exchange:
        """``_begin``, beside the loop where it takes a token out of a file."""
        if self._wallet is None or node.tokens is None:
            return self._begin(node, request, date, payment)
        return await asyncio.to_thread(self._begin, node, request, date, payment)

    def _corrected(self, correction: Correction) -> datetime | None:
        if correction.date is None:
            self._node = None  # the next attempt verifies it anew
        return correction.date

    def _evidence_request(self, challenge: bytes | None) -> tuple[str, str]:
        return ("GET" if challenge is None else "POST", f"{self._url}/attestation")

    def _evidence_content(self, challenge: bytes | None) -> dict[str, Any]:
        if challenge is None:
            return {"headers": _IDENTITY}
        return {"content": challenge, "headers": {"content-type": "application/octet-stream", **_IDENTITY}}

    def _judge(self, data: bytes, challenge: bytes | None) -> Verification:
        self.evidence = data
        verification = verify_bundle(
            data,
            self._policy,
            at=self._now(),
            memory=self._memory,
            challenge=challenge,
            cpu_memory=self._cpu_memory,
        )
        if verification.node is not None and self._listed_keys is not None:
            self._node = None
            require_listed_keys(verification.node.cpu.claims.ohttp_keys, self._listed_keys)
        # A bundle made for our own challenge is ours alone: requests that named it could be linked to each other.
        if verification.node is None or challenge is None:
            self._node = verification.node
        return verification


class _Evidence:
    """Gathers a bundle, within its size and its time."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self._data = bytearray()

    @property
    def data(self) -> bytes:
        """What has come, at most one byte over the limit."""
        return bytes(self._data)

    def begin(self, status: int) -> None:
        """Raises RelayUnreachable where the answer holds no evidence."""
        if status != 200:
            raise RelayUnreachable(
                "no_evidence",
                f"no evidence from the node (status {status})",
                "the relay knows no node of this name: its URL ends in /NAME"
                if status == 404
                else "the node is not running, or not listening yet",
            )

    def wants_more_than(self, part: bytes) -> bool:
        """Take ``part``; whether another may follow. Raises RelayUnreachable once time is up."""
        if time.monotonic() > self._until:
            raise _too_slow()
        # One byte too many is enough for the parser to name the limit.
        self._data += part[: MAX_BUNDLE + 1 - len(self._data)]
        return len(self._data) <= MAX_BUNDLE


def _usable(relay_url: str) -> str:
    try:
        url = httpx2.URL(relay_url)
        url.host.encode("idna")
        if url.scheme not in ("http", "https") or not url.host:
            raise httpx2.InvalidURL("no web address")
    except (httpx2.InvalidURL, UnicodeError) as error:
        raise ClientError(
            "relay_url", "not an address of a relay", "give a URL such as http://host/node"
        ) from error
    return relay_url


def _too_slow() -> RelayUnreachable:
    return RelayUnreachable("relay_slow", "the evidence did not arrive in time", _ANOTHER_RELAY)
