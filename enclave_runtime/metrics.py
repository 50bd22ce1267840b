"""The three numbers that leave a node, and nothing else.

The list below is closed: names, types, label values, steps and bucket bounds. It is part of the runtime
manifest and so of what the node's evidence vouches for. There is no way to name another metric, to add a
label or to attach a value to a request: the methods of :class:`Metrics` take no text but a member of
:class:`RequestOutcome`.

What is shown is coarser than what is counted. Values change only once in :data:`INTERVAL_S` seconds,
counters in whole steps, and the queue only as a bucket, so that one request among others does not stand
out. Every count is rounded to whole steps by chance when it is added: right on average, and with nothing
left over. Whoever brought a counter close to its next step, by requests of his own, would otherwise read
off its next change what exactly somebody else's request added.

Before the text leaves, :func:`check_exposition` reads it again and drops all of it if a line is not of the
list.
"""

import enum
import re
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

INTERVAL_S = 10
"""Seconds between two changes of what is shown."""

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class RequestOutcome(enum.StrEnum):
    """How a request ended, as coarsely as an operator needs it."""

    ANSWERED = "answered"
    REFUSED = "refused"
    OVERLOADED = "overloaded"
    ABANDONED = "abandoned"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of the list: a counter is shown in whole ``step``s, a gauge as the bucket bound that holds
    it.
    """

    name: str
    kind: Literal["counter", "gauge"]
    meaning: str
    label: str | None = None
    label_values: tuple[str, ...] = ()
    step: int = 1
    buckets: tuple[int, ...] = ()


REQUESTS = Metric(
    name="cloister_requests_total",
    kind="counter",
    meaning="Requests that ended, by outcome.",
    label="outcome",
    label_values=tuple(RequestOutcome),
    step=20,
)
TOKENS = Metric(
    name="cloister_tokens_generated_total",
    kind="counter",
    meaning="Tokens generated for all requests together.",
    step=1000,
)
QUEUE = Metric(
    name="cloister_queue_depth",
    kind="gauge",
    meaning="Requests that wait, as the upper bound of their bucket.",
    buckets=(0, 4, 16, 64, 256, 1024),
)
METRICS = (REQUESTS, TOKENS, QUEUE)


class MetricRefused(Exception):
    """A line or a value that the list does not allow; its text is the metric's name at most."""


def manifest() -> list[dict[str, Any]]:
    """The list as the runtime manifest carries it."""
    return [
        {
            "name": metric.name,
            "type": metric.kind,
            "labels": {metric.label: list(metric.label_values)} if metric.label else {},
            "step": metric.step,
            "buckets": list(metric.buckets),
            "interval_s": INTERVAL_S,
        }
        for metric in METRICS
    ]


class Metrics:
    """Counts what happens and shows it coarsely. May be used from several threads.

    ``clock`` gives seconds that only rise; ``queue_depth`` is asked when the shown values change; ``draw`` gives
    a random number below its argument.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        queue_depth: Callable[[], int],
        draw: Callable[[int], int] = secrets.randbelow,
    ) -> None:
        self._draw = draw
        self._clock = clock
        self._queue_depth = queue_depth
        self._requests = dict.fromkeys(RequestOutcome, 0)
        self._tokens = 0
        self._lock = threading.Lock()
        self._shown = self._render()
        self._changed_at = clock()

    def restart(self) -> None:
        """Count from zero again: what ran before a node listens is nobody's request."""
        with self._lock:
            self._requests = dict.fromkeys(RequestOutcome, 0)
            self._tokens = 0
            self._shown, self._changed_at = self._render(), self._clock()

    def request_ended(self, outcome: RequestOutcome) -> None:
        """Count one request."""
        if not isinstance(outcome, RequestOutcome):
            raise MetricRefused(REQUESTS.name)
        with self._lock:
            self._requests[outcome] += self._rounded(1, REQUESTS.step)

    def tokens_generated(self, count: int) -> None:
        """Count ``count`` more tokens."""
        if type(count) is not int or not 0 <= count <= 1 << 32:
            raise MetricRefused(TOKENS.name)
        with self._lock:
            self._tokens += self._rounded(count, TOKENS.step)

    def _rounded(self, count: int, step: int) -> int:
        """``count`` as whole steps, up or down by chance so that it is right on average."""
        whole, rest = divmod(count, step)
        return (whole + (self._draw(step) < rest)) * step

    def exposition(self) -> bytes:
        """The metrics in the Prometheus text format, as they stood at the last change; empty if a line is
        refused.
        """
        with self._lock:
            now = self._clock()
            if now - self._changed_at >= INTERVAL_S:
                self._shown, self._changed_at = self._render(), now
            shown = self._shown
        try:
            check_exposition(shown)
        except MetricRefused:
            return b""
        return shown

    def _render(self) -> bytes:
        lines: list[str] = []
        counts: Mapping[Metric, Mapping[str, int]] = {
            REQUESTS: {f'{{{REQUESTS.label}="{o}"}}': n for o, n in self._requests.items()},
            TOKENS: {"": self._tokens},
        }
        for metric, values in counts.items():
            lines += _head(metric)
            lines += [f"{metric.name}{label} {value}" for label, value in values.items()]
        lines += [*_head(QUEUE), f"{QUEUE.name} {_bucket(QUEUE, self._queue_depth())}"]
        return ("\n".join(lines) + "\n").encode("ascii")


def check_exposition(text: bytes) -> None:
    """Raise MetricRefused unless every line is one that the list allows, and each allowed series appears
    once.
    """
    try:
        lines = text.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise MetricRefused("not ASCII") from None
    if lines.pop() != "":
        raise MetricRefused("no newline at the end")
    expected = _allowed_lines()
    if len(lines) != len(expected):
        raise MetricRefused("another number of lines")
    for line, (prefix, metric) in zip(lines, expected, strict=True):
        if metric is None:
            if line != prefix:
                raise MetricRefused("a comment")
            continue
        value = line.removeprefix(prefix)
        if value == line or not re.fullmatch(r"0|[1-9][0-9]{0,18}", value):
            raise MetricRefused(metric.name)
        if metric.buckets and int(value) not in metric.buckets:
            raise MetricRefused(metric.name)
        if int(value) % metric.step:
            raise MetricRefused(metric.name)


def _allowed_lines() -> list[tuple[str, Metric | None]]:
    allowed: list[tuple[str, Metric | None]] = []
    for metric in METRICS:
        allowed += [(line, None) for line in _head(metric)]
        labels = [f'{{{metric.label}="{value}"}}' for value in metric.label_values] or [""]
        allowed += [(f"{metric.name}{label} ", metric) for label in labels]
    return allowed


def _head(metric: Metric) -> list[str]:
    return [f"# HELP {metric.name} {metric.meaning}", f"# TYPE {metric.name} {metric.kind}"]


def _bucket(metric: Metric, value: int) -> int:
    return next((bound for bound in metric.buckets if value <= bound), metric.buckets[-1])
