"""Only the listed metrics can be expressed, shown values are coarse, and any other line is dropped."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave_runtime.metrics import (
    INTERVAL_S,
    METRICS,
    REQUESTS,
    TOKENS,
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


def counted(clock, outcomes, tokens, depth=0, draw=lambda step: step - 1):
    metrics = Metrics(clock, lambda: depth, draw)
    for outcome in outcomes:
        metrics.request_ended(outcome)
    metrics.tokens_generated(tokens)
    return metrics


def test_values_change_only_at_the_interval_and_in_steps(clock):
    metrics = counted(clock, [RequestOutcome.ANSWERED] * 3, 2345, depth=3, draw=lambda step: 0)
    before = metrics.exposition()
    assert b'{outcome="answered"} 0\n' in before
    clock.now = INTERVAL_S - 0.1
    assert metrics.exposition() == before
    clock.now = INTERVAL_S
    text = metrics.exposition()
    assert b'cloister_requests_total{outcome="answered"} 60\n' in text
    assert b"cloister_tokens_generated_total 3000\n" in text
    assert b"cloister_queue_depth 4\n" in text


def test_requests_of_another_length_may_look_the_same(clock):
    shorter = counted(clock, [RequestOutcome.ANSWERED] * 6, 1001)
    longer = counted(clock, [RequestOutcome.ANSWERED] * 8, 1900)
    clock.now = INTERVAL_S
    assert shorter.exposition() == longer.exposition()


def test_counts_are_right_on_average(clock):
    chance = random.Random(1)
    metrics = Metrics(clock, lambda: 0, chance.randrange)
    for _ in range(4000):
        metrics.request_ended(RequestOutcome.ANSWERED)
        metrics.tokens_generated(37)
    clock.now = INTERVAL_S
    shown = [int(line.split()[-1]) for line in metrics.exposition().decode().split("\n") if line[:1] == "c"]
    assert shown[0] == pytest.approx(4000, rel=0.2)
    assert shown[-2] == pytest.approx(4000 * 37, rel=0.2)


class Exact(Metrics):
    """The defence removed: counts are added up as they are, and cut down to steps when shown."""

    def _rounded(self, count, step):
        return count

    def _render(self):
        requests, tokens = self._requests, self._tokens
        self._requests = {name: n - n % REQUESTS.step for name, n in requests.items()}
        self._tokens = tokens - tokens % TOKENS.step
        text = super()._render()
        self._requests, self._tokens = requests, tokens
        return text


@pytest.mark.parametrize(("kind", "share"), [(Metrics, 0.15), (Exact, 1.0)])
def test_priming_a_counter_to_read_one_answer_off_it(kind, share):
    """Somebody generates 959 tokens, then watches whether a stranger's answer has 40 tokens or 41."""
    chance = random.Random(2)

    def shown(stranger):
        clock = Clock()
        metrics = kind(clock, lambda: 0, chance.randrange)
        metrics.tokens_generated(959)
        clock.now = INTERVAL_S
        before = metrics.exposition()
        metrics.tokens_generated(stranger)
        clock.now = 2 * INTERVAL_S
        return metrics.exposition() != before

    told_apart = sum(shown(41) - shown(40) for _ in range(300)) / 300
    assert abs(told_apart) <= share
    if kind is Exact:
        assert told_apart == 1.0, "control"


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
