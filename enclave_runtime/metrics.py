"""What a node counts: the numbers of its schema, and nothing else.

There is no way to name another metric, to add a label or to attach a value to a request: the methods of
:class:`Metrics` take no text but a member of :class:`RequestOutcome`, and there is a place for a number only where
the schema has a series.

What is shown is coarser than what happens. Values leave once in an interval, counters in whole steps, and the queue
only as a bucket, so that one request among others does not stand out. Every count is rounded to whole steps by
chance when it is added: right on average, and with nothing left over. Whoever brought a counter close to its next
step, by requests of his own, would otherwise read off its next change what exactly somebody else's request added.
"""

import enum
import secrets
import threading
from collections.abc import Callable

from enclave_runtime.metrics_schema import MAX_VALUE, QUEUE, REQUESTS, STAPLE, TOKENS, Metric, MetricsSchema


class RequestOutcome(enum.StrEnum):
    """How a request ended, as coarsely as an operator needs it."""

    ANSWERED = "answered"
    REFUSED = "refused"
    OVERLOADED = "overloaded"
    ABANDONED = "abandoned"
    FAILED = "failed"


class MetricRefused(Exception):
    """A value that the list does not allow; its text is the metric's name at most."""


class Metrics:
    """Counts what happens, coarsely. May be used from several threads.

    ``queue_depth`` is asked when the values are taken; ``draw`` gives a random number below its argument. An outcome
    that the schema does not list is not counted.
    """

    def __init__(
        self,
        schema: MetricsSchema,
        queue_depth: Callable[[], int],
        draw: Callable[[int], int] = secrets.randbelow,
    ) -> None:
        self.schema = schema
        self._draw = draw
        self._queue_depth = queue_depth
        self._places = {(s.metric.name, s.label_value): place for place, s in enumerate(schema.series)}
        self._counts = [0] * len(schema.series)
        self._staple_refused = False
        self._lock = threading.Lock()

    def restart(self) -> None:
        """Count from zero again: what ran before a node listens is nobody's request."""
        with self._lock:
            self._counts = [0] * len(self._counts)

    def request_ended(self, outcome: RequestOutcome) -> None:
        """Count one request."""
        if not isinstance(outcome, RequestOutcome):
            raise MetricRefused(REQUESTS.name)
        self._add(REQUESTS, outcome.value, 1)

    def tokens_generated(self, count: int) -> None:
        """Count ``count`` more tokens."""
        if type(count) is not int or not 0 <= count <= 1 << 32:
            raise MetricRefused(TOKENS.name)
        self._add(TOKENS, "", count)

    def staple_judged(self, *, refused: bool) -> None:
        """Say whether the last staple that the host handed over was refused."""
        self._staple_refused = refused

    def values(self) -> tuple[int, ...]:
        """The numbers as they may be shown, one for each series of the schema."""
        with self._lock:
            values = list(self._counts)
        for gauge, value in ((QUEUE, self._queue_depth()), (STAPLE, int(self._staple_refused))):
            place = self._places.get((gauge.name, ""))
            if place is not None:
                values[place] = self.schema.series[place].metric.bucket(value)
        return tuple(values)

    def _add(self, kind: Metric, label_value: str, count: int) -> None:
        place = self._places.get((kind.name, label_value))
        if place is None:
            return
        step = self.schema.series[place].metric.step
        with self._lock:
            self._counts[place] = min(
                self._counts[place] + self._rounded(count, step), MAX_VALUE // step * step
            )

    def _rounded(self, count: int, step: int) -> int:
        """``count`` as whole steps, up or down by chance so that it is right on average."""
        whole, rest = divmod(count, step)
        return (whole + (self._draw(step) < rest)) * step
