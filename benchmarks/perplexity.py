"""How well a decoder predicts a text: perplexity over windows, with the standard error.

As llama.cpp's program of that name does it: the text is cut into windows, each begins with no context, and only the
second half of each is scored, so that every scored token has at least half a window before it.
"""

import math
import pydoc_data.topics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from enclave_runtime.engine.decoder import Decoder, Span

PAGE = 16


@dataclass(frozen=True, slots=True)
class Perplexity:
    """e to the mean of ``surprise`` (nats a token) with the standard error of that mean."""

    tokens: int
    surprise: float
    error: float

    @property
    def value(self) -> float:
        return math.exp(self.surprise)


def summary(surprises: Sequence[float]) -> Perplexity:
    """From what every scored token was worth, in nats."""
    values = np.asarray(surprises, dtype=np.float64)
    error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.inf
    return Perplexity(len(values), float(values.mean()), error)


def standard_text() -> str:
    """English prose that every Python carries: its own language reference, by topic."""
    return "\n".join(topic for _, topic in sorted(pydoc_data.topics.topics.items()))


def cut(tokens: Sequence[int], windows: int, length: int) -> list[list[int]]:
    """The first windows of ``length`` tokens. Raises `ValueError` if the text is shorter."""
    if len(tokens) < windows * length:
        raise ValueError(f"the text has {len(tokens)} tokens, {windows * length} are needed")
    return [list(tokens[at * length : (at + 1) * length]) for at in range(windows)]


def surprises(decoder: Decoder, windows: Sequence[Sequence[int]], threads: int) -> list[float]:
    """Nats that each token in the second half of each window is worth to the decoder. All windows are computed side
    by side, token by token as in decoding."""
    length = len(windows[0])
    half = length // 2
    decoder.reserve(length, rows=max(256, len(windows)), threads=threads)
    pool = decoder.new_pool(len(windows) * -(-length // PAGE), PAGE)
    tables = [pool.allocate(owner, length) for owner in range(1, len(windows) + 1)]
    result: list[float] = []
    for window, table in zip(windows, tables, strict=True):
        decoder.step([Span(np.array(window[: half - 1]), 0, table, False)], pool)
    for at in range(half - 1, length - 1):
        spans = [
            Span(np.array(window[at : at + 1]), at, table, True)
            for window, table in zip(windows, tables, strict=True)
        ]
        logits = decoder.step(spans, pool).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        chosen = logits[np.arange(len(windows)), [window[at + 1] for window in windows]]
        result += (np.log(np.exp(logits).sum(axis=1)) - chosen).tolist()
    return result
