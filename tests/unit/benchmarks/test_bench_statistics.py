"""Intervals that cover what they should, and verdicts that claim no more than the noise allows."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import metrics
from benchmarks.plain_vs_sealed import verdict
from benchmarks.statistics import Ratio, median, median_interval, paired_ratio, quantile, unpaired_ratio

SAMPLE = st.floats(min_value=1e-6, max_value=1e6)


def test_median_and_quantiles_on_known_numbers() -> None:
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert median([4.0, 1.0, 2.0, 3.0]) == 2.5
    assert quantile([0.0, 10.0], 0.95) == pytest.approx(9.5)
    assert quantile([7.0], 0.2) == 7.0
    with pytest.raises(ValueError, match="samples"):
        median([])


def test_a_constant_cost_is_found_exactly_whatever_the_spread_between_slots() -> None:
    slots = [0.1, 2.0, 30.0, 0.5]
    found = paired_ratio([(slot, 1.25 * slot) for slot in slots])
    assert found.ratio == pytest.approx(1.25)
    assert found.low == pytest.approx(1.25)
    assert found.high == pytest.approx(1.25)


def test_the_same_samples_give_the_same_interval() -> None:
    pairs = [(1.0, 1.0 + 0.013 * index * index) for index in range(11)]
    assert paired_ratio(pairs) == paired_ratio(pairs)
    assert paired_ratio(pairs, seed=1) != paired_ratio(pairs, seed=2)


def test_swapping_the_arms_inverts_the_ratio() -> None:
    pairs = [(1.0, 1.1), (1.2, 1.5), (0.9, 1.3)]
    there, back = paired_ratio(pairs), paired_ratio([(b, a) for a, b in pairs])
    assert there.ratio * back.ratio == pytest.approx(1.0)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan])
def test_a_sample_that_is_no_positive_number_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        paired_ratio([(1.0, bad)])
    with pytest.raises(ValueError, match="positive"):
        unpaired_ratio([1.0], [bad])


def test_too_few_samples_have_no_interval() -> None:
    for few in (1, 3):
        found = paired_ratio([(1.0, 2.0)] * few)
        assert math.isnan(found.low)
        assert found.covers(1.0)
        assert math.isnan(unpaired_ratio([1.0] * few, [2.0] * 9).high)
        assert all(math.isnan(bound) for bound in median_interval([1.0] * few))
    assert not math.isnan(median_interval([1.0] * 4)[0])


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    source, covered, runs = random.Random(5), 0, 40
    for _ in range(runs):
        pairs = [(1.0, 1.1 * math.exp(source.gauss(0, 0.2))) for _ in range(25)]
        covered += paired_ratio(pairs).covers(1.1)
    assert 0.82 <= covered / runs <= 1.0


@given(st.lists(st.tuples(SAMPLE, SAMPLE), min_size=4, max_size=6))
def test_the_ratio_lies_between_the_smallest_and_the_largest(pairs: list[tuple[float, float]]) -> None:
    ratios = [b / a for a, b in pairs]
    found = paired_ratio(pairs)
    assert min(ratios) * 0.999 <= found.low <= found.high <= max(ratios) * 1.001


def test_unpaired_sides_may_differ_in_length() -> None:
    found = unpaired_ratio([1.0, 1.0, 1.0], [2.0, 2.0])
    assert found.ratio == pytest.approx(2.0)
    assert found.pairs == 2


FLOOR = Ratio(1.0, 0.95, 1.05, 8)


@pytest.mark.parametrize(
    ("metric", "ratio", "floor", "said"),
    [
        (metrics.TTFT, Ratio(1.5, 1.4, 1.6, 8), FLOOR, "costs"),
        (metrics.TTFT, Ratio(0.5, 0.4, 0.6, 8), FLOOR, "gains"),
        (metrics.TOKENS_PER_S, Ratio(0.5, 0.4, 0.6, 8), FLOOR, "costs"),
        (metrics.TTFT, Ratio(1.06, 1.04, 1.08, 8), FLOOR, "within noise"),
        (metrics.TTFT, Ratio(1.04, 1.02, 1.06, 8), Ratio(0.9, 0.85, 0.95, 8), "within noise"),
        (metrics.TTFT, Ratio(0.94, 0.90, 0.98, 8), Ratio(1.2, 1.01, 1.5, 8), "within noise"),
        (metrics.TTFT, Ratio(1.4, 1.3, 1.5, 8), Ratio(0.9, 0.85, 0.95, 8), "costs"),
        (metrics.TTFT, Ratio(0.97, 0.96, 0.98, 8), Ratio(0.9, 0.85, 0.95, 8), "within noise"),
        (metrics.TTFT, Ratio(9.0, math.nan, math.nan, 1), FLOOR, "not enough samples"),
        (metrics.TTFT, None, None, "not enough samples"),
    ],
)
def test_nothing_is_claimed_below_the_noise_floor(
    metric: metrics.Metric, ratio: Ratio | None, floor: Ratio | None, said: str
) -> None:
    assert verdict(metric, ratio, floor) == said
