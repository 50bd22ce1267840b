"""Plain against sealed: the same load to both arms in turn, within one run.

The plain arm is the node's engine and inner application over plain HTTP on the loopback interface. The sealed
arm is the whole way a user's request takes: verification done, relay, OHTTP, cells, sealed process. Arms never
run at the same time. The order is A B B A in every slot, so the two plain samples of a slot compare plain with
itself: that ratio's interval is the noise floor, below which no effect is claimed.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx2

from benchmarks import metrics, statistics
from benchmarks.load import Block, Clock, Prompt, Timing, abba, closed_loop, empty, one
from benchmarks.metrics import Metric
from benchmarks.statistics import Ratio

ArmName = Literal["plain", "sealed"]
ARMS: tuple[ArmName, ArmName] = ("plain", "sealed")
SCHEMA = "cloister-bench/1"

QUESTIONS = (
    "What is the capital of France?",
    "Name three uses of a paper clip.",
    "Explain in simple words why the sky is blue.",
    "Write a short note to thank a colleague for their help with a report.",
    "Give me a recipe for pancakes with four ingredients.",
    "What should I pack for two days in the mountains in autumn?",
    "Summarise the idea of supply and demand for a ten-year-old.",
    "List the steps to change a bicycle tyre.",
)


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to the model: an HTTP client and the model's name there."""

    name: ArmName
    client: httpx2.AsyncClient
    model: str


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is asked. ``slots`` of four requests one at a time; ``blocks`` of four closed loops of
    ``block_requests`` at ``concurrency``; ``empties`` of four empty requests; ``warm_up`` requests unmeasured.
    """

    slots: int = 8
    max_tokens: int = 48
    concurrency: int = 4
    block_requests: int = 8
    blocks: int = 4
    empties: int = 4
    warm_up: int = 1

    def manifest(self) -> dict[str, int]:
        """The values by name; two runs of different plans are not comparable."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def prompt(self, index: int) -> Prompt:
        """The request of a slot, the same for both arms."""
        return Prompt(QUESTIONS[index % len(QUESTIONS)], self.max_tokens, seed=index)


@dataclass(slots=True)
class Samples:
    """What was measured, in the order it was: requests one at a time, closed loops, empty requests."""

    alone: dict[ArmName, list[Timing]] = field(default_factory=lambda: {"plain": [], "sealed": []})
    blocks: dict[ArmName, list[Block]] = field(default_factory=lambda: {"plain": [], "sealed": []})
    empties: dict[ArmName, list[float]] = field(default_factory=lambda: {"plain": [], "sealed": []})


Progress = Callable[[str, int, int], None]


async def measure(plain: Arm, sealed: Arm, plan: Plan, clock: Clock, progress: Progress) -> Samples:
    """Run the plan. Raises LoadError as soon as either arm fails to answer."""
    arms = {"a": plain, "b": sealed}
    samples = Samples()
    for arm in (plain, sealed):
        for index in range(plan.warm_up):
            await one(arm.client, arm.name, index, plan.prompt(index), arm.model, clock)
            await empty(arm.client, clock)
    for done, (letter, _) in enumerate(abba(plan.empties), 1):
        arm = arms[letter]
        samples.empties[arm.name].append(await empty(arm.client, clock))
        progress("empty requests", done, 4 * plan.empties)
    for done, (letter, slot) in enumerate(abba(plan.slots), 1):
        arm = arms[letter]
        timing = await one(arm.client, arm.name, slot, plan.prompt(slot), arm.model, clock)
        samples.alone[arm.name].append(timing)
        progress("one at a time", done, 4 * plan.slots)
    prompts = [plan.prompt(index) for index in range(plan.block_requests)]
    for done, (letter, _) in enumerate(abba(plan.blocks), 1):
        arm = arms[letter]
        block = await closed_loop(
            arm.client, arm.name, prompts, concurrency=plan.concurrency, model=arm.model, clock=clock
        )
        samples.blocks[arm.name].append(block)
        progress("closed loop", done, 4 * plan.blocks)
    return samples


def series(samples: Samples) -> dict[str, dict[ArmName, list[float | None]]]:
    """Every metric's samples by arm, in the order they were taken: two a slot."""
    found: dict[str, dict[ArmName, list[float | None]]] = {}
    for name, of in metrics.PER_REQUEST.items():
        found[name] = {arm: [of(timing) for timing in samples.alone[arm]] for arm in ARMS}
    found[metrics.REQUESTS_PER_S.name] = {
        arm: [metrics.requests_per_s(block) for block in samples.blocks[arm]] for arm in ARMS
    }
    found[metrics.EMPTY.name] = {arm: list(samples.empties[arm]) for arm in ARMS}
    return found


def summarise(samples: Samples, plan: Plan, environment: dict[str, Any]) -> dict[str, Any]:
    """The run as plain JSON types. Every number measured says so beside it."""
    found = series(samples)
    differing = sum(
        len({timing.answer for arm in ARMS for timing in samples.alone[arm] if timing.slot == slot}) > 1
        for slot in range(plan.slots)
    )
    return {
        "schema": SCHEMA,
        "provenance": metrics.PROVENANCE,
        "environment": environment,
        "plan": plan.manifest(),
        "metrics": [summarise_metric(metrics.BY_NAME[name], found[name]) for name in found],
        "samples": {name: {arm: by_arm[arm] for arm in ARMS} for name, by_arm in found.items()},
        "slots_with_differing_answers": differing,
        "limits": [
            "One boot per arm: the intervals speak of requests within it, not of other boots or machines.",
            "The sealed arm sends cells at a fixed interval, which bounds its time to first text and its rate.",
        ],
    }


def summarise_metric(metric: Metric, by_arm: dict[ArmName, list[float | None]]) -> dict[str, Any]:
    """Medians and intervals of both arms, the ratio sealed/plain, and plain/plain as the noise floor."""
    pairs = [
        (plain, sealed)
        for plain, sealed in zip(by_arm["plain"], by_arm["sealed"], strict=True)
        if plain is not None and sealed is not None
    ]
    firsts, seconds = by_arm["plain"][::2], by_arm["plain"][1::2]
    same = [(a, b) for a, b in zip(firsts, seconds, strict=False) if a is not None and b is not None]
    ratio = statistics.paired_ratio(pairs) if pairs else None
    floor = statistics.paired_ratio(same) if same else None
    return {
        "name": metric.name,
        "unit": metric.unit,
        "formula": metric.formula,
        "less_is_better": metric.less_is_better,
        "plain": _spread([sample for sample in by_arm["plain"] if sample is not None]),
        "sealed": _spread([sample for sample in by_arm["sealed"] if sample is not None]),
        "sealed_over_plain": ratio_json(ratio),
        "plain_over_plain": ratio_json(floor),
        "verdict": verdict(metric, ratio, floor),
    }


def verdict(metric: Metric, ratio: Ratio | None, floor: Ratio | None) -> str:
    """What may be said: ``costs``, ``gains``, ``within noise`` or ``not enough samples``.

    The noise floor is the farthest end of the plain/plain interval, counted both ways: a machine that made the
    second of two equal arms slower might as well have made it faster.
    """
    if ratio is None or floor is None or math.isnan(ratio.low) or math.isnan(floor.low):
        return "not enough samples"
    noise = max(abs(math.log(floor.low)), abs(math.log(floor.high)))
    if math.log(ratio.low) <= noise and math.log(ratio.high) >= -noise:
        return "within noise"
    return "costs" if (ratio.ratio > 1.0) == metric.less_is_better else "gains"


def ratio_json(ratio: Ratio | None) -> dict[str, Any] | None:
    """A ratio as JSON types; a missing interval is null."""
    if ratio is None:
        return None
    low, high = _number(ratio.low), _number(ratio.high)
    return {
        "ratio": ratio.ratio,
        "low": low,
        "high": high,
        "pairs": ratio.pairs,
        "formula": "exp(mean(ln(second / first))), percentile bootstrap over pairs",
        "confidence": statistics.CONFIDENCE,
        "provenance": metrics.PROVENANCE,
    }


def _spread(samples: Sequence[float]) -> dict[str, Any] | None:
    if not samples:
        return None
    low, high = statistics.median_interval(samples)
    return {
        "median": statistics.median(samples),
        "low": _number(low),
        "high": _number(high),
        "p95": statistics.quantile(samples, 0.95),
        "samples": len(samples),
        "provenance": metrics.PROVENANCE,
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
