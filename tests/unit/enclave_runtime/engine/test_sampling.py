"""Sampling: as likely as the model says, the same for the same seed, filtered and penalised as asked."""

import json
from typing import Any

import numpy as np
import pytest

from enclave_runtime.engine.constraint import MAX_SCHEMA_BYTES, ConstraintCompiler
from enclave_runtime.engine.errors import EngineFault, InvalidRequest
from enclave_runtime.engine.model import LoadedModel
from enclave_runtime.engine.sampling import Sampler, SamplingSettings

NONE = np.empty(0, dtype=np.int64)


def floats(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def normal(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def draws(logits: np.ndarray, count: int, *, seed: int = 0, **settings: Any) -> list[int]:
    sampler = Sampler(SamplingSettings(**settings), seed)
    return [sampler.pick(logits, np.zeros(position, dtype=np.int64), position) for position in range(count)]


def test_zero_temperature_takes_the_likeliest() -> None:
    assert draws(floats(0.0, 3.0, 2.9), 5, temperature=0.0) == [1] * 5


def test_a_seed_fixes_the_choices_and_another_changes_them() -> None:
    logits = normal(1, 500)
    assert draws(logits, 50, seed=-7) == draws(logits, 50, seed=-7) != draws(logits, 50, seed=8)


def test_a_choice_depends_on_its_position_and_not_on_those_before() -> None:
    logits = normal(1, 500)
    sampler = Sampler(SamplingSettings(), 5)
    assert sampler.pick(logits, np.zeros(30, dtype=np.int64), 0) == draws(logits, 31, seed=5)[30]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_those_of_the_softmax(temperature: float) -> None:
    logits = floats(2.0, 1.0, 0.0, -1.0)
    found = np.bincount(draws(logits, 8000, temperature=temperature), minlength=4) / 8000
    weights = np.exp(logits / temperature)
    assert np.allclose(found, weights / weights.sum(), atol=0.02)


@pytest.mark.parametrize("spread", [0.0, 1.0, 6.0])
def test_looking_closely_at_few_tokens_misses_none(spread: float) -> None:
    logits = normal(3, 20_000) * np.float32(spread)
    sampler, scores = Sampler(SamplingSettings(), 9), logits.astype(np.float64)
    for position in range(40):
        bits = np.random.Philox(key=9, counter=position << 128).random_raw(20_000)
        uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        whole = int(np.argmax(scores - scores.max() - np.log(-np.log(uniform))))
        assert sampler.pick(logits, np.zeros(position, dtype=np.int64), position) == whole


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logits = np.log(floats(0.1, 0.5, 0.05, 0.35))
    assert set(draws(logits, 300, top_p=0.49)) == {1}
    assert set(draws(logits, 300, top_p=0.6)) == {1, 3}
    assert set(draws(logits, 300, top_p=0.9)) == {0, 1, 3}
    assert set(draws(logits, 300, top_p=1e-9)) == {1}


def test_top_k_and_min_p_keep_what_they_say() -> None:
    logits = np.log(floats(0.1, 0.5, 0.05, 0.35))
    assert set(draws(logits, 300, top_k=1)) == {1}
    assert set(draws(logits, 300, top_k=2)) == {1, 3}
    assert set(draws(logits, 300, min_p=0.15)) == {0, 1, 3}
    assert set(draws(logits, 300, min_p=1.0)) == {1}
    assert set(draws(logits, 300, top_k=3, top_p=0.5)) == {1}
    flat = draws(floats(*[0.0] * 5000), 400, min_p=0.5)
    assert max(flat) > 4000


def test_a_flat_distribution_reaches_beyond_the_likeliest_thousand() -> None:
    found = draws(floats(*[0.0] * 20_000), 300, top_p=0.99)
    assert len(set(found)) > 250
    assert 10_000 < max(found) < 20_000


def test_extreme_logits_stay_finite() -> None:
    logits = floats(3e38, -3e38, 0.0)
    for temperature in (1e-30, 1.0, 100.0):
        assert set(draws(logits, 20, temperature=temperature)) == {0}


def test_penalties() -> None:
    logits, seen = floats(2.0, 1.9, -1.0, -1.1), np.array([0, 2, 0, 0])

    def greedy(allowed: list[int], prompt_length: int, **penalty: float) -> int:
        mask = np.isin(np.arange(4), allowed)
        return Sampler(SamplingSettings(temperature=0.0, **penalty), 0).pick(
            logits, seen, prompt_length, mask
        )

    assert greedy([0, 1], 4, repetition_penalty=1.2) == 1  # 2.0 / 1.2
    assert greedy([2, 3], 4, repetition_penalty=1.2) == 3  # -1.0 * 1.2
    assert greedy([0, 1], 4, presence_penalty=0.2) == 0  # all of it is prompt
    assert greedy([0, 1], 0, presence_penalty=0.2) == 1
    assert greedy([0, 1], 2, frequency_penalty=0.06) == 1  # twice in the answer
    assert greedy([0, 1], 3, frequency_penalty=0.06) == 0  # once


def test_logprobs_are_those_of_the_plain_softmax() -> None:
    logits = normal(2, 300)
    expected = logits - np.log(np.exp(logits.astype(np.float64)).sum())
    found = Sampler(SamplingSettings(temperature=0.3, top_k=3, top_logprobs=5), 0).logprobs(logits, 17)
    assert found is not None
    assert found.logprob == pytest.approx(float(expected[17]))
    assert [token for token, _ in found.top] == np.argsort(-expected)[:5].tolist()
    assert Sampler(SamplingSettings(), 0).logprobs(logits, 17) is None


def test_a_mask_that_allows_nothing_is_a_fault() -> None:
    with pytest.raises(EngineFault):
        Sampler(SamplingSettings(), 0).pick(floats(0, 0, 0, 0), NONE, 0, np.zeros(4, dtype=np.bool_))


@pytest.fixture(scope="module")
def compiler(tiny_model: LoadedModel) -> ConstraintCompiler:
    pytest.importorskip("llguidance")
    return ConstraintCompiler(tiny_model.tokenizer, tiny_model.config.vocab_size)


SCHEMA = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "green"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["colour", "count"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("seed", range(12))
def test_any_path_through_the_mask_is_json_of_the_schema(
    compiler: ConstraintCompiler, tiny_model: LoadedModel, seed: int
) -> None:
    constraint, generator, tokens = compiler.compile(json.dumps(SCHEMA)), np.random.default_rng(seed), []
    for _ in range(200):
        token = int(generator.choice(np.flatnonzero(constraint.mask())))
        tokens.append(token)
        if constraint.accept(token):
            break
    found = json.loads(tiny_model.tokenizer.decode(tokens))
    assert set(found) == {"colour", "count"}
    assert found["colour"] in ("red", "green")
    assert 0 <= found["count"] <= 99


@pytest.mark.parametrize(
    "schema",
    ["", "[]", "{", '{"type": 1}', '{"type": "no such"}', '{"$ref": "https://example.org/x"}', '{"not": {}}',
     "[" * 100_000, '{"x": "' + "y" * MAX_SCHEMA_BYTES + '"}', '{"properties": []}', '{"enum": []}'],
)  # fmt: skip
def test_what_is_no_usable_schema_is_refused_without_its_words(
    compiler: ConstraintCompiler, schema: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        compiler.compile(schema)
    assert "example" not in str(refused.value)
