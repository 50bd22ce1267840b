"""The load against an application that answers by the clock it is given."""

import asyncio

import httpx2
import pytest
from bench_server import Answering, Ticking

from benchmarks import metrics
from benchmarks.load import LoadError, closed_loop, empty, one, open_loop
from benchmarks.metrics import Objective
from benchmarks.workload import Prompt


def client(transport: httpx2.AsyncBaseTransport) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=transport, base_url="http://node")


def test_times_are_taken_at_the_first_text_the_last_text_and_the_end() -> None:
    clock = Ticking()
    timing = asyncio.run(one(client(Answering(clock)), 3, Prompt("hello", 4), "m", clock))
    assert (timing.sent, timing.first, timing.last, timing.ended) == (100.0, 100.25, 101.0, 101.25)
    assert (timing.slot, timing.prompt_tokens, timing.tokens) == (3, 7, 4)
    assert timing.gaps == (0.25, 0.25, 0.25)
    assert metrics.ttft(timing) == 0.25
    assert metrics.tpot(timing) == pytest.approx(0.25)
    assert metrics.chunk_gap(timing) == pytest.approx(0.25)
    assert metrics.tokens_per_s(timing) == pytest.approx(4 / 1.25)
    assert metrics.end_to_end(timing) == 1.25


def test_a_request_that_was_sent_late_counts_from_when_it_was_due() -> None:
    clock = Ticking()
    timing = asyncio.run(one(client(Answering(clock)), 0, Prompt("hello", 4), "m", clock, intended=90.0))
    assert metrics.ttft(timing) == 10.25
    assert metrics.end_to_end(timing) == 11.25


def test_a_closed_loop_keeps_its_lanes_full_and_no_more() -> None:
    clock = Ticking()
    transport = Answering(clock)
    prompts = [Prompt(f"p{index}", 4) for index in range(7)]
    seen: list[int] = []
    timings = asyncio.run(
        closed_loop(
            client(transport),
            prompts,
            concurrency=3,
            model="m",
            clock=clock,
            answered=lambda timing: seen.append(timing.slot),
        )
    )
    assert transport.most == 3
    assert sorted(transport.asked) == [f"p{index}" for index in range(7)]
    assert [timing.slot for timing in timings] == list(range(7))
    assert sorted(seen) == list(range(7))
    assert metrics.requests_per_s(timings, Objective()) == pytest.approx(7 / metrics.span(timings))
    assert metrics.total_tokens_per_s(timings, Objective()) == pytest.approx(28 / metrics.span(timings))


def test_goodput_counts_what_met_the_objective() -> None:
    clock = Ticking()
    timings = [
        asyncio.run(one(client(Answering(clock)), 0, Prompt("a", 4), "m", clock, i)) for i in (100.0, 95.0)
    ]
    span = metrics.span(timings)
    assert metrics.goodput(timings, Objective(0.5, 0.3)) == pytest.approx(1 / span)
    assert metrics.goodput(timings, Objective(60.0, 0.3)) == pytest.approx(2 / span)
    assert metrics.goodput(timings, Objective(60.0, 0.1)) == 0.0


def test_a_schedule_sends_whatever_is_still_unanswered() -> None:
    clock = Ticking()
    transport = Answering(clock)
    prompts = [Prompt(f"p{index}", 4) for index in range(4)]
    timings = asyncio.run(open_loop(client(transport), prompts, (0.0,) * 4, model="m", clock=clock))
    assert transport.most == 4
    assert {timing.intended for timing in timings} == {100.0}
    with pytest.raises(ValueError, match="time for each"):
        asyncio.run(open_loop(client(transport), prompts, (0.0,), model="m", clock=clock))


@pytest.mark.parametrize("ending", ["[DONE", "{}", "{", '{"choices": 3}'])
def test_an_incomplete_or_broken_stream_is_no_sample(ending: str) -> None:
    clock = Ticking()
    with pytest.raises(LoadError, match=r"incomplete|malformed"):
        asyncio.run(one(client(Answering(clock, ending=ending)), 0, Prompt("a", 4), "m", clock))


def test_an_answer_without_a_count_of_tokens_is_no_sample() -> None:
    clock = Ticking()
    with pytest.raises(LoadError, match="incomplete"):
        asyncio.run(one(client(Answering(clock, tokens=0)), 0, Prompt("a", 4), "m", clock))


def test_a_refusal_stops_the_whole_loop() -> None:
    transport = httpx2.MockTransport(lambda _: httpx2.Response(503))
    with pytest.raises(LoadError, match="503"):
        asyncio.run(
            closed_loop(client(transport), [Prompt("a", 1)] * 5, concurrency=2, model="m", clock=Ticking())
        )


def test_an_empty_request_measures_the_path() -> None:
    clock = Ticking()
    assert asyncio.run(empty(client(Answering(clock)), clock)) == pytest.approx(0.025)
