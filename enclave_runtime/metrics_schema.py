"""The closed list of metrics: part of the measured configuration, compiled to what can be counted at all.

A schema names every metric with its type, its label and the values that it takes, the step in which a counter is
shown or the bounds between which a gauge is, how much a counter may rise in a second, and how often all of it is
shown. There is no pattern and no default: a node without a schema has no metrics, and a node without metrics does not
start. What a node can measure is closed too (:data:`MEASURABLE`); a schema chooses among it and may only make it
coarser.

:attr:`MetricsSchema.series` are all numbers that can ever leave, in order. Behind the parser nothing else exists:
the counters of the node are made of it, and so is the check of the process that shows them.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from enclave_runtime.errors import ConfigurationError

MAX_METRICS, MAX_SERIES = 16, 64
MAX_VALUE: Final = (1 << 53) - 1
"""Numbers beyond it are not whole in every reader of the text format."""

_NAME = re.compile(r"cloister_[a-z0-9_]{1,54}")
_WORD = re.compile(r"[a-z][a-z0-9_]{0,31}")
_MEANING = re.compile(r"[A-Za-z0-9 ,.;'()-]{1,120}")


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of the list. A counter has a ``step`` and ``most_per_s``, a gauge has rising ``buckets``."""

    name: str
    type: Literal["counter", "gauge"]
    meaning: str
    label: str
    label_values: tuple[str, ...]
    step: int
    most_per_s: int
    buckets: tuple[int, ...]

    def bucket(self, value: int) -> int:
        """The upper bound of the bucket that holds ``value``; the last one where none does."""
        return next((bound for bound in self.buckets if value <= bound), self.buckets[-1])


@dataclass(frozen=True, slots=True)
class Series:
    """One number that may leave: a metric, and the value of its label (empty where it has none)."""

    metric: Metric
    label_value: str


@dataclass(frozen=True, slots=True)
class MetricsSchema:
    """The list, and the seconds between two times that its numbers are shown."""

    interval_s: int
    metrics: tuple[Metric, ...]

    @property
    def series(self) -> tuple[Series, ...]:
        """Every number that may leave, in the one order in which they do."""
        return tuple(
            Series(metric, value) for metric in self.metrics for value in (metric.label_values or ("",))
        )

    def table(self) -> dict[str, Any]:
        """The schema as :meth:`parse` takes it, for the configuration and the manifest."""
        metrics = [
            {**asdict(m), "label_values": list(m.label_values), "buckets": list(m.buckets)}
            for m in self.metrics
        ]
        return {"interval_s": self.interval_s, "metrics": metrics}

    @classmethod
    def parse(cls, table: object) -> "MetricsSchema":
        """Read a schema. Raises ConfigurationError ``config_metrics`` for all that is not exactly one."""
        members = _exactly(table, {"interval_s", "metrics"}, "the schema")
        interval = _whole(members["interval_s"], 1, 3600, "interval_s")
        listed = members["metrics"]
        if not isinstance(listed, list) or not 1 <= len(listed) <= MAX_METRICS:
            raise _refused(f"a list of 1 to {MAX_METRICS} metrics")
        schema = cls(interval, tuple(_metric(entry) for entry in listed))
        if len({metric.name for metric in schema.metrics}) != len(schema.metrics):
            raise _refused("a name that is listed twice")
        if len(schema.series) > MAX_SERIES:
            raise _refused(f"at most {MAX_SERIES} series")
        return schema


REQUESTS: Final = Metric(
    name="cloister_requests_total",
    type="counter",
    meaning="Requests that ended, by outcome.",
    label="outcome",
    label_values=("answered", "refused", "overloaded", "abandoned", "failed"),
    step=20,
    most_per_s=200,
    buckets=(),
)
TOKENS: Final = Metric(
    name="cloister_tokens_generated_total",
    type="counter",
    meaning="Tokens generated for all requests together.",
    label="",
    label_values=(),
    step=1000,
    most_per_s=20_000,
    buckets=(),
)
QUEUE: Final = Metric(
    name="cloister_queue_depth",
    type="gauge",
    meaning="Requests that wait, as the upper bound of their bucket.",
    label="",
    label_values=(),
    step=0,
    most_per_s=0,
    buckets=(0, 4, 16, 64, 256, 1024),
)

STAPLE: Final = Metric(
    name="cloister_staple_refused",
    type="gauge",
    meaning="1 where the last staple that the host handed over was refused.",
    label="",
    label_values=(),
    step=0,
    most_per_s=0,
    buckets=(0, 1),
)

MEASURABLE: Final[Mapping[str, Metric]] = {m.name: m for m in (REQUESTS, TOKENS, QUEUE, STAPLE)}
"""What a node can measure, as finely as it may be shown."""

DEFAULT: Final = MetricsSchema(10, tuple(MEASURABLE.values()))
"""The list that ``cloister serve`` puts into a configuration."""


def _metric(entry: object) -> Metric:
    members = _exactly(entry, set(Metric.__dataclass_fields__), "a metric")
    name, label, meaning = members["name"], members["label"], members["meaning"]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _refused("a metric's name")
    known = MEASURABLE.get(name)
    if known is None:
        raise _refused(f"{name} is nothing that a node measures")
    values = _list_of(members["label_values"], str, f"label_values of {name}")
    buckets = _list_of(members["buckets"], int, f"buckets of {name}")
    if (members["type"], label) != (known.type, known.label):
        raise _refused(f"{name} has another type or label")
    if not all(_WORD.fullmatch(value) for value in values) or not set(values) <= set(known.label_values):
        raise _refused(f"{name} has no such label value")
    if len(set(values)) != len(values) or bool(values) != bool(known.label_values):
        raise _refused(f"label_values of {name}")
    if not isinstance(meaning, str) or not _MEANING.fullmatch(meaning):
        raise _refused(f"meaning of {name}")
    if not set(buckets) <= set(known.buckets) or list(buckets) != sorted(set(buckets)):
        raise _refused(f"buckets of {name}")
    if bool(buckets) != bool(known.buckets):
        raise _refused(f"buckets of {name}")
    counts = known.type == "counter"
    step = _whole(members["step"], known.step, 1 << 32 if counts else 0, f"step of {name}")
    most = _whole(members["most_per_s"], 1 if counts else 0, known.most_per_s, f"most_per_s of {name}")
    return Metric(name, known.type, meaning, label, values, step, most, buckets)


def _exactly(value: object, names: set[str], what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != names:
        raise _refused(f"{what} has exactly the members {', '.join(sorted(names))}")
    return value


def _list_of(value: object, kind: type, what: str) -> tuple[Any, ...]:
    if (
        not isinstance(value, list)
        or len(value) > MAX_SERIES
        or not all(type(item) is kind for item in value)
    ):
        raise _refused(what)
    return tuple(value)


def _whole(value: object, least: int, most: int, what: str) -> int:
    if type(value) is not int or not least <= value <= most:
        raise _refused(f"{what} is a whole number from {least} to {most}")
    return value


def _refused(what: str) -> ConfigurationError:
    return ConfigurationError("config_metrics", what[:200])
