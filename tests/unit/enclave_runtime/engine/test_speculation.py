"""Guesses change how many steps an answer takes and nothing else; a public prefix changes what is computed, not what
comes out.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from step_rows import planned_rows, step_rows

from enclave_runtime.engine.engine import Engine
from enclave_runtime.engine.engine_config import EngineConfig
from enclave_runtime.engine.errors import InvalidRequest, PromptTooLong
from enclave_runtime.engine.request import GenerationRequest
from enclave_runtime.engine.speculate import MAX_GUESSES, guesses

MakeEngine = Callable[..., Engine]

REPEATING = [*range(40, 60)] * 5
REQUESTS = [
    GenerationRequest(REPEATING, 60, temperature=0.0),
    GenerationRequest(REPEATING[:70], 50, temperature=0.9, top_p=0.9, seed=4, ignore_eos=True),
    GenerationRequest(REPEATING[:33], 40, temperature=0.3, seed=5, stop=("zz",)),
    GenerationRequest([7, 8, 9], 30, temperature=0.0, ignore_eos=True),
    GenerationRequest(REPEATING[:64], 2, temperature=0.0),
]


@pytest.mark.parametrize("speculate", [1, 4, MAX_GUESSES])
def test_answers_are_the_same_with_and_without_guesses(make_engine: MakeEngine, speculate: int) -> None:
    plain, guessing = make_engine(), make_engine(speculate=speculate)
    expected = [plain.submit(request).collect() for request in REQUESTS]
    assert [guessing.submit(request).collect() for request in REQUESTS] == expected
    together = [generation.collect() for generation in [guessing.submit(request) for request in REQUESTS]]
    assert together == expected
    stats = guessing.stats()
    assert stats.free_pages == stats.total_pages
    assert not bool(guessing.pool.storage.any())


def counting_up(engine: Engine) -> None:
    """Have the engine's model answer 40, 41, 42, 43, 44, 40, 41 … whatever it is asked."""
    step = engine.model.decoder.step

    def biased(spans: Any, pool: Any) -> Any:
        logits = step(spans, pool).copy()
        for row, span in enumerate(span for span in spans if span.wants_logits):
            logits[row, 40 + (int(span.tokens[-1]) - 39) % 5] = 1000.0
        return logits

    engine.model.decoder.step = biased  # type: ignore[method-assign]


def test_guesses_that_come_true_save_steps(make_engine: MakeEngine) -> None:
    plain, guessing = make_engine(), make_engine(speculate=4)
    request = GenerationRequest([7, 8, 40], 100, temperature=0.7, seed=1, ignore_eos=True)
    for engine in (plain, guessing):
        counting_up(engine)
    without, with_guesses = step_rows(plain.model.decoder), step_rows(guessing.model.decoder)
    assert plain.submit(request).collect() == guessing.submit(request).collect()
    assert len(without) == 100
    assert len(with_guesses) < 30


def test_guesses_keep_to_the_budget_of_a_step(make_engine: MakeEngine) -> None:
    guessing = make_engine(speculate=MAX_GUESSES, max_batch=4, step_budget=68)
    largest = step_rows(guessing.model.decoder)
    for generation in [guessing.submit(REQUESTS[1]) for _ in range(8)]:
        generation.collect()
    assert max(largest) <= 68


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(0, 6))
def test_a_guess_is_what_followed_the_same_tokens_before(tokens: list[int], most: int) -> None:
    found = guesses(np.array(tokens, dtype=np.int64), most).tolist()
    assert len(found) <= most
    if found:
        places = [
            at + length
            for length in (2, 3, 4)
            for at in range(len(tokens) - length)
            if tokens[at : at + length] == tokens[-length:]
        ]
        assert any(tokens[at : at + len(found)] == found for at in places)


@pytest.mark.parametrize("value", [-1, MAX_GUESSES + 1, True, 1.0])
def test_other_settings_are_refused(value: Any) -> None:
    with pytest.raises(InvalidRequest):
        EngineConfig(speculate=value)


def test_a_public_prefix_changes_no_answer(make_engine: MakeEngine, tiny_model: Any) -> None:
    plain = make_engine()
    expected = [plain.submit(request).collect() for request in REQUESTS]
    helped = Engine(plain.model, plain.config, public_prefix=True)
    helped.start()
    try:
        assert helped.keep_public_prefix(REPEATING) == 64
        computed = step_rows(helped.model.decoder)
        assert [helped.submit(request).collect() for request in REQUESTS] == expected
        assert computed
        stats = helped.stats()
        assert stats.total_pages - stats.free_pages == 4, "the prefix's own pages"
        with pytest.raises(PromptTooLong):
            helped.keep_public_prefix(REPEATING * 4)
        assert helped.keep_public_prefix(REPEATING[:10]) == 0
    finally:
        helped.stop()


def test_a_prompt_that_begins_with_the_public_prefix_computes_less(make_engine: MakeEngine) -> None:
    engine = make_engine()
    rows = planned_rows(engine)
    request = GenerationRequest(REPEATING[:80], 1)
    engine.submit(request).collect()
    assert sum(rows) == 80
    rows.clear()
    engine.keep_public_prefix(REPEATING)
    engine.submit(request).collect()
    assert sum(rows) == 16
    rows.clear()
    engine.submit(GenerationRequest([3, *REPEATING[:79]], 1)).collect()
    assert sum(rows) == 80
