"""Sampling: as likely as the model says, the same for the same seed."""

import pytest
import torch

from enclave_runtime.engine.sampling import Sampler


def draws(
    logits: torch.Tensor, count: int, *, top_p: float = 1.0, seed: int = 0, temperature: float = 1.0
) -> list[int]:
    sampler = Sampler(temperature=temperature, top_p=top_p, seed=seed)
    return [sampler.pick(logits) for _ in range(count)]


def test_zero_temperature_takes_the_likeliest() -> None:
    assert draws(torch.tensor([0.0, 3.0, 2.9]), 5, temperature=0.0) == [1] * 5


def test_a_seed_fixes_the_choices_and_another_changes_them() -> None:
    logits = torch.randn(500, generator=torch.Generator().manual_seed(1))
    assert draws(logits, 50, seed=-7) == draws(logits, 50, seed=-7) != draws(logits, 50, seed=8)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_those_of_the_softmax(temperature: float) -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    found = torch.bincount(torch.tensor(draws(logits, 8000, temperature=temperature)), minlength=4) / 8000
    assert torch.allclose(found, torch.softmax(logits / temperature, 0), atol=0.02)


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logits = torch.log(torch.tensor([0.1, 0.5, 0.05, 0.35]))
    assert set(draws(logits, 300, top_p=0.49)) == {1}
    assert set(draws(logits, 300, top_p=0.6)) == {1, 3}
    assert set(draws(logits, 300, top_p=0.9)) == {0, 1, 3}
    assert set(draws(logits, 300, top_p=1e-9)) == {1}


def test_a_flat_distribution_reaches_beyond_the_likeliest_thousand() -> None:
    found = draws(torch.zeros(20_000), 300, top_p=0.99)
    assert len(set(found)) > 250
    assert max(found) < 20_000


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([3e38, -3e38, 0.0])
    for temperature in (1e-30, 1.0, 100.0):
        assert set(draws(logits, 20, temperature=temperature)) == {0}
