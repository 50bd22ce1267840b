"""What a relay sees of answers: the size of every record that a gateway sends, and when.

The node's own code frames an answer into events, merges them into cells and encrypts them; only the model is
replaced, by answers that are spoken from a list. Runs in virtual time: no noise of the machine helps the defence.
"""

import asyncio
import base64
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import virtual_time
from benchmarks.spoken_answers import Spoken
from enclave_runtime.answer_stream import Answer
from enclave_runtime.openai_answers import AnswerShape
from ohttp.bhttp import Request, encode_request
from ohttp.chunked import REQUEST_MEDIA_TYPE, ChunkedClient
from ohttp.gateway import Gateway
from ohttp.http_date import format_http_date
from ohttp.inner_app import CELLS_EXTENSION
from ohttp.keyconfig import GatewayKey, KeyConfig, KeyRing
from ohttp.padding import CellProfile, padme
from ohttp.replay import ReplayWindow

NOW = 1_800_000_000.0
X25519 = 0x0020
AT_ONCE = 64
_EVENT_STREAM = [(b"content-type", b"text/event-stream; charset=utf-8")]


@dataclass(frozen=True, slots=True)
class Trace:
    """One answer on the wire: bytes of each record, and seconds from the request to each."""

    label: str
    sizes: tuple[int, ...]
    times: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Piece:
    text: str
    token_count: int
    finish_reason: str | None
    logprobs: tuple[()] = ()


class _Speaking:
    """A generation that says what it was given, in its time."""

    def __init__(self, spoken: Spoken) -> None:
        self._spoken = spoken

    async def pieces(self) -> AsyncIterator[_Piece]:
        last = len(self._spoken.tokens) - 1
        for number, (token, gap) in enumerate(zip(self._spoken.tokens, self._spoken.gaps, strict=True)):
            await asyncio.sleep(gap)
            yield _Piece(token, 1, "stop" if number == last else None)

    def cancel(self) -> None:
        """Nothing to give back."""


class SpeakingApp:
    """The inner application: the path's last part is the number of the answer that it gives."""

    def __init__(self, answers: Sequence[Spoken]) -> None:
        self._answers = answers

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        number = int(scope["path"].rpartition("/")[2])
        shape = AnswerShape("chat", f"chatcmpl-{secrets.token_hex(8)}", "model", int(NOW))
        answer = Answer(_Speaking(self._answers[number]), shape, 20)
        await send({"type": "http.response.start", "status": 200, "headers": _EVENT_STREAM})
        async for event in answer.events(scope["extensions"].get(CELLS_EXTENSION), True, lambda: None):
            if event:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def record(answers: Sequence[Spoken], profile: CellProfile) -> list[Trace]:
    """The traces of ``answers`` behind a gateway with ``profile``."""
    key = GatewayKey.generate(1, X25519)
    gateway = speaking_gateway(answers, key, profile, lambda: NOW)

    async def all_of_them() -> list[Trace]:
        places = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> Trace:
            async with places:
                # Beats of different answers are not to coincide: each begins at a moment of its own.
                await asyncio.sleep(secrets.randbelow(1 << 20) / (1 << 20))
                return await _ask(gateway, key, number, answers[number].label)

        return list(await asyncio.gather(*(one(number) for number in range(len(answers)))))

    return virtual_time.run(all_of_them())


def speaking_gateway(
    answers: Sequence[Spoken], key: GatewayKey, profile: CellProfile, now: Callable[[], float]
) -> Gateway:
    """A gateway whose application gives ``answers``; any evidence digest counts as live."""
    ring = KeyRing([key])
    return Gateway(
        SpeakingApp(answers),
        keyring=lambda: ring,
        is_live=lambda digest: True,
        replay=ReplayWindow(),
        profile=profile,
        now=now,
        max_open=2 * AT_ONCE,
    )


def sealed_question(config: KeyConfig, number: int, now: float) -> bytes:
    """An encapsulated request for the answer ``number``."""
    digest = base64.b64encode(hashlib.sha256(b"").digest())
    request = Request(
        method=b"POST",
        scheme=b"https",
        authority=b"cloister.internal",
        path=f"/answers/{number}".encode(),
        headers=(
            (b"date", format_http_date(now)),
            (b"request-id", secrets.token_hex(16).encode()),
            (b"attestation-digest", b"sha-256=:" + digest + b":"),
        ),
    )
    padded = encode_request(request, pad_to=padme(len(encode_request(request))))
    return ChunkedClient(config).seal_request(padded)


async def _ask(gateway: Gateway, key: GatewayKey, number: int, label: str) -> Trace:
    sealed = sealed_question(key.config, number, NOW)
    loop = asyncio.get_running_loop()
    asked, read = loop.time(), False
    sizes: list[int] = []
    times: list[float] = []

    async def receive() -> dict[str, Any]:
        nonlocal read
        if read:
            await asyncio.Event().wait()
        read = True
        return {"type": "http.request", "body": sealed, "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            if message["status"] != 200:
                raise RuntimeError(f"the gateway answered {message['status']}")
        else:
            sizes.append(len(message["body"]))
            times.append(loop.time() - asked)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/ohttp",
        "headers": [(b"content-type", REQUEST_MEDIA_TYPE.encode())],
    }
    await gateway(scope, receive, send)
    return Trace(label, tuple(sizes), tuple(times))
