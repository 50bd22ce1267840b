"""Two questions to two arms of times: do they differ, and are they equal within a bound."""

import math
import statistics

import numpy as np


def ks_p_value(first: list[float], second: list[float]) -> float:
    """Asymptotic p-value of the two-sample Kolmogorov-Smirnov test (Press et al., Numerical Recipes, 14.3.3)."""
    one, two = np.sort(first), np.sort(second)
    every = np.concatenate([one, two])
    distance = np.abs(
        np.searchsorted(one, every, side="right") / len(one)
        - np.searchsorted(two, every, side="right") / len(two)
    ).max()
    size = math.sqrt(len(one) * len(two) / (len(one) + len(two)))
    scaled = (size + 0.12 + 0.11 / size) * float(distance)
    terms = (2 * (-1) ** (k - 1) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, 101))
    return min(1.0, max(0.0, sum(terms))) if scaled > 0.3 else 1.0


def equivalence_bounds(first: list[float], second: list[float]) -> tuple[float, float]:
    """The 90 % interval of the difference of means without the slowest and quickest tenth: both one-sided tests at
    5 % hold where it lies within the bounds (Schuirmann 1987).
    """

    def trimmed(values: list[float]) -> list[float]:
        cut = len(values) // 10
        return sorted(values)[cut : len(values) - cut]

    one, two = trimmed(first), trimmed(second)
    difference = statistics.fmean(one) - statistics.fmean(two)
    # The spread of a trimmed mean is that of the winsorised sample, a little wider than the trimmed one's.
    error = 1.25 * math.sqrt(statistics.variance(one) / len(one) + statistics.variance(two) / len(two))
    return difference - 1.645 * error, difference + 1.645 * error
