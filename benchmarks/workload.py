"""What is asked, and when: the same prompts, seeds, lengths and times for every arm, from one seed.

Prompt lengths follow the buckets of the published Hopper study (arXiv 2409.03992, table 3), made disjoint: short 1
to 100 tokens, medium 101 to 500, long 501 to 1500. A prompt is written from a seed to a number of words that falls
inside its bucket for common tokenizers; the server's own count is recorded with every answer, and a report says
how many fell outside.
"""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_TRACE = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Bucket:
    """A range of prompt lengths: ``tokens`` as promised, ``words`` as written (both ends included)."""

    tokens: tuple[int, int]
    words: tuple[int, int]


PROFILES = {
    "short": Bucket((1, 100), (8, 50)),
    "medium": Bucket((101, 500), (120, 310)),
    "long": Bucket((501, 1500), (480, 900)),
}


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request: what is asked, and exactly how many tokens the answer has. Greedy, so repeatable."""

    text: str
    max_tokens: int
    seed: int = 0

    @property
    def digest(self) -> str:
        """The first 16 hex digits of the text's SHA-256: names the prompt in a record without repeating it."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


class TraceError(Exception):
    """A trace file is not as documented; ``code`` names the reason."""

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        super().__init__(f"{code}: {detail}")


def prompts(profile: str, count: int, *, max_tokens: int, seed: int = 0) -> tuple[Prompt, ...]:
    """``count`` different prompts of a profile. Raises ValueError for a profile that is not known."""
    if profile not in PROFILES:
        raise ValueError(f"a profile is one of {', '.join(PROFILES)}")
    least, most = PROFILES[profile].words
    source = random.Random(f"{profile}/{seed}")  # noqa: S311 - a workload, not a secret
    return tuple(
        Prompt(_written(source, source.randint(least, most)), max_tokens, seed * 1_000_003 + slot)
        for slot in range(count)
    )


def poisson(count: int, rate: float, seed: int = 0) -> tuple[float, ...]:
    """``count`` intended sending times in seconds from the start, exponential gaps at ``rate`` per second."""
    if not rate > 0.0:
        raise ValueError("a rate is positive")
    source, at, times = random.Random(f"poisson/{seed}"), 0.0, []  # noqa: S311
    for _ in range(count):
        times.append(at)
        at += source.expovariate(rate)
    return tuple(times)


def read_trace(path: Path) -> tuple[tuple[Prompt, ...], tuple[float, ...]]:
    """Prompts and intended times from a JSONL file of ``{"at_s": S, "prompt": TEXT, "max_tokens": N}``.

    Times rise and start at zero or later. Raises TraceError, OSError.
    """
    with path.open("rb") as source:
        data = source.read(MAX_TRACE + 1)
    if len(data) > MAX_TRACE:
        raise TraceError("trace_too_large", f"{path} has more than {MAX_TRACE} bytes")
    return parse_trace(data)


def parse_trace(data: bytes) -> tuple[tuple[Prompt, ...], tuple[float, ...]]:
    """Parse a trace. Raises TraceError with the number of the first bad line."""
    asked: list[Prompt] = []
    times: list[float] = []
    for number, line in enumerate(data.splitlines(), 1):
        try:
            at, prompt = _trace_line(json.loads(line), number)
        except (ValueError, LookupError, TypeError, RecursionError, OverflowError):
            raise TraceError("trace_malformed", f"line {number}") from None
        if times and at < times[-1]:
            raise TraceError("trace_order", f"line {number} comes before the line above it")
        times.append(at)
        asked.append(prompt)
    if not asked:
        raise TraceError("trace_empty", "no lines")
    return tuple(asked), tuple(times)


def _trace_line(entry: dict[str, Any], number: int) -> tuple[float, Prompt]:
    at, text, tokens = entry["at_s"], entry["prompt"], entry["max_tokens"]
    if type(text) is not str or not text or type(tokens) is not int or not 1 <= tokens <= 1 << 20:
        raise ValueError
    if type(at) not in (int, float) or not 0.0 <= at <= 1e7:
        raise ValueError
    return float(at), Prompt(text, tokens, number)


_OPENINGS = (
    "Explain to a new colleague",
    "Write a short note about",
    "List the main points of",
    "What would you ask somebody about",
    "Summarise for a busy reader",
    "Describe in plain words",
)
_THINGS: Sequence[str] = (
    "the harvest on the south field",
    "a bridge that is closed for repair",
    "the new timetable of the ferry",
    "a box of letters from an old house",
    "the choir's concert in the spring",
    "a dispute between two neighbours over a hedge",
    "the water pump in the cellar",
    "a recipe that came from a grandmother",
    "the budget of a small museum",
    "a dog that walked home across the hills",
    "the plan for a playground by the river",
    "a clock that loses four minutes a day",
)
_CLAIMS: Sequence[str] = (
    "had to be looked at twice before anybody agreed",
    "took three weeks longer than the plan said",
    "was paid for by people who wished not to be named",
    "came out better than the first sketch",
    "was talked about in every shop of the street",
    "needed fewer hands than one would think",
    "showed what patience can do in bad weather",
    "left a list of questions for the next meeting",
)


def _written(source: random.Random, words: int) -> str:
    sentences = [f"{source.choice(_OPENINGS)} {source.choice(_THINGS)}, in a few sentences."]
    count = len(sentences[0].split())
    while count < words:
        sentence = f"Keep in mind that {source.choice(_THINGS)} {source.choice(_CLAIMS)}."
        room = words - count
        kept = sentence.split()[:room]
        sentences.append(" ".join(kept) + ("" if kept[-1].endswith(".") else "."))
        count += len(kept)
    return " ".join(sentences)
