"""The load against an application that answers by the clock it is given."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx2
import pytest

from benchmarks import metrics
from benchmarks.load import LoadError, Prompt, abba, closed_loop, empty, one
from benchmarks.plain_vs_sealed import Arm, ArmName, Plan, measure, summarise


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
        assert (body["stream"], body["temperature"], body["model"]) == (True, 0, "m")
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
        yield event({"choices": [], "usage": {"completion_tokens": self.of.tokens}})
        self.of.clock.now += self.of.pace
        yield f"data: {self.of.ending}\n\n".encode()
        self.of.running -= 1


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def client(transport: httpx2.AsyncBaseTransport) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=transport, base_url="http://node")


def test_times_are_taken_at_the_first_text_the_last_text_and_the_end() -> None:
    clock = Ticking()
    timing = asyncio.run(one(client(Answering(clock)), "plain", 3, Prompt("hello", 4), "m", clock))
    assert (timing.sent, timing.first, timing.last, timing.ended) == (100.0, 100.25, 101.0, 101.25)
    assert (timing.slot, timing.tokens) == (3, 4)
    assert metrics.ttft(timing) == 0.25
    assert metrics.tpot(timing) == pytest.approx(0.25)
    assert metrics.tokens_per_s(timing) == pytest.approx(4 / 1.25)
    assert metrics.end_to_end(timing) == 1.25


def test_one_token_has_no_time_between_tokens() -> None:
    clock = Ticking()
    timing = asyncio.run(one(client(Answering(clock, tokens=1)), "plain", 0, Prompt("x", 1), "m", clock))
    assert metrics.tpot(timing) is None


@pytest.mark.parametrize(
    ("transport", "code"),
    [
        (Answering(Ticking(), ending="{"), "malformed"),
        (Answering(Ticking(), ending='{"choices": []}'), "incomplete"),
        (Answering(Ticking(), tokens=0), "incomplete"),
        (httpx2.MockTransport(lambda request: httpx2.Response(503)), "status"),
    ],
)
def test_an_answer_that_is_not_whole_is_an_error(transport: httpx2.AsyncBaseTransport, code: str) -> None:
    with pytest.raises(LoadError) as caught:
        asyncio.run(one(client(transport), "sealed", 0, Prompt("x", 4), "m", Ticking()))
    assert caught.value.code == code


def test_a_broken_transport_is_an_error_without_its_text() -> None:
    def broken(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("a secret")

    for asking in (one(client(httpx2.MockTransport(broken)), "sealed", 0, Prompt("x", 4), "m", Ticking()),):
        with pytest.raises(LoadError, match="ConnectError") as caught:
            asyncio.run(asking)
        assert "secret" not in str(caught.value)
    with pytest.raises(LoadError):
        asyncio.run(empty(client(httpx2.MockTransport(broken)), Ticking()))


def test_a_closed_loop_keeps_its_lanes_full_and_no_fuller() -> None:
    clock = Ticking()
    transport = Answering(clock)
    prompts = [Prompt(f"q{index}", 4) for index in range(7)]
    block = asyncio.run(
        closed_loop(client(transport), "plain", prompts, concurrency=3, model="m", clock=clock)
    )
    assert transport.most == 3
    assert sorted(transport.asked) == [prompt.text for prompt in prompts]
    assert [timing.slot for timing in block.timings] == list(range(7))
    spent = max(t.ended for t in block.timings) - 100.0
    assert metrics.requests_per_s(block) == pytest.approx(7 / spent)


def test_a_failure_ends_a_closed_loop_with_a_named_error() -> None:
    failing = client(httpx2.MockTransport(lambda request: httpx2.Response(500)))
    with pytest.raises(LoadError):
        asyncio.run(
            closed_loop(failing, "p", [Prompt("x", 4)] * 5, concurrency=2, model="m", clock=Ticking())
        )


def test_the_order_balances_drift() -> None:
    order = abba(3)
    assert "".join(letter for letter, _ in order) == "abba" * 3
    for arm in "ab":
        places = [place for place, (letter, _) in enumerate(order) if letter == arm]
        assert sum(places) == sum(range(12)) / 2


def arm(name: ArmName, transport: httpx2.AsyncBaseTransport) -> Arm:
    return Arm(name, client(transport), "m")


def test_a_whole_run_finds_the_cost_that_was_put_in() -> None:
    clock = Ticking()
    plan = Plan(slots=4, max_tokens=4, concurrency=2, block_requests=3, blocks=4, empties=4)
    plain, sealed = Answering(clock, pace=0.25), Answering(clock, pace=0.5)
    steps: set[str] = set()
    samples = asyncio.run(
        measure(arm("plain", plain), arm("sealed", sealed), plan, clock, lambda step, *_: steps.add(step))
    )
    summary = summarise(samples, plan, {"cpu": "test"})
    assert steps == {"empty requests", "one at a time", "closed loop"}
    assert plain.asked == sealed.asked
    by_name = {metric["name"]: metric for metric in summary["metrics"]}
    assert set(by_name) == set(metrics.BY_NAME)
    expected = {"ttft": 2.0, "tpot": 2.0, "end_to_end": 2.0, "output_tokens_per_s": 0.5}
    expected |= {"requests_per_s": 0.5, "empty_request": 2.0}
    for name, cost in expected.items():
        metric = by_name[name]
        assert metric["sealed_over_plain"]["ratio"] == pytest.approx(cost), name
        assert metric["plain_over_plain"]["ratio"] == pytest.approx(1.0), name
        assert metric["verdict"] == "costs"
        assert metric["formula"]
        for value in (metric["plain"], metric["sealed"], metric["sealed_over_plain"]):
            assert value["provenance"] == "measured"
    assert summary["slots_with_differing_answers"] == 0
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_arms_that_answer_differently_are_told() -> None:
    clock = Ticking()
    plan = Plan(slots=2, max_tokens=4, block_requests=2, empties=1)
    samples = asyncio.run(
        measure(
            arm("plain", Answering(clock)),
            arm("sealed", Answering(clock, tokens=3)),
            plan,
            clock,
            lambda *_: None,
        )
    )
    assert summarise(samples, plan, {})["slots_with_differing_answers"] == 2
