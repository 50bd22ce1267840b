"""A server that streams answers by a clock that moves only when it answers."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx2


class Ticking:
    """A clock that moves only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Answering(httpx2.AsyncBaseTransport):
    """Streams ``tokens`` events, ``pace`` seconds of the clock apart; counts how many run at once."""

    def __init__(self, clock: Ticking, pace: float = 0.25, tokens: int = 4, ending: str = "[DONE]") -> None:
        self.clock, self.pace, self.tokens, self.ending = clock, pace, tokens, ending
        self.running = self.most = 0
        self.asked: list[str] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/v1/models":
            self.clock.now += self.pace / 10
            return httpx2.Response(200, json={"data": [{"id": "m"}]})
        body = json.loads(request.content)
        assert (body["stream"], body["temperature"], body["model"], body["ignore_eos"]) == (
            True,
            0,
            "m",
            True,
        )
        self.asked.append(body["messages"][0]["content"])
        return httpx2.Response(200, stream=Events(self))


class Events(httpx2.AsyncByteStream):
    def __init__(self, of: Answering) -> None:
        self.of = of

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.of.running += 1
        self.of.most = max(self.of.most, self.of.running)
        yield event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        for index in range(self.of.tokens):
            await asyncio.sleep(0)
            self.of.clock.now += self.of.pace
            yield event({"choices": [{"delta": {"content": f"t{index}"}}]})
        yield b": filler\n\n"
        yield event({"choices": [], "usage": {"completion_tokens": self.of.tokens, "prompt_tokens": 7}})
        self.of.clock.now += self.of.pace
        yield f"data: {self.of.ending}\n\n".encode()
        self.of.running -= 1


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"
