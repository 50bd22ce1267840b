"""The comparison of defences: every arm exists, and a ratio is with over without."""

import re

import pytest

from benchmarks import defence_arm
from benchmarks.defences import COMPARED, summary


def test_every_arm_that_is_compared_exists() -> None:
    named = {
        name.removesuffix(" again") for _, without, with_it, _ in COMPARED for name in (without, with_it)
    }
    assert named == set(defence_arm.ARMS)


def test_a_ratio_is_with_over_without() -> None:
    times = {
        name: [(1.0 + 0.01 * n, 2.0) for n in range(6)]
        for _, *pair, _ in COMPARED
        for name in pair
        if name != "pages"
    }
    times["pages"] = [(2 * first, second) for first, second in times["bare"]]
    rows = {row["defence"]: row for row in summary(times)}
    assert rows["KV pages zeroed"]["ratio"] == pytest.approx(2.0)
    assert rows["all freed memory wiped"]["ratio"] == pytest.approx(0.5)
    assert rows["seal"]["ratio"] == pytest.approx(1.0)
    assert all(row["pairs"] == 6 and re.match(r"\w", row["defence"]) for row in rows.values())
