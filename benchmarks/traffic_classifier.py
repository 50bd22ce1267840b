"""An observer who learns: features of recorded traffic, a classifier, and how sure its accuracy is.

The classifier is a random forest over sizes, gaps and their statistics, judged by stratified cross-validation: every
answer is guessed by forests that have seen neither it nor its twins. The interval is Wilson's, for a share of guesses.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.recorded_traffic import Trace

FOLDS = 5
TREES = 200
SHUFFLES = 200
FIRST = 48
"""Records whose sizes and gaps are features by themselves."""

_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_Z = 1.959964

Features = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The share of right guesses, its 95 % interval, and what guessing blindly gives."""

    share: float
    low: float
    high: float
    chance: float
    guesses: int

    @property
    def is_chance(self) -> bool:
        """Whether blind guessing lies in the interval. Below it is no chance either: such guesses could be turned."""
        return self.low <= self.chance <= self.high


def features(trace: Trace) -> Features:
    """All that the observer looks at in one answer."""
    sizes = np.asarray(trace.sizes, dtype=np.float64)
    times = np.asarray(trace.times, dtype=np.float64)
    gaps = np.diff(times, prepend=0.0)
    rate = len(sizes) / max(times[-1], 1e-9)
    whole = [len(sizes), sizes.sum(), times[-1], rate, sizes.sum() / max(times[-1], 1e-9)]
    parts = [_statistics(sizes), _statistics(gaps), _first(sizes), _first(gaps)]
    return np.concatenate([np.asarray(whole, dtype=np.float64), *parts])


def guess(
    samples: Sequence[Features], labels: Sequence[str], twins: Sequence[int], seed: int, trees: int = TREES
) -> Accuracy:
    """How well the labels are guessed from the samples.

    ``twins``: samples with the same number are like each other by design, whatever their labels, and stay together:
    a forest that had seen one would take its twin, of another label, for it, and be wrong more often than by chance.
    """
    ensemble: Any = import_module("sklearn.ensemble")
    selection: Any = import_module("sklearn.model_selection")
    matrix, truth = np.vstack(samples), np.asarray(labels)
    forest = ensemble.RandomForestClassifier(trees, min_samples_leaf=2, random_state=seed, n_jobs=1)
    folds = selection.StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    guessed = selection.cross_val_predict(forest, matrix, truth, cv=folds, groups=np.asarray(twins))
    right = int((guessed == truth).sum())
    low, high = wilson(right, len(truth))
    chance = max(Counter(labels).values()) / len(labels)
    return Accuracy(right / len(truth), low, high, chance, len(truth))


def wilson(right: int, total: int) -> tuple[float, float]:
    """Wilson's score interval at 95 % for ``right`` of ``total``."""
    share = right / total
    centre = share + _Z**2 / (2 * total)
    spread = _Z * math.sqrt(share * (1 - share) / total + _Z**2 / (4 * total**2))
    scale = 1 + _Z**2 / total
    # At 0 and at 1 the bound is the share itself, which rounding may miss.
    return min((centre - spread) / scale, share), max((centre + spread) / scale, share)


def entropy(values: Sequence[Hashable]) -> float:
    """Bits of one value drawn from these, by their frequencies."""
    total = len(values)
    return sum(count / total * math.log2(total / count) for count in Counter(values).values())


def shared_bits(one: Sequence[Hashable], other: Sequence[Hashable], seed: int) -> tuple[float, float]:
    """Mutual information in bits, and what is found by chance: its 95th percentile over shuffled pairs.

    Few samples always seem to share something, so the mean over the shuffled pairs is subtracted.
    """
    draw = np.random.default_rng(seed)
    alone = entropy(one) + entropy(other)
    kept = list(other)
    found = alone - entropy(list(zip(one, kept, strict=True)))
    shuffled: list[float] = []
    for _ in range(SHUFFLES):
        order = draw.permutation(len(kept))
        shuffled.append(alone - entropy([(value, kept[at]) for value, at in zip(one, order, strict=True)]))
    mean = float(np.mean(shuffled))
    return max(0.0, found - mean), float(np.quantile(shuffled, 0.95)) - mean


def _statistics(values: Features) -> Features:
    spread = [values.mean(), values.std(), float(len(np.unique(np.round(values, 6))))]
    return np.concatenate([np.asarray(spread), np.quantile(values, _QUANTILES)])


def _first(values: Features) -> Features:
    kept = np.full(FIRST, -1.0)
    kept[: min(FIRST, len(values))] = values[:FIRST]
    return kept
