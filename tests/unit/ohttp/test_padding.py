"""Lengths of requests, rungs of the ladder, and what a profile may be."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ohttp.padding import CellProfile, ladder_rung, padme


@given(st.integers(0, 1 << 40))
def test_padme_grows_a_message_by_at_most_an_eighth_and_is_stable(length: int) -> None:
    padded = padme(length)
    assert max(length, 2048) <= padded <= max(length, 2048) * 1.125
    assert padme(padded) == padded


@pytest.mark.parametrize(
    ("length", "padded"), [(1, 1), (9, 10), (1000, 1024), (1_000_000, 1_015_808), (2049, 2176)]
)
def test_padme_of_known_lengths(length: int, padded: int) -> None:
    assert padme(length, minimum=0) == padded


def test_few_lengths_are_left() -> None:
    assert len({padme(length) for length in range(1, 1_000_000)}) < 256


def test_ladder() -> None:
    assert [ladder_rung(n) for n in (0, 1, 16, 17, 20, 21, 26, 33, 41)] == [
        16,
        16,
        16,
        20,
        20,
        25,
        32,
        40,
        50,
    ]


@given(st.integers(1, 100_000))
def test_a_rung_is_never_below_and_at_most_a_quarter_above(cells: int) -> None:
    rung = ladder_rung(cells)
    assert cells <= rung <= max(16, cells * 1.25 + 1)
    assert ladder_rung(rung) == rung


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "bucket"},
        {"cell_bytes": 127},
        {"cell_bytes": 16_385},
        {"interval_ms": 0},
        {"interval_ms": 10_001},
    ],
)
def test_profiles_that_cannot_work(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        CellProfile(**wrong)


def test_manifest_is_plain_data() -> None:
    assert CellProfile("off").manifest() == {"name": "off"}
    assert json.loads(json.dumps(CellProfile().manifest()))["cell_bytes"] == 512
