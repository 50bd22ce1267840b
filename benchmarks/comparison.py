"""Two recorded arms against each other: paired, with an interval, beside the noise floor, or not at all.

Pairs are requests of the same boot number, load and slot, with the same prompt. Boots are paired within a machine;
where two machines were used, each must have run both arms (a crossover), and what is compared are the effects
within the machines. Otherwise the answer is "not comparable": a ratio of two machines is no cost of a TEE.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks import metrics, statistics
from benchmarks.load import Timing
from benchmarks.metrics import Metric, Objective
from benchmarks.provenance import Provenance
from benchmarks.recording import Load, Recording
from benchmarks.statistics import Pair, Ratio

SCHEMA = "cloister-bench-summary/1"
SAME = ("model_sha256",)
"""Members of the environment that must agree whatever the machine; unknown in one (an arm elsewhere) is no clash."""

QUANTILES = (0.5, 0.95, 0.99)

Verdict = Literal["costs", "gains", "within noise", "no noise floor", "not enough samples"]


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of one load: medians of both arms, the effect, the A/A effect, quantile ratios, what may be said."""

    load: str
    metric: Metric
    first: float
    second: float
    effect: Ratio
    floor: Ratio | None
    quantiles: Mapping[float, Ratio]
    equivalent: bool | None
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of comparing ``second`` with ``first``; ``obstacles`` is not empty where they cannot be compared."""

    first: Recording
    second: Recording
    objective: Objective
    margin: float
    obstacles: tuple[str, ...]
    rows: tuple[Row, ...]
    differing_answers: int
    outside_profile: int


def compare(
    first: Recording,
    second: Recording,
    again: Recording | None,
    *,
    objective: Objective | None = None,
    margin: float = 0.02,
    bucket: tuple[int, int] | None = None,
) -> Comparison:
    """Compare ``second`` with ``first``; ``again`` is the first arm recorded a second time (A/A).

    ``margin`` is the largest difference that counts as none (0.02: 2 %); ``bucket`` the prompt lengths in tokens that
    the profile promises.
    """
    objective = objective or Objective()
    obstacles = _obstacles(first, second)
    rows: list[Row] = []
    if not obstacles:
        found = _pairs(first, second, objective)
        floors = _pairs(first, again, objective) if again is not None and not _obstacles(first, again) else {}
        for (load, metric), boots in found.items():
            rows.append(_row(load, metric, boots, floors.get((load, metric)), margin))
    timings = [timing for each in (first, second) for load in each.loads for timing in load.timings]
    outside = 0 if bucket is None else sum(not bucket[0] <= t.prompt_tokens <= bucket[1] for t in timings)
    return Comparison(
        first, second, objective, margin, obstacles, tuple(rows), _differing(first, second), outside
    )


def verdict(metric: Metric, effect: Ratio, floor: Ratio | None) -> Verdict:
    """What may be said of an effect: nothing is claimed that the noise floor could have made.

    The floor is the farther end of the A/A interval, counted both ways: a machine that made the second of two equal
    arms slower might as well have made it faster.
    """
    if math.isnan(effect.low):
        return "not enough samples"
    if floor is None or math.isnan(floor.low):
        return "no noise floor"
    noise = max(abs(math.log(floor.low)), abs(math.log(floor.high)))
    if math.log(effect.low) <= noise and math.log(effect.high) >= -noise:
        return "within noise"
    return "costs" if (effect.ratio > 1.0) == metric.less_is_better else "gains"


def summary(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON types (schema :data:`SCHEMA`); every number says that it was measured."""
    return {
        "schema": SCHEMA,
        "provenance": Provenance.MEASURED,
        "first": _arm_json(comparison.first),
        "second": _arm_json(comparison.second),
        "comparable": not comparison.obstacles,
        "obstacles": list(comparison.obstacles),
        "objective": str(comparison.objective),
        "equivalence_margin": comparison.margin,
        "slots_with_differing_answers": comparison.differing_answers,
        "prompts_outside_profile": comparison.outside_profile,
        "rows": [
            {
                "load": row.load,
                "metric": row.metric.name,
                "unit": row.metric.unit,
                "formula": row.metric.formula,
                "less_is_better": row.metric.less_is_better,
                "median": {"first": row.first, "second": row.second, "provenance": Provenance.MEASURED},
                "ratio": ratio_json(row.effect),
                "noise_floor": None if row.floor is None else ratio_json(row.floor),
                "quantile_ratios": {f"p{share * 100:g}": ratio_json(r) for share, r in row.quantiles.items()},
                "equivalent_within_margin": row.equivalent,
                "verdict": row.verdict,
                "provenance": Provenance.MEASURED,
            }
            for row in comparison.rows
        ],
    }


def ratio_json(ratio: Ratio) -> dict[str, Any]:
    """A ratio as JSON types; a missing interval is null."""
    low, high = (None if math.isnan(bound) else bound for bound in (ratio.low, ratio.high))
    return {
        "ratio": ratio.ratio,
        "low": low,
        "high": high,
        "pairs": ratio.pairs,
        "boots": ratio.boots,
        "interval_over": ratio.scope,
        "confidence": ratio.confidence,
        "provenance": Provenance.MEASURED,
    }


def _arm_json(recording: Recording) -> dict[str, Any]:
    return {
        "arm": recording.arm,
        "plan": dict(recording.plan),
        "environment": dict(recording.environment),
        "boots": len(recording.boots),
        "evidence_sha256": sorted(
            {str(b.facts["evidence_sha256"]) for b in recording.boots if "evidence_sha256" in b.facts}
        ),
        "simulated": any(bool(boot.facts.get("simulated")) for boot in recording.boots),
    }


def _obstacles(first: Recording, second: Recording) -> tuple[str, ...]:
    found = []
    if first.plan != second.plan:
        names = sorted(
            name for name in {*first.plan, *second.plan} if first.plan.get(name) != second.plan.get(name)
        )
        found.append(f"the plans differ in {', '.join(names)}")
    for name in SAME:
        values = {each.environment.get(name) for each in (first, second)} - {None}
        if len(values) > 1:
            found.append(f"{name} differs")
    if not first.boots or not second.boots:
        found.append("an arm has no complete boot")
    elif first.machines() != second.machines():
        found.append("the arms ran on different machines that were not crossed over")
    return tuple(found)


_Key = tuple[str, Metric]


def _pairs(first: Recording, second: Recording | None, objective: Objective) -> dict[_Key, list[list[Pair]]]:
    """For every load and metric, the paired samples of each pair of boots on the same machine."""
    assert second is not None
    found: dict[_Key, list[list[Pair]]] = {}
    there = {(boot.machine, boot.number): boot for boot in second.boots}
    for boot in first.boots:
        other = there.get((boot.machine, boot.number))
        if other is None:
            continue
        for name in boot.components.keys() & other.components.keys():
            pair = (boot.components[name], other.components[name])
            _add(found, ("boot", metrics.BY_NAME[name]), [pair])
        loads = {load.name: load for load in second.loads if load.boot == other.number}
        for load in first.loads:
            if load.boot == boot.number and load.name in loads:
                _add_load(found, load, loads[load.name], objective)
    order = {metric: index for index, metric in enumerate(metrics.ALL)}
    return {
        key: found[key] for key in sorted(found, key=lambda key: (key[0] == "boot", key[0], order[key[1]]))
    }


def _add_load(found: dict[_Key, list[list[Pair]]], one: Load, other: Load, objective: Objective) -> None:
    there = {(timing.slot, timing.prompt): timing for timing in other.timings}
    both = [(t, there[t.slot, t.prompt]) for t in one.timings if (t.slot, t.prompt) in there]
    for metric, of in metrics.PER_REQUEST.items():
        _add(found, (one.name, metric), [_both(of, pair) for pair in both])
    for metric, over in metrics.PER_LOAD.items():
        _add(found, (one.name, metric), [(over(one.timings, objective), over(other.timings, objective))])


def _both(of: Callable[[Timing], float | None], pair: tuple[Timing, Timing]) -> Pair | None:
    first, second = of(pair[0]), of(pair[1])
    return None if first is None or second is None else (first, second)


def _add(found: dict[_Key, list[list[Pair]]], key: _Key, pairs: Sequence[Pair | None]) -> None:
    kept = [pair for pair in pairs if pair is not None and min(pair) > 0.0]
    if kept:
        found.setdefault(key, []).append(kept)


def _row(
    load: str, metric: Metric, boots: list[list[Pair]], floor: list[list[Pair]] | None, margin: float
) -> Row:
    flat = [pair for pairs in boots for pair in pairs]
    effect = statistics.effect(boots)
    noise = None if floor is None else statistics.effect(floor)
    per_request = metric in metrics.PER_REQUEST
    return Row(
        load=load,
        metric=metric,
        first=statistics.median([pair[0] for pair in flat]),
        second=statistics.median([pair[1] for pair in flat]),
        effect=effect,
        floor=noise,
        quantiles={share: statistics.percentile_ratio(boots, share) for share in QUANTILES}
        if per_request
        else {},
        equivalent=statistics.equivalent(boots, margin),
        verdict=verdict(metric, effect, noise),
    )


def _differing(first: Recording, second: Recording) -> int:
    """Slots in which the two arms gave different texts for the same prompt."""
    answers = {
        (load.boot, load.name, timing.slot, timing.prompt): timing.answer
        for load in first.loads
        for timing in load.timings
    }
    return sum(
        answers.get((load.boot, load.name, timing.slot, timing.prompt), timing.answer) != timing.answer
        for load in second.loads
        for timing in load.timings
    )
