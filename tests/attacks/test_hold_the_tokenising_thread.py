"""Somebody sends prompts of a megabyte, which all take their turn on the one thread that counts tokens."""

import asyncio
from pathlib import Path

import pytest
from sealed_node import ROOM, write_tiny_model

from enclave_runtime.admission import AdmissionLimits
from enclave_runtime.completions import EngineCompletions
from enclave_runtime.engine.engine import Engine
from enclave_runtime.engine.engine_config import EngineConfig
from enclave_runtime.engine.model import load_model
from enclave_runtime.openai_requests import CompletionRequest, RequestRefused
from enclave_runtime.standing_thread import StandingThread


class Counting(StandingThread):
    """The tokenising thread, and how often it was given work."""

    worked = 0

    async def run(self, work):
        self.worked += 1
        return await super().run(work)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory):
    model = write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
    config = EngineConfig(max_batch=2, max_queue=2, max_context=ROOM, step_budget=80)
    engine = Engine(load_model(Path(model)), config)
    engine.start()
    yield engine
    engine.stop()


def refusal_and_work(engine: Engine, prompt: str, limits: AdmissionLimits) -> tuple[str, int]:
    thread = Counting("prompts")
    completions = EngineCompletions(engine, "tiny", thread, limits)
    asked = CompletionRequest(model="tiny", prompt=prompt, max_tokens=1)
    try:
        with pytest.raises(RequestRefused) as caught:
            asyncio.run(completions.complete(asked))
    finally:
        thread.stop()
    return caught.value.code, thread.worked


@pytest.mark.parametrize("prompt", ["a" * 400_000, "é" * 200_000, "\U0001f980" * 3000])
def test_a_prompt_that_cannot_fit_is_refused_before_its_tokens_are_counted(
    engine: Engine, prompt: str
) -> None:
    assert refusal_and_work(engine, prompt, AdmissionLimits()) == ("context_length_exceeded", 0)


def test_control_with_a_limit_beyond_it_the_thread_counts_them(engine: Engine) -> None:
    limits = AdmissionLimits(bytes_per_token=64)
    assert refusal_and_work(engine, "a" * (ROOM * 60), limits) == ("context_length_exceeded", 1)


def test_an_answer_that_takes_too_long_ends_by_name_and_frees_its_place(engine: Engine) -> None:
    """Control: the same request within the time is answered."""

    async def answered(limits: AdmissionLimits) -> int:
        thread = StandingThread("prompts")
        completions = EngineCompletions(engine, "tiny", thread, limits)
        try:
            asked = CompletionRequest(model="tiny", prompt="a", max_tokens=4, ignore_eos=True)
            generation, _ = await completions.complete(asked)
            return sum([piece.token_count async for piece in generation.pieces()])
        finally:
            thread.stop()

    assert asyncio.run(answered(AdmissionLimits())) == 4
    step = engine.model.decoder.step

    def slow_step(*arguments):
        import time

        time.sleep(0.5)
        return step(*arguments)

    engine.model.decoder.step = slow_step  # type: ignore[method-assign]
    try:
        with pytest.raises(RequestRefused) as caught:
            asyncio.run(answered(AdmissionLimits(request_s=1)))
        assert caught.value.code == "time_limit"
    finally:
        engine.model.decoder.step = step  # type: ignore[method-assign]
    assert asyncio.run(answered(AdmissionLimits())) == 4
    assert engine.stats().running == 0
