"""Lengths of requests, rungs of the ladder, and what a profile may be."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ohttp.errors import PaddingError
from ohttp.padding import CellCheck, CellProfile, ladder_rung, padme


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
        {"name": "none"},
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
    assert "interval_ms" not in CellProfile("bucket").manifest()


@pytest.mark.parametrize(
    "profile", [CellProfile("off"), CellProfile("bucket", 1024), CellProfile("constant", 256, 50)]
)
def test_a_manifest_gives_the_profile_back(profile: CellProfile) -> None:
    stated = json.loads(json.dumps(profile.manifest()))
    assert CellProfile.from_manifest(stated) == profile
    for member in stated:
        for value in (None, 0, -1, 10**30, True, "x", 1.5, [], {}):
            with pytest.raises(PaddingError) as caught:
                CellProfile.from_manifest({**stated, member: value})
            assert caught.value.code == "profile"
        with pytest.raises(PaddingError):
            CellProfile.from_manifest({key: stated[key] for key in stated if key != member})
    for stranger in ({**stated, "more": 1}, None, [], "off", 7, {}):
        with pytest.raises(PaddingError):
            CellProfile.from_manifest(stranger)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner),
    max_leaves=4,
)


@given(
    st.dictionaries(
        st.sampled_from(["name", "cell_bytes", "interval_ms", "ladder_first", "ladder_step_percent", "x"]),
        JSON_VALUES | st.sampled_from(["off", "bucket", "constant", 512, 16, 125]),
    )
)
def test_any_table_is_a_profile_or_an_error_of_ours(stated: dict[str, Any]) -> None:
    with contextlib.suppress(PaddingError):
        assert CellProfile.from_manifest(stated).manifest() == stated


def test_chunks_are_held_to_the_promise() -> None:
    check = CellCheck(CellProfile("constant", 128))
    for _ in range(15):
        check.chunk(bytes(128))
    with pytest.raises(PaddingError) as caught:
        check.finish()
    assert caught.value.code == "ladder"
    check.chunk(bytes(128))
    check.finish()
    with pytest.raises(PaddingError) as caught:
        check.chunk(bytes(127))
    assert caught.value.code == "cell"
    anything = CellCheck(CellProfile("off"))
    anything.chunk(b"")
    anything.finish()
