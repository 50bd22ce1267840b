"""Intervals that cover what they should, and equivalence that is shown, not assumed."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.statistics import effect, equivalent, median, percentile_ratio, quantile

SAMPLE = st.floats(min_value=1e-6, max_value=1e6)


def experiment(seed: int, *, boots: int, pairs: int, between: float, within: float, truth: float) -> list:
    """Paired samples of arms with luck of their own for each boot and each request."""
    source = np.random.default_rng(seed)
    found = []
    for _ in range(boots):
        first = np.exp(source.normal(0, between) + source.normal(0, within, pairs))
        second = truth * np.exp(source.normal(0, between) + source.normal(0, within, pairs))
        found.append(list(zip(first, second, strict=True)))
    return found


@pytest.mark.parametrize(
    ("boots", "pairs", "between", "within"), [(6, 20, 0.03, 0.1), (4, 10, 0.05, 0.05), (12, 8, 0.0, 0.2)]
)
def test_the_interval_covers_the_truth_as_often_as_it_says(
    boots: int, pairs: int, between: float, within: float
) -> None:
    experiments = [
        experiment(seed, boots=boots, pairs=pairs, between=between, within=within, truth=1.05)
        for seed in range(500)
    ]
    covered = sum(effect(each).covers(1.05) for each in experiments)
    assert 0.93 <= covered / 500 <= 0.97


def test_an_interval_over_requests_alone_would_not_cover_it() -> None:
    """The control: pretending that every request were a boot gives intervals that are far too short."""
    experiments = [experiment(s, boots=6, pairs=20, between=0.05, within=0.1, truth=1.05) for s in range(200)]
    pooled = [[[pair] for boot in each for pair in boot] for each in experiments]
    assert sum(effect(each).covers(1.05) for each in pooled) / 200 < 0.85


def test_a_planted_slowdown_of_five_percent_is_found() -> None:
    found = effect(experiment(1, boots=6, pairs=40, between=0.004, within=0.03, truth=1.05))
    assert found.low > 1.0
    assert found.covers(1.05)
    assert (found.scope, found.boots, found.pairs) == ("boots", 6, 240)


def test_a_constant_cost_is_found_exactly_whatever_the_spread_between_slots() -> None:
    found = effect([[(slot, 1.25 * slot) for slot in (0.1, 2.0, 30.0, 0.5)]] * 4)
    assert (found.ratio, found.low, found.high) == (pytest.approx(1.25),) * 3


def test_few_boots_speak_of_themselves_alone() -> None:
    found = effect([[(1.0, 1.1), (1.0, 1.2)], [(1.0, 1.15), (2.0, 2.2)]])
    assert found.scope == "within boots"
    assert found.low <= found.ratio <= found.high


def test_too_few_samples_have_no_interval() -> None:
    found = effect([[(1.0, 2.0)]] * 3)
    assert math.isnan(found.low)
    assert found.scope == "none"
    assert found.covers(1.0)
    assert equivalent([[(1.0, 1.0)]], 0.02) is None


def test_boots_without_pairs_do_not_count() -> None:
    assert effect([[], *[[(1.0, 1.5)]] * 5]).boots == 5
    with pytest.raises(ValueError, match="pairs"):
        effect([[], []])


def test_the_same_samples_give_the_same_interval() -> None:
    boots = experiment(3, boots=2, pairs=9, between=0.1, within=0.1, truth=1.0)
    assert effect(boots) == effect(boots)
    assert effect(boots, seed=1) != effect(boots, seed=2)
    assert percentile_ratio(boots, 0.95) == percentile_ratio(boots, 0.95)


def test_swapping_the_arms_inverts_the_ratio() -> None:
    boots = experiment(4, boots=5, pairs=9, between=0.1, within=0.1, truth=1.3)
    back = effect([[(b, a) for a, b in boot] for boot in boots])
    assert effect(boots).ratio * back.ratio == pytest.approx(1.0)
    assert effect(boots).low == pytest.approx(1 / back.high)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan])
def test_a_sample_that_is_no_positive_number_is_refused(bad: float) -> None:
    for of in (effect, lambda boots: percentile_ratio(boots, 0.5)):
        with pytest.raises(ValueError, match="positive"):
            of([[(1.0, bad)]])


def test_quantile_ratios_see_a_slow_tail_that_the_mean_hides() -> None:
    source = np.random.default_rng(5)
    boots = []
    for _ in range(6):
        first = np.exp(source.normal(0, 0.05, 100))
        slow = np.where(np.arange(100) < 10, 2.0, 1.0)
        boots.append(list(zip(first, first * slow, strict=True)))
    assert percentile_ratio(boots, 0.5).ratio == pytest.approx(1.0, abs=0.03)
    assert percentile_ratio(boots, 0.95).ratio > 1.5
    assert percentile_ratio(boots, 0.95).scope == "boots"


def test_equivalence_needs_an_interval_inside_the_margin() -> None:
    close = experiment(6, boots=8, pairs=50, between=0.002, within=0.01, truth=1.001)
    loose = experiment(6, boots=4, pairs=5, between=0.05, within=0.1, truth=1.0)
    assert equivalent(close, 0.02) is True
    assert equivalent(loose, 0.02) is False  # not shown, though there is no difference
    with pytest.raises(ValueError, match="margin"):
        equivalent(close, 0.0)


def test_medians_and_quantiles_on_known_numbers() -> None:
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert median([4.0, 1.0, 2.0, 3.0]) == 2.5
    assert quantile([0.0, 10.0], 0.95) == pytest.approx(9.5)
    with pytest.raises(ValueError, match="samples"):
        median([])


@given(st.lists(st.tuples(SAMPLE, SAMPLE), min_size=4, max_size=6))
def test_the_ratio_lies_between_the_smallest_and_the_largest(pairs: list[tuple[float, float]]) -> None:
    ratios = [b / a for a, b in pairs]
    found = effect([pairs])
    assert min(ratios) * 0.999 <= found.low <= found.high <= max(ratios) * 1.001
