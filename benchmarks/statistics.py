"""Medians, quantiles and bootstrap intervals of ratios.

A cost is a ratio, so the effect is the mean of the logarithms of paired ratios, given back as a ratio. Its
interval is the percentile bootstrap over pairs, with a seed, so the same samples give the same interval.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
RESAMPLES = 4000
MIN_SAMPLES = 4
"""Below this many samples no interval is given: resampling so few would claim a certainty that is not there."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio with its interval at :data:`CONFIDENCE`. ``pairs`` counts what it was estimated from.

    ``low`` and ``high`` are NaN where there are fewer than :data:`MIN_SAMPLES` a side.
    """

    ratio: float
    low: float
    high: float
    pairs: int

    def covers(self, value: float) -> bool:
        """Whether ``value`` lies in the interval; without an interval, nothing can be excluded."""
        return math.isnan(self.low) or self.low <= value <= self.high


def quantile(samples: Sequence[float], share: float) -> float:
    """The quantile at ``share`` (0 to 1), linear between samples. Raises ValueError without any."""
    if not samples or not 0.0 <= share <= 1.0:
        raise ValueError("a quantile needs samples and a share from 0 to 1")
    ordered = sorted(samples)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def median(samples: Sequence[float]) -> float:
    """The middle sample, or the mean of the middle two. Raises ValueError without samples."""
    return quantile(samples, 0.5)


def median_interval(samples: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """The bootstrap interval of the median; NaN, NaN for fewer than :data:`MIN_SAMPLES`."""
    if len(samples) < MIN_SAMPLES:
        return math.nan, math.nan
    return _interval(lambda draw: median([draw(samples) for _ in samples]), seed)


def paired_ratio(pairs: Sequence[tuple[float, float]], seed: int = 0) -> Ratio:
    """The effect of the second arm on the first: ``exp(mean(log(second / first)))``.

    Raises ValueError without pairs, or for a sample that is not a positive number.
    """
    logs = [_log(second) - _log(first) for first, second in pairs]
    if not logs:
        raise ValueError("a ratio needs pairs")
    ratio = math.exp(_mean(logs))
    if len(logs) < MIN_SAMPLES:
        return Ratio(ratio, math.nan, math.nan, len(logs))
    low, high = _interval(lambda draw: _mean([draw(logs) for _ in logs]), seed)
    return Ratio(ratio, math.exp(low), math.exp(high), len(logs))


def unpaired_ratio(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Ratio:
    """The ratio of the geometric means of two sets of samples that were not taken in pairs."""
    one, two = [_log(sample) for sample in first], [_log(sample) for sample in second]
    if not one or not two:
        raise ValueError("a ratio needs samples on both sides")
    ratio = math.exp(_mean(two) - _mean(one))
    count = min(len(one), len(two))
    if count < MIN_SAMPLES:
        return Ratio(ratio, math.nan, math.nan, count)

    def resampled(draw: "_Draw") -> float:
        return _mean([draw(two) for _ in two]) - _mean([draw(one) for _ in one])

    low, high = _interval(resampled, seed)
    return Ratio(ratio, math.exp(low), math.exp(high), count)


_Draw = Callable[[Sequence[float]], float]


def _interval(statistic: Callable[[_Draw], float], seed: int) -> tuple[float, float]:
    draw: _Draw = random.Random(seed).choice  # noqa: S311 - resampling, not a secret
    values = [statistic(draw) for _ in range(RESAMPLES)]
    outside = (1.0 - CONFIDENCE) / 2.0
    return quantile(values, outside), quantile(values, 1.0 - outside)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _log(sample: float) -> float:
    if not (math.isfinite(sample) and sample > 0.0):
        raise ValueError("a ratio needs positive, finite samples")
    return math.log(sample)
