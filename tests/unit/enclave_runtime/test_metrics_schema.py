"""A schema is exact: every change that is not coarser than what a node measures is refused."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave_runtime.errors import ConfigurationError
from enclave_runtime.metrics_schema import DEFAULT, MAX_SERIES, MetricsSchema

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def changed(place: int, **members: object) -> dict[str, object]:
    table = copy.deepcopy(DEFAULT.table())
    table["metrics"][place] |= members
    return table


def test_what_is_written_is_read():
    assert MetricsSchema.parse(json.loads(json.dumps(DEFAULT.table()))) == DEFAULT
    assert len(DEFAULT.series) == 8 <= MAX_SERIES


def test_it_may_be_coarser():
    coarser = changed(0, step=1000, most_per_s=1, label_values=["answered", "failed"])
    coarser["metrics"][2] |= {"buckets": [0, 1024]}
    del coarser["metrics"][1]
    schema = MetricsSchema.parse(coarser)
    assert [s.label_value for s in schema.series] == ["answered", "failed", "", ""]


@pytest.mark.parametrize(
    "table",
    [
        None,
        {},
        [],
        "*",
        {"interval_s": 10},
        {"interval_s": 10, "metrics": []},
        {"interval_s": 10, "metrics": ["*"]},
        {"interval_s": 10, "metrics": "*"},
        {**DEFAULT.table(), "interval_s": 0},
        {**DEFAULT.table(), "interval_s": True},
        {**DEFAULT.table(), "interval_s": 4000},
        {**DEFAULT.table(), "more": 1},
        {"interval_s": 10, "metrics": DEFAULT.table()["metrics"] * 2},
        changed(0, name="*"),
        changed(0, name="cloister_prompt_total"),
        changed(0, name="cloister_.*"),
        changed(0, type="gauge"),
        changed(0, label="user"),
        changed(0, label_values=["*"]),
        changed(0, label_values=["answered", "answered"]),
        changed(0, label_values=[]),
        changed(0, label_values=["secret"]),
        changed(0, label_values="*"),
        changed(0, step=1),
        changed(0, step="*"),
        changed(0, most_per_s=10**6),
        changed(0, most_per_s=0),
        changed(0, meaning="a\nb"),
        changed(0, meaning=""),
        changed(0, more=1),
        changed(1, label_values=["answered"]),
        changed(2, buckets=[]),
        changed(2, buckets=[0, 1, 2, 3]),
        changed(2, buckets=[16, 4]),
        changed(2, step=1),
    ],
)
def test_anything_else_is_refused(table):
    with pytest.raises(ConfigurationError) as caught:
        MetricsSchema.parse(table)
    assert caught.value.code == "config_metrics"


@given(json_values)
def test_random_documents_stay_in_the_family(value):
    with pytest.raises(ConfigurationError):
        MetricsSchema.parse(value)


@given(st.integers(0, 2), st.sampled_from(sorted(DEFAULT.table()["metrics"][0])), json_values)
def test_random_members_stay_in_the_family(place, name, value):
    try:
        schema = MetricsSchema.parse(changed(place, **{name: value}))
    except ConfigurationError:
        return
    assert MetricsSchema.parse(schema.table()) == schema
