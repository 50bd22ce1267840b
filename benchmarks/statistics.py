"""Ratios with intervals that cover what they say, for runs whose requests are nested in boots.

A cost is a ratio, so the effect is the mean of the logarithms of paired ratios, given back as a ratio. Requests
of one boot share that boot's luck (memory layout, clocks, neighbours), so the boot is what was repeated, and the
interval of an effect is Student's over the boots' means. A bootstrap that draws the boots covers less than it
says where there are few of them (simulated, 6 boots: 93.6 % for an expanded percentile interval, 94.2 % smoothed,
95.1 % Student's), and one that draws pairs within drawn boots as well counts their noise twice (Davison and
Hinkley, Bootstrap Methods and their Application, 1997, section 3.8).

Quantiles have no mean to take, so their ratios are bootstrapped over boots; and where too few boots were made,
pairs are drawn within them and the result says that it speaks of those boots alone. Percentile tails are widened
for small numbers (Hesterberg, What Teachers Should Know about the Bootstrap, 2015, section 4.1.3). Everything is
seeded: the same samples give the same interval.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.stats
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Pair = tuple[float, float]

CONFIDENCE = 0.95
RESAMPLES = 2000
MIN_BOOTS = 4
"""Below this many boots the interval is taken within them, and says so."""
MIN_PAIRS = 4
"""Below this many pairs there is no interval: resampling so few would claim a certainty that is not there."""

Scope = Literal["boots", "within boots", "none"]


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio with its interval at ``confidence``.

    ``scope`` says what the interval speaks of: ``boots`` (another boot may be expected to fall into it), ``within
    boots`` (other requests of these very boots), or ``none`` (too few samples: ``low`` and ``high`` are NaN).
    """

    ratio: float
    low: float
    high: float
    pairs: int
    boots: int = 1
    scope: Scope = "within boots"
    confidence: float = CONFIDENCE

    def covers(self, value: float) -> bool:
        """Whether ``value`` lies in the interval; without an interval, nothing can be excluded."""
        return math.isnan(self.low) or self.low <= value <= self.high


def effect(boots: Sequence[Sequence[Pair]], *, confidence: float = CONFIDENCE, seed: int = 0) -> Ratio:
    """The effect of the second arm on the first, ``exp(mean over boots(mean(ln(second / first))))``.

    ``boots`` holds, for each pair of boots (one of each arm), its paired samples. Boots without pairs are left
    out. Raises ValueError without any pair, or for a sample that is not a positive, finite number.
    """
    logs = [np.array([_log(b) - _log(a) for a, b in pairs]) for pairs in boots if pairs]
    if len(logs) < MIN_BOOTS:
        return _bootstrapped(logs, _mean_of_means, confidence, seed)
    means = np.array([boot.mean() for boot in logs])
    half = _student(len(means), confidence) * means.std(ddof=1) / math.sqrt(len(means))
    low, high = math.exp(means.mean() - half), math.exp(means.mean() + half)
    pairs_in_all = sum(map(len, logs))
    return Ratio(math.exp(means.mean()), low, high, pairs_in_all, len(means), "boots", confidence)


def percentile_ratio(
    boots: Sequence[Sequence[Pair]], share: float, *, confidence: float = CONFIDENCE, seed: int = 0
) -> Ratio:
    """The ratio of the arms' quantiles at ``share`` (0 to 1), each over all samples of its arm.

    Raises ValueError as :func:`effect` does.
    """
    logs = [np.array([(_log(a), _log(b)) for a, b in pairs]) for pairs in boots if pairs]

    def statistic(drawn: Sequence[Floats]) -> float:
        first, second = np.quantile(np.concatenate(drawn), share, axis=0)
        return float(second - first)

    return _bootstrapped(logs, statistic, confidence, seed)


def equivalent(
    boots: Sequence[Sequence[Pair]], margin: float, *, confidence: float = CONFIDENCE, seed: int = 0
) -> bool | None:
    """Whether the arms differ by less than ``margin`` (0.02: 2 %) either way, shown at ``1 - confidence``.

    Two one-sided tests (Schuirmann, 1987): the interval at ``2 × confidence - 1`` lies within ``1 ± margin`` in the
    logarithm. None where no interval can be given; False means "not shown", never "they differ".
    """
    if not 0.0 < margin < 1.0:
        raise ValueError("a margin lies between 0 and 1")
    found = effect(boots, confidence=2.0 * confidence - 1.0, seed=seed)
    if math.isnan(found.low):
        return None
    bound = math.log1p(margin)
    return -bound < math.log(found.low) and math.log(found.high) < bound


def quantile(samples: Sequence[float], share: float) -> float:
    """The quantile at ``share`` (0 to 1), linear between samples. Raises ValueError without any."""
    if not samples or not 0.0 <= share <= 1.0:
        raise ValueError("a quantile needs samples and a share from 0 to 1")
    return float(np.quantile(np.asarray(samples), share))


def median(samples: Sequence[float]) -> float:
    """The middle sample, or the mean of the middle two. Raises ValueError without samples."""
    return quantile(samples, 0.5)


def _bootstrapped(
    boots: Sequence[Floats], statistic: Callable[[Sequence[Floats]], float], confidence: float, seed: int
) -> Ratio:
    pairs = sum(map(len, boots))
    if not pairs:
        raise ValueError("a ratio needs pairs")
    ratio = math.exp(statistic(boots))
    if len(boots) < MIN_BOOTS and pairs < MIN_PAIRS:
        return Ratio(ratio, math.nan, math.nan, pairs, len(boots), "none", confidence)
    random = np.random.default_rng(seed)
    values = np.empty(RESAMPLES)
    scope: Scope = "boots" if len(boots) >= MIN_BOOTS else "within boots"
    for index in range(RESAMPLES):
        if scope == "boots":
            drawn = [boots[boot] for boot in random.integers(0, len(boots), len(boots))]
        else:
            drawn = [boot[random.integers(0, len(boot), len(boot))] for boot in boots]
        values[index] = statistic(drawn)
    groups = len(boots) if scope == "boots" else pairs
    stretch = math.sqrt(groups / (groups - 1)) * _student(groups, confidence)
    tail = float(scipy.stats.norm.cdf(-stretch))
    low, high = np.quantile(values, (tail, 1.0 - tail))
    return Ratio(ratio, math.exp(low), math.exp(high), pairs, len(boots), scope, confidence)


def _student(groups: int, confidence: float) -> float:
    return float(scipy.stats.t.ppf((1.0 + confidence) / 2.0, groups - 1))


def _mean_of_means(boots: Sequence[Floats]) -> float:
    return float(np.mean([boot.mean() for boot in boots]))


def _log(sample: float) -> float:
    if not (math.isfinite(sample) and sample > 0.0):
        raise ValueError("a ratio needs positive, finite samples")
    return math.log(sample)
