"""Somebody asks what somebody else may have asked, and looks at how quickly the answer begins.

How much is computed for a prompt says how long it takes, without the noise of a clock; the exhaustive test looks at
the clock, too. The control is a node that keeps what it has computed for whoever asks next.
"""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sealed_node import ROOM, write_tiny_model
from step_rows import planned_rows
from timing_statistics import equivalence_bounds, ks_p_value

from enclave_runtime.engine.engine import Engine
from enclave_runtime.engine.engine_config import EngineConfig
from enclave_runtime.engine.model import load_model
from enclave_runtime.engine.request import GenerationRequest

LENGTH = 192
SAMPLES = 260
DELTA_S = 0.001
"""Two means within this are equal, decided beforehand."""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    config = EngineConfig(max_batch=2, max_queue=2, max_context=ROOM, step_budget=256)
    engine = Engine(load_model(write_tiny_model(tmp_path / "tiny")), config, public_prefix=True)
    engine.start()
    yield engine
    engine.stop()


def prompt(seed: int) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange(2, 250) for _ in range(LENGTH)]


def ask(engine: Engine, tokens: list[int]) -> float:
    """Seconds to the first token."""
    begun = time.perf_counter()
    engine.submit(GenerationRequest(tokens, 1, temperature=0.0)).collect()
    return time.perf_counter() - begun


def keep_for_everybody(engine: Engine, tokens: list[int]) -> None:
    """The defence removed: what a user sent is kept as if everybody knew it."""
    engine.keep_public_prefix(tokens)


def test_what_was_asked_before_is_computed_again_in_full(engine: Engine) -> None:
    ask(engine, prompt(1))
    rows = planned_rows(engine)
    for tokens in (prompt(1), prompt(2), [*prompt(1)[:-1], 3]):
        ask(engine, tokens)
        assert sum(rows) == LENGTH
        rows.clear()


def test_control_where_prompts_are_kept_the_second_to_ask_is_told(engine: Engine) -> None:
    keep_for_everybody(engine, prompt(1))
    rows = planned_rows(engine)
    ask(engine, prompt(1))
    assert sum(rows) < LENGTH / 2


def test_a_public_prefix_helps_everybody_alike_and_learns_nothing(engine: Engine) -> None:
    """Whoever asks second computes as much as who asked first; only what is measured is kept."""
    public = prompt(9)[:64]
    engine.keep_public_prefix(public)
    rows = planned_rows(engine)
    for _ in range(2):
        ask(engine, [*public, *prompt(3)[:100]])
        assert sum(rows) == 100
        rows.clear()


@pytest.mark.exhaustive
def test_the_clock_does_not_tell_what_was_asked_before(engine: Engine) -> None:
    """Audit of prompt caching: ≥ 250 samples an arm in random order, a difference test and an equivalence test.

    Two-sample Kolmogorov-Smirnov for a difference; two one-sided tests for a mean within DELTA_S; the control's
    difference must be beyond doubt (p < 1e-8).
    """
    known = prompt(1)
    for _ in range(20):
        ask(engine, known)
    before, new = _arms(engine, known)
    assert ks_p_value(before, new) > 0.001
    low, high = equivalence_bounds(before, new)
    assert low > -DELTA_S
    assert high < DELTA_S
    keep_for_everybody(engine, known)
    kept, fresh = _arms(engine, known)
    assert ks_p_value(kept, fresh) < 1e-8


def _arms(engine: Engine, known: list[int]) -> tuple[list[float], list[float]]:
    chance = random.Random(7)
    times: dict[bool, list[float]] = {True: [], False: []}
    order = [True, False] * SAMPLES
    chance.shuffle(order)
    for number, again in enumerate(order):
        times[again].append(ask(engine, known if again else prompt(1000 + number)))
    return times[True], times[False]


def test_the_statistics_find_what_is_there_and_nothing_else() -> None:
    chance = random.Random(3)
    same = [[chance.gauss(5, 1) for _ in range(SAMPLES)] for _ in range(2)]
    assert ks_p_value(*same) > 0.01
    assert ks_p_value(same[0], [value + 2 for value in same[1]]) < 1e-8
    low, high = equivalence_bounds(*same)
    assert low < 0 < high or abs(low + high) < 0.5
