"""Only what the schema lists can be counted, and it is counted coarsely."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave_runtime.metrics import MetricRefused, Metrics, RequestOutcome
from enclave_runtime.metrics_schema import DEFAULT, QUEUE, REQUESTS, TOKENS, MetricsSchema
from enclave_runtime.openmetrics import render

UP, DOWN = (lambda step: 0), (lambda step: step - 1)
TOKENS_AT, QUEUE_AT = 5, 6


def metrics(draw=DOWN, depth=0) -> Metrics:
    return Metrics(DEFAULT, lambda: depth, draw)


def test_counts_move_in_whole_steps():
    counted = metrics(UP, depth=3)
    for _ in range(3):
        counted.request_ended(RequestOutcome.ANSWERED)
    counted.tokens_generated(2345)
    assert counted.values() == (60, 0, 0, 0, 0, 3000, 4, 0)
    counted.restart()
    assert counted.values()[:6] == (0,) * 6


def test_counts_are_right_on_average():
    counted = metrics(random.Random(1).randrange)
    for _ in range(4000):
        counted.request_ended(RequestOutcome.ANSWERED)
        counted.tokens_generated(37)
    assert counted.values()[0] == pytest.approx(4000, rel=0.2)
    assert counted.values()[TOKENS_AT] == pytest.approx(4000 * 37, rel=0.2)


@pytest.mark.parametrize("value", ["answered", "secret", None, 1])
def test_an_outcome_outside_the_list_is_refused(value):
    with pytest.raises(MetricRefused):
        metrics().request_ended(value)


@pytest.mark.parametrize("value", [-1, 1.5, True, "7", 1 << 40])
def test_a_token_count_that_is_none_is_refused(value):
    with pytest.raises(MetricRefused):
        metrics().tokens_generated(value)


@given(depth=st.integers(0, 1 << 40))
def test_the_queue_shows_only_its_bucket(depth):
    assert metrics(depth=depth).values()[QUEUE_AT] in QUEUE.buckets


def test_what_a_schema_leaves_out_is_not_counted():
    table = DEFAULT.table()
    table["metrics"] = [{**table["metrics"][0], "label_values": ["failed"], "step": 100}]
    counted = Metrics(MetricsSchema.parse(table), lambda: 9, UP)
    for outcome in RequestOutcome:
        counted.request_ended(outcome)
    counted.tokens_generated(5)
    assert counted.values() == (100,)


def test_the_outcomes_are_those_of_the_list():
    assert tuple(outcome.value for outcome in RequestOutcome) == REQUESTS.label_values
    assert TOKENS.label_values == ()


def test_the_text_is_openmetrics():
    text = render(DEFAULT, (20, 0, 40, 0, 0, 3000, 16, 0)).decode()
    assert text.splitlines()[:3] == [
        "# TYPE cloister_requests counter",
        "# HELP cloister_requests Requests that ended, by outcome.",
        'cloister_requests_total{outcome="answered"} 20',
    ]
    assert "cloister_queue_depth 16\n" in text
    assert text.endswith("cloister_staple_refused 0\n# EOF\n")
    parser = pytest.importorskip("prometheus_client.openmetrics.parser")
    families = {f.name: f for f in parser.text_string_to_metric_families(text)}
    shown = {(s.name, *s.labels.values()): s.value for f in families.values() for s in f.samples}
    assert shown["cloister_requests_total", "overloaded"] == 40
    assert shown["cloister_tokens_generated_total",] == 3000
    assert {f.type for f in families.values()} == {"counter", "gauge"}
