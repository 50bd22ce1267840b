"""What is measured, each with its formula: tools disagree about names, so the formula goes with the number."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from benchmarks.load import Block, Timing

PROVENANCE: Literal["measured"] = "measured"


@dataclass(frozen=True, slots=True)
class Metric:
    """A quantity: its name, unit, formula in words, and whether less of it is better."""

    name: str
    unit: str
    formula: str
    less_is_better: bool


TTFT = Metric("ttft", "s", "time of the first text - time the request was handed to the client", True)
TOKENS_PER_S = Metric(
    "output_tokens_per_s",
    "tokens/s",
    "output tokens / (time the answer was complete - time the request was handed to the client), per request",
    False,
)
TPOT = Metric("tpot", "s", "(time of last text - time of first text) / (output tokens - 1)", True)
END_TO_END = Metric(
    "end_to_end", "s", "time the answer was complete - time the request was handed over", True
)
REQUESTS_PER_S = Metric(
    "requests_per_s", "1/s", "answered requests / (last completion - first sending), closed loop", False
)
EMPTY = Metric("empty_request", "s", "GET /v1/models over the same path, an empty handler: the limit", True)

ALL = (TTFT, TOKENS_PER_S, TPOT, END_TO_END, REQUESTS_PER_S, EMPTY)
BY_NAME = {metric.name: metric for metric in ALL}


def ttft(timing: Timing) -> float:
    """Seconds to the first text."""
    return timing.first - timing.sent


def tokens_per_s(timing: Timing) -> float:
    """Output tokens per second of one request, its waiting included."""
    return timing.tokens / (timing.ended - timing.sent)


def tpot(timing: Timing) -> float | None:
    """Seconds per output token after the first; None where there was no time between two arrivals."""
    spent = timing.last - timing.first
    return spent / (timing.tokens - 1) if timing.tokens > 1 and spent > 0 else None


def end_to_end(timing: Timing) -> float:
    """Seconds from sending to the complete answer."""
    return timing.ended - timing.sent


def requests_per_s(block: Block) -> float:
    """Requests per second of a closed loop."""
    began = min(timing.sent for timing in block.timings)
    return len(block.timings) / (max(timing.ended for timing in block.timings) - began)


PER_REQUEST: dict[str, Callable[[Timing], float | None]] = {
    TTFT.name: ttft,
    TOKENS_PER_S.name: tokens_per_s,
    TPOT.name: tpot,
    END_TO_END.name: end_to_end,
}
