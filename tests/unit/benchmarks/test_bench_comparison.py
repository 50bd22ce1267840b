"""What is claimed of two arms, and what is not."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import comparison, metrics, report
from benchmarks.comparison import Comparison, compare, summary, verdict
from benchmarks.load import Timing
from benchmarks.recording import Boot, Load, Recording
from benchmarks.statistics import Ratio


def recording(
    arm: str,
    seed: int,
    *,
    slower: float = 1.0,
    boots: int = 6,
    requests: int = 30,
    machine: Callable[[int], str] = lambda boot: "m",
    between: float = 0.004,
    plan: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Recording:
    """An arm whose times have luck of their own for each boot and request, ``slower`` by a factor."""
    source = np.random.default_rng(seed)
    loads, made = [], []
    for number in range(boots):
        luck = slower * math.exp(source.normal(0, between))
        timings = []
        for slot in range(requests):
            first, rest = (luck * math.exp(source.normal(0, 0.02)) for _ in range(2))
            at = float(slot)
            timings.append(
                Timing(
                    slot,
                    f"p{slot}",
                    at,
                    at,
                    at + 0.1 * first,
                    at + first,
                    at + first + 0.01 * rest,
                    50,
                    16,
                    (0.1,),
                    "a",
                )
            )
        loads.append(Load(number, "closed-1", tuple(timings)))
        made.append(Boot(number, machine(number), {"boot": 3.0 * luck}, facts or {}))
    return Recording(
        arm, plan or {"seed": 0}, {"model_sha256": "s", **(environment or {})}, tuple(made), tuple(loads)
    )


def row(found: Comparison, metric: metrics.Metric, load: str = "closed-1") -> comparison.Row:
    return next(each for each in found.rows if (each.load, each.metric) == (load, metric))


def test_a_planted_slowdown_of_five_percent_is_found_and_covered() -> None:
    found = compare(recording("plain", 1), recording("slow", 2, slower=1.05), recording("plain", 3))
    for metric in (metrics.TTFT, metrics.END_TO_END, metrics.TPOT):
        slow = row(found, metric)
        assert slow.effect.covers(1.05)
        assert slow.verdict == "costs"
    assert row(found, metrics.TOKENS_PER_S).verdict == "costs"
    assert row(found, metrics.TOKENS_PER_S).effect.covers(1 / 1.05)


def test_the_same_arm_twice_shows_no_effect() -> None:
    found = compare(recording("plain", 1), recording("plain", 2), recording("plain", 3))
    assert {each.verdict for each in found.rows} == {"within noise"}
    assert row(found, metrics.END_TO_END).equivalent is True


def test_nothing_is_claimed_without_a_noise_floor() -> None:
    found = compare(recording("plain", 1), recording("slow", 2, slower=2.0), None)
    assert {each.verdict for each in found.rows} == {"no noise floor"}


def test_two_machines_are_compared_only_when_crossed_over() -> None:
    here, there = recording("plain", 1), recording("slow", 2, slower=1.3, machine=lambda _: "other")
    assert any("machines" in obstacle for obstacle in compare(here, there, None).obstacles)
    assert not compare(here, there, None).rows

    def both(boot: int) -> str:
        return "m" if boot < 3 else "other"

    crossed = compare(
        recording("plain", 1, machine=both), recording("slow", 2, slower=1.3, machine=both), None
    )
    assert not crossed.obstacles
    assert row(crossed, metrics.TTFT).effect.covers(1.3)
    assert row(crossed, metrics.TTFT).effect.boots == 6


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (recording("b", 2, plan={"seed": 1}), "plans differ in seed"),
        (recording("b", 2, environment={"model_sha256": "t"}), "model_sha256 differs"),
        (recording("b", 2, boots=0), "no complete boot"),
    ],
)
def test_what_differs_is_named(other: Recording, said: str) -> None:
    assert any(said in obstacle for obstacle in compare(recording("a", 1), other, None).obstacles)


def test_an_arm_elsewhere_that_does_not_tell_its_model_is_compared() -> None:
    assert not compare(
        recording("a", 1), recording("b", 2, environment={"model_sha256": None}), None
    ).obstacles


def test_the_summary_says_of_every_number_that_it_was_measured() -> None:
    found = summary(
        compare(recording("plain", 1), recording("slow", 2, facts={"simulated": True}), recording("plain", 3))
    )
    json.dumps(found)
    assert found["schema"] == comparison.SCHEMA
    assert found["second"]["simulated"] is True
    for each in found["rows"]:
        assert {each["provenance"], each["median"]["provenance"], each["ratio"]["provenance"]} == {"measured"}
        assert each["formula"]


def test_the_report_has_the_studys_layout_and_says_what_is_whose() -> None:
    found = compare(
        recording("plain", 1), recording("slow", 2, slower=1.05), recording("plain", 3), bucket=(60, 100)
    )
    text = report.as_markdown(found, ["ratios.svg"])
    assert "TEE-on (published)" in text
    assert "overhead, 95 % interval (measured)" in text
    assert "360 prompts were counted outside" in text
    assert "![ratios.svg](ratios.svg)" in text
    assert report.overhead(row(found, metrics.TTFT)).startswith("+")


def test_plots_are_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks import plots

    names = plots.draw(compare(recording("plain", 1), recording("slow", 2), recording("plain", 3)), tmp_path)
    assert names == ("ratios.svg", "latency.svg", "by-load.svg")
    assert all(len((tmp_path / name).read_bytes()) > 2000 for name in names)
    assert "(measured)" in (tmp_path / "ratios.svg").read_text() or (tmp_path / "ratios.png").exists()


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
        (metrics.TTFT, Ratio(9.0, math.nan, math.nan, 1), FLOOR, "not enough samples"),
        (metrics.TTFT, Ratio(9.0, 8.0, 10.0, 9), Ratio(1.0, math.nan, math.nan, 1), "no noise floor"),
    ],
)
def test_nothing_is_claimed_below_the_noise_floor(
    metric: metrics.Metric, ratio: Ratio, floor: Ratio | None, said: str
) -> None:
    assert verdict(metric, ratio, floor) == said
