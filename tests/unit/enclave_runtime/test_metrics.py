"""Only the listed metrics can be expressed, shown values are coarse, and any other line is dropped."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave_runtime.metrics import (
    INTERVAL_S,
    METRICS,
    MetricRefused,
    Metrics,
    RequestOutcome,
    check_exposition,
    manifest,
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def counted(clock, outcomes, tokens, depth=0):
    metrics = Metrics(clock, lambda: depth)
    for outcome in outcomes:
        metrics.request_ended(outcome)
    metrics.tokens_generated(tokens)
    return metrics


def test_values_change_only_at_the_interval_and_in_steps(clock):
    metrics = counted(clock, [RequestOutcome.ANSWERED] * 13, 2345, depth=3)
    before = metrics.exposition()
    assert b'{outcome="answered"} 0\n' in before
    clock.now = INTERVAL_S - 0.1
    assert metrics.exposition() == before
    clock.now = INTERVAL_S
    text = metrics.exposition()
    assert b'cloister_requests_total{outcome="answered"} 10\n' in text
    assert b"cloister_tokens_generated_total 2000\n" in text
    assert b"cloister_queue_depth 4\n" in text


def test_requests_of_another_length_may_look_the_same(clock):
    shorter = counted(clock, [RequestOutcome.ANSWERED] * 6, 1001)
    longer = counted(clock, [RequestOutcome.ANSWERED] * 8, 1900)
    clock.now = INTERVAL_S
    assert shorter.exposition() == longer.exposition()


@pytest.mark.parametrize("value", ["answered", "secret", None, 1])
def test_an_outcome_outside_the_list_is_refused(clock, value):
    with pytest.raises(MetricRefused):
        Metrics(clock, lambda: 0).request_ended(value)


@pytest.mark.parametrize("value", [-1, 1.5, True, "7", 1 << 40])
def test_a_token_count_that_is_none_is_refused(clock, value):
    with pytest.raises(MetricRefused):
        Metrics(clock, lambda: 0).tokens_generated(value)


@given(depth=st.integers(0, 1 << 40))
def test_the_queue_shows_only_its_bucket(depth):
    clock = Clock()
    text = Metrics(clock, lambda: depth).exposition()
    check_exposition(text)


@pytest.mark.parametrize(
    "line",
    [
        b"cloister_prompt_total 5\n",
        b'cloister_requests_total{outcome="secret"} 5\n',
        b'cloister_requests_total{user="a"} 5\n',
        b"# HELP cloister_queue_depth secret\n",
        b"cloister_queue_depth 4 1700000000\n",
        b"secret",
    ],
)
def test_a_line_outside_the_list_is_refused(clock, line):
    text = Metrics(clock, lambda: 0).exposition()
    check_exposition(text)
    for place in range(len(text.splitlines()) + 1):
        lines = text.splitlines(keepends=True)
        with pytest.raises(MetricRefused):
            check_exposition(b"".join([*lines[:place], line, *lines[place:]]))
        if place < len(lines) and lines[place] != line:
            with pytest.raises(MetricRefused):
                check_exposition(b"".join([*lines[:place], line, *lines[place + 1 :]]))


@given(st.binary(max_size=300))
def test_any_other_bytes_are_refused(data):
    with pytest.raises(MetricRefused):
        check_exposition(data)


def test_every_single_byte_change_is_refused_or_another_allowed_value(clock):
    text = Metrics(clock, lambda: 0).exposition()
    for place in range(len(text)):
        changed = bytearray(text)
        changed[place] ^= 1
        try:
            check_exposition(bytes(changed))
        except MetricRefused:
            continue
        pytest.fail(f"byte {place} could be changed")


def test_an_emission_that_fails_the_check_is_dropped(clock):
    metrics = Metrics(clock, lambda: 0)
    metrics._shown += b'cloister_requests_total{prompt="secret"} 1\n'
    assert metrics.exposition() == b""


def test_the_manifest_names_exactly_the_three(clock):
    assert [entry["name"] for entry in manifest()] == [metric.name for metric in METRICS]
    assert len(METRICS) == 3
