"""The load: the same requests, in the same order, to two arms in turn, and what came back when.

An arm is an HTTP client: the plain one speaks to a server on the loopback interface, the sealed one through
the transport that users have. Nothing in here knows which is which.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx2

Clock = Callable[[], float]
"""Seconds on a clock that never runs backwards."""


class LoadError(Exception):
    """A request of the load was not answered as it should be; ``code`` names the reason."""

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        super().__init__(f"{code}: {detail}")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request: what is asked, and how many tokens the answer has at most. Greedy, so repeatable."""

    text: str
    max_tokens: int
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Timing:
    """One answered request. Times are seconds on the load's clock.

    ``sent`` is when the request was handed to the client, ``first`` when the first text of the answer had
    arrived, ``last`` when the last had, ``ended`` when the answer was complete. ``tokens`` is the node's own
    count; ``answer`` is the SHA-256 of the text in hex: it shows whether two arms did the same work.
    """

    arm: str
    slot: int
    sent: float
    first: float
    last: float
    ended: float
    tokens: int
    answer: str


@dataclass(frozen=True, slots=True)
class Block:
    """Requests of one arm at one concurrency, one behind the other in each of ``concurrency`` lanes."""

    arm: str
    concurrency: int
    timings: tuple[Timing, ...]


def abba(rounds: int) -> tuple[tuple[str, int], ...]:
    """The order of arms, as (arm, slot): a b b a in each slot, so that drift hits both arms alike."""
    return tuple((arm, slot) for slot in range(rounds) for arm in ("a", "b", "b", "a"))


async def one(
    client: httpx2.AsyncClient, arm: str, slot: int, prompt: Prompt, model: str, clock: Clock
) -> Timing:
    """Ask once, streamed. Raises LoadError for an answer that is no complete stream with text in it."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt.text}],
        "max_tokens": prompt.max_tokens,
        "temperature": 0,
        "seed": prompt.seed,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    text, first, last, tokens, done = hashlib.sha256(), None, 0.0, 0, False
    sent = clock()
    try:
        async with client.stream("POST", "/v1/chat/completions", json=body) as reply:
            if reply.status_code != 200:
                raise LoadError("status", f"arm {arm} answered {reply.status_code}")
            async for line in reply.aiter_lines():
                if not line.startswith("data:"):
                    continue
                data = line.removeprefix("data:").strip()
                if data == "[DONE]":
                    done = True
                    continue
                piece, count = _piece(data, arm)
                if piece:
                    last = clock()
                    first = last if first is None else first
                    text.update(piece.encode())
                tokens = tokens if count is None else count
    except httpx2.HTTPError as error:
        raise LoadError("transport", f"arm {arm}: {type(error).__name__}") from error
    ended = clock()
    if not done or first is None or tokens < 1:
        raise LoadError("incomplete", f"arm {arm} sent no complete answer")
    return Timing(arm, slot, sent, first, last, ended, tokens, text.hexdigest())


async def empty(client: httpx2.AsyncClient, clock: Clock) -> float:
    """Seconds for a request whose handler does nothing but answer: the limit that the path itself sets."""
    began = clock()
    try:
        reply = await client.get("/v1/models")
    except httpx2.HTTPError as error:
        raise LoadError("transport", type(error).__name__) from error
    if reply.status_code != 200:
        raise LoadError("status", f"the list of models was answered with {reply.status_code}")
    return clock() - began


async def closed_loop(
    client: httpx2.AsyncClient,
    arm: str,
    prompts: Sequence[Prompt],
    *,
    concurrency: int,
    model: str,
    clock: Clock,
) -> Block:
    """Ask every prompt once, at most ``concurrency`` at a time, the next as soon as one is answered.

    Raises LoadError for the first request that failed; the others are given up.
    """
    if concurrency < 1 or not prompts:
        raise ValueError("a closed loop needs prompts and at least one lane")
    pending = list(enumerate(prompts))[::-1]
    timings: list[Timing] = []

    async def lane() -> None:
        while pending:
            slot, prompt = pending.pop()
            timings.append(await one(client, arm, slot, prompt, model, clock))

    lanes = [asyncio.create_task(lane()) for _ in range(min(concurrency, len(prompts)))]
    try:
        await asyncio.gather(*lanes)
    finally:
        for task in lanes:
            task.cancel()
        await asyncio.gather(*lanes, return_exceptions=True)
    return Block(arm, concurrency, tuple(sorted(timings, key=lambda timing: timing.slot)))


def _piece(data: str, arm: str) -> tuple[str, int | None]:
    try:
        event = json.loads(data)
        usage = event.get("usage")
        pieces = [choice["delta"].get("content") or "" for choice in event["choices"]]
        return "".join(pieces), None if usage is None else int(usage["completion_tokens"])
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise LoadError("malformed", f"arm {arm} sent an event that cannot be read") from error
