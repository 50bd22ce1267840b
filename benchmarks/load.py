"""The load: requests to one arm, in a closed loop or by a schedule, and what came back when.

An arm is an HTTP client: it may speak to a server on the loopback interface or through the transport that users
have. Nothing in here knows which. A schedule's latencies count from when a request should have been sent, not
from when there was room to send it; otherwise a server that stalls would be asked less and look better
(coordinated omission).
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import httpx2

from benchmarks.workload import Prompt

Clock = Callable[[], float]
"""Seconds on a clock that never runs backwards."""

MAX_GAPS = 4096
"""Arrivals kept for one answer; later ones move the last entry only."""


class LoadError(Exception):
    """A request of the load was not answered as it should be; ``code`` names the reason."""

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        super().__init__(f"{code}: {detail}")


@dataclass(frozen=True, slots=True)
class Timing:
    """One answered request. Times are seconds on the load's clock.

    ``intended`` is when the schedule wanted it sent (in a closed loop: when it was), ``sent`` when it was handed to
    the client, ``first`` and ``last`` when the first and last text had arrived, ``ended`` when the answer was
    complete. ``gaps`` are the seconds between arrivals of text. Token counts are the server's own. ``answer`` is
    the SHA-256 of the text in hex: it shows whether two arms did the same work.
    """

    slot: int
    prompt: str
    intended: float
    sent: float
    first: float
    last: float
    ended: float
    prompt_tokens: int
    tokens: int
    gaps: tuple[float, ...]
    answer: str


async def one(
    client: httpx2.AsyncClient,
    slot: int,
    prompt: Prompt,
    model: str,
    clock: Clock,
    intended: float | None = None,
) -> Timing:
    """Ask once, streamed. Raises LoadError for an answer that is no complete stream with text in it."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt.text}],
        "max_tokens": prompt.max_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "seed": prompt.seed,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    text, arrivals, usage, done = hashlib.sha256(), list[float](), None, False
    sent = clock()
    try:
        async with client.stream("POST", "/v1/chat/completions", json=body) as reply:
            if reply.status_code != 200:
                raise LoadError("status", f"the server answered {reply.status_code}")
            async for line in reply.aiter_lines():
                if not line.startswith("data:"):
                    continue
                data = line.removeprefix("data:").strip()
                if data == "[DONE]":
                    done = True
                    continue
                piece, counted = _piece(data)
                if piece:
                    if len(arrivals) >= MAX_GAPS:
                        arrivals.pop()
                    arrivals.append(clock())
                    text.update(piece.encode())
                usage = counted or usage
    except httpx2.HTTPError as error:
        raise LoadError("transport", type(error).__name__) from error
    ended = clock()
    if not done or not arrivals or usage is None or usage[1] < 1:
        raise LoadError("incomplete", "no complete answer with a count of its tokens")
    return Timing(
        slot=slot,
        prompt=prompt.digest,
        intended=sent if intended is None else intended,
        sent=sent,
        first=arrivals[0],
        last=arrivals[-1],
        ended=ended,
        prompt_tokens=usage[0],
        tokens=usage[1],
        gaps=tuple(b - a for a, b in pairwise(arrivals)),
        answer=text.hexdigest(),
    )


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
    prompts: Sequence[Prompt],
    *,
    concurrency: int,
    model: str,
    clock: Clock,
    answered: Callable[[Timing], None] = lambda _: None,
) -> tuple[Timing, ...]:
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
            timings.append(await one(client, slot, prompt, model, clock))
            answered(timings[-1])

    await _all_or_none([lane() for _ in range(min(concurrency, len(prompts)))])
    return tuple(sorted(timings, key=lambda timing: timing.slot))


async def open_loop(
    client: httpx2.AsyncClient,
    prompts: Sequence[Prompt],
    times: Sequence[float],
    *,
    model: str,
    clock: Clock,
    answered: Callable[[Timing], None] = lambda _: None,
) -> tuple[Timing, ...]:
    """Send each prompt at its time (seconds from now), however many are still unanswered.

    Raises LoadError for the first request that failed; the others are given up.
    """
    if not prompts or len(prompts) != len(times):
        raise ValueError("a schedule needs prompts and a time for each")
    began = clock()
    timings: list[Timing] = []

    async def at_its_time(slot: int) -> None:
        intended = began + times[slot]
        await asyncio.sleep(max(0.0, intended - clock()))
        timings.append(await one(client, slot, prompts[slot], model, clock, intended))
        answered(timings[-1])

    await _all_or_none([at_its_time(slot) for slot in range(len(prompts))])
    return tuple(sorted(timings, key=lambda timing: timing.slot))


async def _all_or_none(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _piece(data: str) -> tuple[str, tuple[int, int] | None]:
    try:
        event = json.loads(data)
        usage = event.get("usage")
        pieces = [choice["delta"].get("content") or "" for choice in event["choices"]]
        counted = None if usage is None else (int(usage["prompt_tokens"]), int(usage["completion_tokens"]))
        return "".join(pieces), counted
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise LoadError("malformed", "an event of the stream cannot be read") from error
