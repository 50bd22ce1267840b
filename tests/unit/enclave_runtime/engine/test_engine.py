"""The engine: many requests at once, each alone; every end clears its memory; nothing new after warming up."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enclave_runtime.engine.decoder import Span
from enclave_runtime.engine.engine import Engine
from enclave_runtime.engine.engine_config import EngineConfig
from enclave_runtime.engine.errors import (
    EngineError,
    EngineFault,
    EngineStopped,
    InvalidRequest,
    PageOwnershipError,
    PromptTooLong,
    QueueFull,
)
from enclave_runtime.engine.generation import Piece
from enclave_runtime.engine.model import LoadedModel
from enclave_runtime.engine.request import GenerationRequest

MakeEngine = Callable[..., Engine]


def prompt(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(3, 259, length).tolist()  # type: ignore[no-any-return]


def request(length: int = 10, max_tokens: int | None = 12, **settings: Any) -> GenerationRequest:
    return GenerationRequest(prompt(length), max_tokens, **({"seed": 4} | settings))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "the engine did not get there in 20 s"
        time.sleep(0.001)


def idle(engine: Engine) -> bool:
    stats = engine.stats()
    return stats.waiting == stats.running == 0 and stats.free_pages == stats.total_pages


class Slow:
    """Makes every step of an engine's decoder wait for permission; ``steps`` counts those begun."""

    def __init__(self, engine: Engine) -> None:
        self.steps = 0
        self.gate = threading.Semaphore(0)
        step = engine.model.decoder.step

        def waiting_step(*arguments: Any) -> np.ndarray:
            self.steps += 1
            self.gate.acquire()
            return step(*arguments)

        engine.model.decoder.step = waiting_step  # type: ignore

    def allow(self, steps: int = 1_000_000) -> None:
        self.gate.release(steps)


def test_answers_are_the_same_alone_and_among_others(make_engine: MakeEngine) -> None:
    engine = make_engine()
    requests = [
        GenerationRequest(prompt(length, seed=length), 30, temperature=0.8, top_p=0.95, seed=length)
        for length in (1, 5, 63, 64, 65, 130, 7, 90)
    ]
    alone = [engine.submit(request).collect() for request in requests]
    together = [generation.collect() for generation in [engine.submit(request) for request in requests]]
    assert alone == together
    assert all(piece.token_count >= 1 for piece in alone)
    assert idle(engine)


def test_greedy_answers_follow_the_largest_logit(make_engine: MakeEngine) -> None:
    engine = make_engine()
    found = engine.submit(request(20, 10, temperature=0.0)).collect()
    decoder, pool, tokens = engine.model.decoder, engine.model.decoder.new_pool(4, 16), prompt(20)
    table = pool.allocate(1, 40)
    text = []
    logits = decoder.step([Span(np.array(tokens), 0, table, True)], pool)
    for position in range(20, 30):
        token = int(logits[0].argmax())
        if token in engine.model.tokenizer.end_ids:
            break
        text.append(token)
        logits = decoder.step([Span(np.array([token]), position, table, True)], pool)
    assert found.text == engine.model.tokenizer.decode(text)


def test_counts_and_reasons(make_engine: MakeEngine) -> None:
    engine = make_engine()
    generation = engine.submit(request(250, 500, ignore_eos=True))
    assert (generation.prompt_tokens, generation.max_tokens) == (250, 6)
    piece = generation.collect()
    assert (piece.token_count, piece.finish_reason) == (6, "length")
    whole = engine.submit(request(10, 40)).collect()
    stop = whole.text[5:8]
    stopped = engine.submit(request(10, 40, stop=("no such text", stop))).collect()
    assert stopped.finish_reason == "stop"
    assert stopped.text == whole.text[: whole.text.index(stop)]
    stats = engine.stats()
    assert (stats.finished, stats.prompt_tokens) == (3, 270)
    assert stats.generated_tokens == piece.token_count + whole.token_count + stopped.token_count


def test_an_end_token_ends_the_answer(make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine()
    whole = engine.submit(request(10, 40)).collect()
    first = engine.model.tokenizer.encode(whole.text)[0]
    monkeypatch.setattr(engine.model.tokenizer, "end_ids", frozenset([first]))
    assert engine.submit(request(10, 40)).collect() == Piece("", 1, "stop")


def test_an_answer_of_forced_length_goes_on_after_end_tokens(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()
    monkeypatch.setattr(engine.model.tokenizer, "end_ids", frozenset(range(engine.model.config.vocab_size)))
    assert engine.submit(request(10, 30)).collect().token_count == 1
    forced = engine.submit(request(10, 30, ignore_eos=True)).collect()
    assert (forced.token_count, forced.finish_reason) == (30, "length")


@pytest.mark.parametrize(
    "settings",
    [
        {"max_tokens": 0},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"seed": 1 << 64},
        {"stop": ("",)},
        {"stop": ("x" * 300,)},
        {"stop": ("x",) * 17},
        {"prompt_tokens": []},
        {"prompt_tokens": [-1]},
        {"prompt_tokens": [264]},
    ],
)
def test_settings_out_of_range_are_refused(make_engine: MakeEngine, settings: dict[str, Any]) -> None:
    engine = make_engine()
    with pytest.raises(InvalidRequest):
        engine.submit(GenerationRequest(**({"prompt_tokens": [5]} | settings)))
    assert engine.stats().refused == 1


def test_a_prompt_that_fills_the_context_is_refused_by_its_length(make_engine: MakeEngine) -> None:
    engine = make_engine()
    with pytest.raises(PromptTooLong) as caught:
        engine.submit(request(256))
    assert (caught.value.expected, caught.value.found) == (255, 256)
    assert engine.submit(request(255)).collect().token_count == 1


def test_a_small_queue_refuses_the_rest_and_serves_the_first(make_engine: MakeEngine) -> None:
    engine = make_engine(max_batch=2, max_queue=3)
    slow = Slow(engine)
    running = [engine.submit(request(seed=n)) for n in range(2)]
    wait_until(lambda: engine.stats().running == 2 or slow.steps == 1)
    generations, refused = list(running), 0
    for number in range(1000):
        try:
            generations.append(engine.submit(request(seed=number)))
        except QueueFull:
            refused += 1
    assert refused >= 995
    assert engine.stats().refused == refused
    slow.allow()
    assert all(generation.collect().token_count >= 1 for generation in generations)
    assert idle(engine)


def test_first_come_first_served(make_engine: MakeEngine) -> None:
    engine = make_engine(max_batch=1)
    slow = Slow(engine)
    ends: list[int] = []
    generations = [engine.submit(request(seed=n)) for n in range(5)]

    def read(number: int) -> None:
        generations[number].collect()
        ends.append(number)

    readers = [threading.Thread(target=read, args=(number,)) for number in range(5)]
    for reader in readers:
        reader.start()
    for _ in range(5 * 14):
        slow.allow(1)
        time.sleep(0.002)
    slow.allow()
    for reader in readers:
        reader.join(20)
    assert ends == sorted(ends) == list(range(5))


def test_a_long_prompt_does_not_hold_up_a_running_answer(make_engine: MakeEngine) -> None:
    engine = make_engine(max_batch=2, step_budget=66)
    seen: list[list[tuple[int, int]]] = []
    step = engine.model.decoder.step

    def recording(spans: Any, pool: Any) -> np.ndarray:
        seen.append([(span.start, len(span.tokens)) for span in spans])
        return step(spans, pool)

    slow = Slow(engine)
    engine.model.decoder.step = recording  # type: ignore
    slow.allow()
    answering = engine.submit(request(3, 200, stop=()))
    wait_until(lambda: len(seen) >= 2)
    long = engine.submit(request(250, 2))
    long.collect()
    answering.collect()
    assert all(sum(count for _, count in spans) <= 66 for spans in seen)
    cuts = [part for spans in seen for part in spans if part[1] > 3]
    assert cuts == [(0, 64), (64, 64), (128, 64), (192, 58)]
    assert all(len(spans) == 2 for spans in seen if any(count > 3 for _, count in spans))


@pytest.mark.parametrize("after", [1, 2, 6], ids=["mid prompt", "late prompt", "mid answer"])
def test_cancelling_frees_and_clears_at_once(make_engine: MakeEngine, after: int) -> None:
    engine = make_engine(step_budget=68)
    slow = Slow(engine)
    generation = engine.submit(request(200, 50))
    slow.allow(after)
    wait_until(lambda: slow.steps == after + 1)
    sequence = engine._scheduler.running[0]
    assert bool(engine.pool.storage.any())
    assert sequence.tokens.any()
    generation.cancel()
    slow.allow(1)  # the step that is under way ends; no other begins
    wait_until(lambda: idle(engine))
    assert slow.steps == after + 1
    assert not bool(engine.pool.storage.any())
    assert not sequence.tokens.any()
    piece = generation.collect()
    assert piece.finish_reason == "cancelled"
    assert engine.stats().cancelled == 1


def test_memory_is_clear_before_the_reader_hears_of_the_end(make_engine: MakeEngine) -> None:
    engine = make_engine()
    slow = Slow(engine)
    generation = engine.submit(request(40, 5))
    left_over: list[bool] = []
    put = generation._mailbox.put

    def watching(text: str, count: int, reason: str | None = None, *rest: Any) -> None:
        left_over.append(bool(engine.pool.storage.any()))
        put(text, count, reason, *rest)

    generation._mailbox.put = watching  # type: ignore
    slow.allow()
    assert generation.collect().token_count == len(left_over)
    assert left_over == [True] * (len(left_over) - 1) + [False]


def test_a_waiting_request_can_be_cancelled(make_engine: MakeEngine) -> None:
    engine = make_engine(max_batch=1)
    slow = Slow(engine)
    running, waiting = engine.submit(request(max_tokens=3)), engine.submit(request())
    wait_until(lambda: slow.steps == 1)
    waiting.cancel()
    slow.allow()
    assert waiting.collect().finish_reason == "cancelled"
    assert running.collect().finish_reason in ("length", "stop")


def test_dropping_an_answer_cancels_it(make_engine: MakeEngine) -> None:
    engine = make_engine()
    slow = Slow(engine)
    generation = engine.submit(request(10, 200))
    wait_until(lambda: slow.steps == 1)
    del generation
    gc.collect()
    slow.allow()
    wait_until(lambda: idle(engine))
    assert engine.stats().cancelled == 1


def test_pieces_can_be_read_from_several_event_loops_at_once(make_engine: MakeEngine) -> None:
    engine = make_engine()
    expected = [engine.submit(request(10, 30, seed=seed)).collect() for seed in range(6)]
    found: dict[int, Piece] = {}

    async def read(seed: int) -> None:
        text, count, reason = "", 0, None
        async for piece in engine.submit(request(10, 30, seed=seed)).pieces():
            assert reason is None
            text, count, reason = text + piece.text, count + piece.token_count, piece.finish_reason
        found[seed] = Piece(text, count, reason)

    async def read_two(first: int) -> None:
        await asyncio.gather(read(first), read(first + 1))

    threads = [threading.Thread(target=asyncio.run, args=(read_two(first),)) for first in (0, 2, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [found[seed] for seed in range(6)] == expected


def test_closing_the_iterator_cancels(make_engine: MakeEngine) -> None:
    engine = make_engine()
    slow = Slow(engine)
    slow.allow(20)  # enough for a piece, and not for the whole answer before it is given up

    async def read_one_piece() -> None:
        pieces = engine.submit(request(10, 200, ignore_eos=True)).pieces()
        async for _ in pieces:
            break
        await pieces.aclose()

    asyncio.run(read_one_piece())
    slow.allow()
    wait_until(lambda: idle(engine))
    assert engine.stats().cancelled == 1


def test_the_engine_goes_on_when_a_reader_and_its_loop_vanish(make_engine: MakeEngine) -> None:
    engine = make_engine()
    slow = Slow(engine)
    loop = asyncio.new_event_loop()
    pieces = engine.submit(request(10, 200)).pieces()
    reading = loop.create_task(pieces.__anext__())
    loop.run_until_complete(asyncio.sleep(0.01))
    reading.cancel()
    loop.run_until_complete(asyncio.gather(reading, return_exceptions=True))
    loop.close()
    slow.allow()
    assert engine.submit(request()).collect().token_count >= 1
    wait_until(lambda: idle(engine))


def test_an_answer_is_read_once(make_engine: MakeEngine) -> None:
    generation = make_engine().submit(request())
    generation.collect()
    with pytest.raises(EngineError, match="already_read"):
        generation.collect()


def test_stopping_ends_every_request_and_clears_everything(make_engine: MakeEngine) -> None:
    engine = make_engine(max_batch=2)
    slow = Slow(engine)
    generations = [engine.submit(request(10, 200)) for _ in range(4)]
    wait_until(lambda: slow.steps == 1)
    stopper = threading.Thread(target=engine.stop)
    stopper.start()
    slow.allow()
    stopper.join(20)
    for generation in generations:
        with pytest.raises(EngineStopped):
            generation.collect()
    assert idle(engine)
    assert not bool(engine.pool.storage.any())
    assert not engine.alive
    with pytest.raises(EngineStopped):
        engine.submit(request())


@pytest.mark.parametrize("failure", [RuntimeError("out of memory"), MemoryError()])
def test_a_failed_step_ends_its_requests_only(make_engine: MakeEngine, failure: Exception) -> None:
    engine = make_engine()
    step = engine.model.decoder.step

    def failing(spans: Any, pool: Any) -> np.ndarray:
        logits = step(spans, pool)
        if any(span.start > 12 for span in spans):
            raise failure
        return logits

    engine.model.decoder.step = failing  # type: ignore
    with pytest.raises(EngineFault) as caught:
        engine.submit(request(10, 50)).collect()
    assert "memory" not in str(caught.value)
    wait_until(lambda: idle(engine))
    assert not bool(engine.pool.storage.any())
    assert engine.submit(request(10, 3)).collect().token_count == 3
    assert engine.stats().faults == 1


def test_logits_that_are_no_numbers_are_never_sampled(make_engine: MakeEngine) -> None:
    engine = make_engine()
    step = engine.model.decoder.step
    engine.model.decoder.step = lambda *arguments: step(*arguments) * float("nan")  # type: ignore
    with pytest.raises(EngineFault):
        engine.submit(request()).collect()


def test_broken_page_ownership_ends_the_engine(make_engine: MakeEngine) -> None:
    engine = make_engine()
    slow = Slow(engine)
    generations = [engine.submit(request(10, 50)) for _ in range(2)]
    slow.allow(3)
    wait_until(lambda: slow.steps == 4)
    first, second = engine._scheduler.running
    assert first.table is not None
    assert second.table is not None
    second.table.pages[0] = first.table.pages[0]
    with pytest.raises(PageOwnershipError):
        engine.pool.check(second.table)
    slow.allow()
    for generation in generations:
        with pytest.raises(EngineFault):
            generation.collect()
    assert not bool(engine.pool.storage.any())
    assert not engine.alive
    with pytest.raises(EngineStopped):
        engine.submit(request())


def test_no_prompt_shows_in_a_representation(make_engine: MakeEngine) -> None:
    sent = GenerationRequest([41, 42, 43], 5, stop=("a secret end",))
    assert "42" not in repr(sent)
    assert "secret" not in repr(sent)
    assert "x" not in repr(Piece("xxx", 1, None)).replace("text", "")


def test_a_budget_that_could_starve_prompts_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        EngineConfig(max_batch=8, step_budget=71)
    with pytest.raises(InvalidRequest):
        EngineConfig(threads=0)
    assert EngineConfig().manifest() == {
        "max_batch": 8,
        "max_queue": 64,
        "max_context": 2048,
        "page_tokens": 16,
        "step_budget": 256,
        "threads": 2,
        "speculate": 0,
    }


def test_an_engine_that_was_not_started_refuses(tiny_model: LoadedModel) -> None:
    with pytest.raises(EngineStopped):
        Engine(tiny_model, EngineConfig(max_context=64)).submit(request())


_NOTHING_NEW = """
import os, sys
from pathlib import Path
from enclave_runtime.engine.engine import Engine
from enclave_runtime.engine.engine_config import EngineConfig
from enclave_runtime.engine.request import GenerationRequest
from enclave_runtime.engine.model import load_model

def mapped():
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split(None, 5)[5] for line in lines if len(line.split(None, 5)) == 6 and "/" in line}

engine = Engine(load_model(Path(sys.argv[1])), EngineConfig(max_context=500, threads=int(sys.argv[2])))
engine.start()
engine.warm_up()
before = set(os.listdir("/proc/self/task")), set(sys.modules), mapped()
files = len(os.listdir("/proc/self/fd"))
opened = []
sys.addaudithook(lambda event, _: opened.append(event) if event in ("open", "import", "exec", "compile") else None)
text = engine.model.chat_template.render([{"role": "user", "content": "the cat"}])
tokens = engine.model.tokenizer.encode(text)
answers = [
    engine.submit(GenerationRequest((tokens * 40)[:length], 30, temperature=heat, top_p=0.9, stop=("zz",)))
    for length, heat in ((1, 0.0), (3, 1.0), (64, 1.5), (65, 0.2), (300, 0.0), (7, 1.0), (450, 1.0), (9, 1.0))
    for _ in range(3)
]
for answer in answers:
    answer.collect()
assert not opened, opened
assert before == (set(os.listdir("/proc/self/task")), set(sys.modules), mapped())
print("nothing new")
"""


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_nothing_is_started_opened_or_imported_after_warming_up(tiny_folder: Path, threads: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _NOTHING_NEW, str(tiny_folder), str(threads)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.stdout.split("\n")[0] == "nothing new", done.stderr


def test_leaving_without_stopping_ends_quietly(tiny_folder: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from enclave_runtime.engine.engine import Engine, EngineConfig, GenerationRequest\n"
        "from enclave_runtime.engine.model import load_model\n"
        "engine = Engine(load_model(Path(sys.argv[1])), EngineConfig()); engine.start()\n"
        "generation = engine.submit(GenerationRequest([5], 500))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tiny_folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
