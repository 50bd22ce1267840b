"""The node's numbers on their way to the process that shows them, and the second look at them there.

A frame has a fixed length: u32 number of the frame, then one u64 for each series of the schema, in its order, all
big-endian. There is room for nothing else. :class:`FrameReader` is on the other side of the pipe, in a process of its
own that has read the schema itself: it believes none of it before it has looked.
"""

import math
from collections.abc import Sequence
from struct import Struct

from enclave_runtime.metrics_schema import MAX_VALUE, Metric, MetricsSchema

PATIENCE = 0.5
"""A frame may come after this share of an interval: clocks of two processes differ a little."""


class FrameRefused(Exception):
    """A frame that the schema does not allow. It is dropped."""


def frame_length(schema: MetricsSchema) -> int:
    """Bytes of every frame."""
    return _layout(schema).size


def encode_frame(schema: MetricsSchema, number: int, values: Sequence[int]) -> bytes:
    """One frame. ``values`` has one number for each series."""
    return _layout(schema).pack(number & 0xFFFF_FFFF, *values)


def held_back(schema: MetricsSchema, values: Sequence[int], before: Sequence[int]) -> tuple[int, ...]:
    """``values`` with counters that rise no further above ``before`` than an interval allows: the rest comes later.

    Without it, who makes one counter rise quickly would have every frame dropped, and all the others with it.
    """
    return tuple(
        value if series.metric.type == "gauge" else min(value, last + _rise(series.metric, schema.interval_s))
        for series, value, last in zip(schema.series, values, before, strict=True)
    )


class FrameReader:
    """Checks frames against the schema and against those before; ``values`` is what may be shown now."""

    def __init__(self, schema: MetricsSchema, started_at: float) -> None:
        self._schema = schema
        self._layout = _layout(schema)
        self._number = -1
        self._at = started_at
        self.values = tuple(0 for _ in schema.series)

    def take(self, frame: bytes, at: float) -> None:
        """Look at a frame that arrived at ``at`` (seconds that only rise) and adopt it.

        Raises FrameRefused, and then nothing changes.
        """
        if len(frame) != self._layout.size:
            raise FrameRefused("length")
        number, *values = self._layout.unpack(frame)
        elapsed = at - self._at
        if number <= self._number or (self._number >= 0 and elapsed < PATIENCE * self._schema.interval_s):
            raise FrameRefused("rate")
        for series, value, before in zip(self._schema.series, values, self.values, strict=True):
            _check(series.metric, value, before, max(elapsed, self._schema.interval_s))
        self._number, self._at, self.values = number, at, tuple(values)


def _check(metric: Metric, value: int, before: int, elapsed: float) -> None:
    if metric.type == "gauge":
        if value not in metric.buckets and value != 0:
            raise FrameRefused(metric.name)
        return
    # A counter that rises by whatever it likes could carry more than a count.
    most = before + _rise(metric, elapsed)
    if value % metric.step or not before <= value <= min(most, MAX_VALUE):
        raise FrameRefused(metric.name)


def _rise(metric: Metric, seconds: float) -> int:
    """By how much a counter may rise, in whole steps."""
    return math.ceil(metric.most_per_s * seconds / metric.step) * metric.step


def _layout(schema: MetricsSchema) -> Struct:
    return Struct(f">I{len(schema.series)}Q")
