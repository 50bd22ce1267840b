"""Anyone sends requests that are refused, more in a second than the list of metrics lets a counter rise, so that the
process that shows metrics drops every frame: the operator sees nothing of anything any more.
"""

import contextlib
import os
from collections.abc import Iterator

import pytest

from enclave_runtime import egress
from enclave_runtime.egress import Egress
from enclave_runtime.metrics import Metrics, RequestOutcome
from enclave_runtime.metrics_frame import FrameReader, FrameRefused, frame_length
from enclave_runtime.metrics_schema import DEFAULT, QUEUE, TOKENS

NAMES = [series.metric.name for series in DEFAULT.series]
REFUSED = list(RequestOutcome).index(RequestOutcome.REFUSED)
FLOOD = 6000
"""Requests of an interval of ten seconds; 2,000 of them are shown."""


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def shown(pipe: tuple[int, int], intervals: int) -> list[tuple[int, ...]]:
    """What is shown after each interval; the flood stops half way."""
    depth = [0]
    metrics, reader = Metrics(DEFAULT, lambda: depth[0]), FrameReader(DEFAULT, 0.0)
    node = Egress(DEFAULT, pipe[1], 0)
    found = []
    for number in range(intervals):
        for _ in range(FLOOD if number < intervals // 2 else 0):
            metrics.request_ended(RequestOutcome.REFUSED)
        metrics.tokens_generated(5000)
        depth[0] = number
        node.send(metrics.values())
        frame = os.read(pipe[0], frame_length(DEFAULT))
        with contextlib.suppress(FrameRefused):
            reader.take(frame, 10.0 * (number + 1))
        found.append(reader.values)
    return found


def test_a_flood_of_one_counter_hides_no_other(pipe: tuple[int, int]) -> None:
    found = shown(pipe, 12)
    tokens, queue = NAMES.index(TOKENS.name), NAMES.index(QUEUE.name)
    assert [values[tokens] for values in found] == [5000 * (number + 1) for number in range(12)]
    assert [values[queue] for values in found] == [QUEUE.bucket(number) for number in range(12)]
    # The counter itself rises as quickly as it may, and goes on until all of it is told.
    assert [values[REFUSED] for values in found] == [2000 * (number + 1) for number in range(12)]


def test_control_where_nothing_is_held_back_nothing_is_shown(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(egress, "held_back", lambda schema, values, before: values)
    assert set(shown(pipe, 12)) == {(0,) * len(NAMES)}
