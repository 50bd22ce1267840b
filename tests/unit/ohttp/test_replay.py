"""The replay window: nothing runs twice, whatever the clock does."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ohttp.errors import ReplayError
from ohttp.replay import ReplayWindow


def key(number: int) -> bytes:
    return number.to_bytes(16)


def refusal(window: ReplayWindow, number: int, date: float, now: float) -> str | None:
    try:
        window.check_and_insert(key(number), date, now)
    except ReplayError as error:
        return error.code
    return None


@pytest.mark.parametrize(
    ("date", "code"),
    [(1000, None), (880, None), (1120, None), (879, "stale"), (1121, "stale"), (math.nan, "stale")],
)
def test_dates(date: float, code: str | None) -> None:
    assert refusal(ReplayWindow(120), 1, date, 1000) == code


def test_a_second_time_is_refused_for_as_long_as_its_date_could_pass() -> None:
    window = ReplayWindow(120)
    assert refusal(window, 1, 1120, 1000) is None
    for now in range(1000, 1241, 7):
        assert refusal(window, 1, 1120, now) == "replayed"
    assert refusal(window, 1, 1120, 1241) == "stale"


def test_a_full_window_refuses_and_forgets_nothing() -> None:
    window = ReplayWindow(120, capacity=3)
    for number in range(3):
        assert refusal(window, number, 1000, 1000) is None
    assert refusal(window, 9, 1000, 1000) == "full"
    assert [refusal(window, number, 1000, 1001) for number in range(3)] == ["replayed"] * 3
    assert refusal(window, 9, 1500, 1500) is None, "there is room again once the dates have passed"


def test_a_clock_set_back_reopens_nothing() -> None:
    window = ReplayWindow(120)
    assert refusal(window, 1, 1000, 1000) is None
    assert refusal(window, 2, 9000, 9000) is None
    assert len(window) == 1
    assert refusal(window, 1, 1000, 1000) == "stale"


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-150, 150), st.integers(-300, 600)), max_size=60))
def test_no_key_and_date_pass_twice(steps: list[tuple[int, int, int]]) -> None:
    window = ReplayWindow(120)
    now, passed = 10_000, set()
    for number, offset, step in steps:
        now += step
        date = now + offset
        for attempt in [(number, date), *passed]:
            if refusal(window, attempt[0], attempt[1], now) is None:
                assert attempt not in passed
                passed.add(attempt)


def test_the_window_itself_must_make_sense() -> None:
    with pytest.raises(ValueError):
        ReplayWindow(0)
    with pytest.raises(ValueError):
        ReplayWindow().check_and_insert(b"short", 0, 0)
