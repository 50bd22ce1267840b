"""What is measured, each with its formula: tools disagree about names, so the formula goes with the number."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.load import Timing


@dataclass(frozen=True, slots=True)
class Metric:
    """A quantity: its name, unit, formula in words, and whether less of it is better."""

    name: str
    unit: str
    formula: str
    less_is_better: bool


@dataclass(frozen=True, slots=True)
class Objective:
    """A service level: a request is good if its TTFT and TPOT (seconds) are at most these."""

    ttft_s: float = 1.0
    tpot_s: float = 0.1

    def __str__(self) -> str:
        return f"TTFT <= {self.ttft_s:g} s and TPOT <= {self.tpot_s:g} s"


TTFT = Metric("ttft", "s", "time of the first text - intended time of sending", True)
TPOT = Metric("tpot", "s", "(time of last text - time of first text) / (output tokens - 1)", True)
CHUNK_GAP = Metric("chunk_gap", "s", "mean of the times between arrivals of text, per request", True)
END_TO_END = Metric("end_to_end", "s", "time the answer was complete - intended time of sending", True)
TOKENS_PER_S = Metric(
    "output_tokens_per_s",
    "tokens/s",
    "output tokens / (time the answer was complete - intended time of sending), per request",
    False,
)
QPS = Metric("requests_per_s", "1/s", "answered requests / (last completion - first intended sending)", False)
TOTAL_TOKENS_PER_S = Metric(
    "total_tokens_per_s",
    "tokens/s",
    "output tokens of all requests / (last completion - first intended sending)",
    False,
)
GOODPUT = Metric("goodput", "1/s", "requests within the objective / (last completion - first sending)", False)
EMPTY = Metric("empty_request", "s", "GET /v1/models over the same path, an empty handler: the limit", True)
BOOT = Metric("boot", "s", "time the server said it listens - time it was started", True)
LOAD = Metric("load", "s", "part of boot: reading, checking and packing the model's weights", True)
WARM_UP = Metric(
    "warm_up", "s", "part of boot: the engine's first requests, so that nothing is made later", True
)
EVIDENCE = Metric("evidence", "s", "part of boot: making keys and collecting evidence", True)
SEAL = Metric("seal", "s", "part of boot: putting the seal in force", True)
ATTEST = Metric("attest", "s", "client's fetch and verification of the node's evidence", True)
FIRST_TOKEN = Metric("first_token", "s", "TTFT of the first request after a boot", True)
ENCAPSULATE = Metric("encapsulate", "s", "median of sealing one request to the node's key config", True)

PER_REQUEST: dict[Metric, Callable[[Timing], float | None]]
PER_LOAD: dict[Metric, Callable[[Sequence[Timing], Objective], float]]


def ttft(timing: Timing) -> float:
    """Seconds to the first text."""
    return timing.first - timing.intended


def tpot(timing: Timing) -> float | None:
    """Seconds per output token after the first; None where there was no time between two arrivals."""
    spent = timing.last - timing.first
    return spent / (timing.tokens - 1) if timing.tokens > 1 and spent > 0 else None


def chunk_gap(timing: Timing) -> float | None:
    """Mean seconds between arrivals; None for an answer that came in one piece."""
    total = sum(timing.gaps)
    return total / len(timing.gaps) if total > 0 else None


def end_to_end(timing: Timing) -> float:
    """Seconds from the intended sending to the complete answer."""
    return timing.ended - timing.intended


def tokens_per_s(timing: Timing) -> float:
    """Output tokens per second of one request, its waiting included."""
    return timing.tokens / end_to_end(timing)


def requests_per_s(timings: Sequence[Timing], _: Objective) -> float:
    """Requests per second of one load."""
    return len(timings) / span(timings)


def total_tokens_per_s(timings: Sequence[Timing], _: Objective) -> float:
    """Output tokens per second of one load, all users together."""
    return sum(timing.tokens for timing in timings) / span(timings)


def goodput(timings: Sequence[Timing], objective: Objective) -> float:
    """Requests per second that met the objective."""
    good = sum(
        ttft(timing) <= objective.ttft_s and (tpot(timing) or 0.0) <= objective.tpot_s for timing in timings
    )
    return good / span(timings)


def span(timings: Sequence[Timing]) -> float:
    """Seconds from the first intended sending to the last completion."""
    return max(timing.ended for timing in timings) - min(timing.intended for timing in timings)


PER_REQUEST = {
    TTFT: ttft,
    TPOT: tpot,
    CHUNK_GAP: chunk_gap,
    END_TO_END: end_to_end,
    TOKENS_PER_S: tokens_per_s,
}
PER_LOAD = {QPS: requests_per_s, TOTAL_TOKENS_PER_S: total_tokens_per_s, GOODPUT: goodput}
PER_BOOT = (BOOT, LOAD, WARM_UP, EVIDENCE, SEAL, ATTEST, FIRST_TOKEN, ENCAPSULATE, EMPTY)
ALL = (*PER_REQUEST, *PER_LOAD, *PER_BOOT)
BY_NAME = {metric.name: metric for metric in ALL}
