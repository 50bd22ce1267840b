"""What the engine asks of a decoder, and what it hands over in a step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from enclave_runtime.engine.config import ModelConfig
from enclave_runtime.engine.pages import PagePool, PageTable
from enclave_runtime.engine.sampling import PlainDraw

ATTENTION_TILE = 64
"""Prompts are cut into steps at multiples of so many positions."""


@dataclass(frozen=True, slots=True)
class Span:
    """A run of consecutive positions of one sequence, to be computed in one step.

    ``tokens`` is int64 [count] for positions ``start`` onward; everything before ``start`` is in ``table``
    already. ``start`` is a multiple of `ATTENTION_TILE` unless the span is a single token. ``wants_logits``
    asks for the logits after the last token. A step may have several spans of one sequence that follow one another:
    the keys and values of all are stored before any of them attends.
    """

    tokens: np.ndarray
    start: int
    table: PageTable
    wants_logits: bool


class Decoder(Protocol):
    """What the engine asks of a decoder. One thread calls it."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def one_order(self) -> bool:
        """Whether every sum has one order, whatever a step computes besides: keys and values of an answer, computed
        token by token, are then bit for bit those of a prompt.
        """

    def manifest(self) -> Mapping[str, str]:
        """What computes, for the runtime manifest: ``decoder``, ``path`` (instruction set, precision or GPU target) and
        ``digest`` (SHA-256, hexadecimal, of the compiled code; empty where there is none of ours).
        """

    def new_pool(self, pages: int, page_tokens: int) -> PagePool:
        """KV memory for this model."""

    def reserve(self, positions: int, *, rows: int = 256, threads: int = 2) -> None:
        """Prepare for positions 0 .. ``positions - 1`` and steps of about ``rows`` tokens on ``threads`` threads;
        called once, before the first step.
        """

    def step(self, spans: Sequence[Span], pool: PagePool) -> np.ndarray:
        """Compute all spans at once and store their keys and values.

        Returns float32 [spans that want logits, vocabulary], in the order of the spans; it may be written to, and is
        good until the next step.
        """


@runtime_checkable
class DrawingDecoder(Decoder, Protocol):
    """A decoder that can choose tokens itself, so that token ids and not logits reach the host.

    ``ahead``: how many steps of tokens it hands over at once, at most.
    """

    ahead: int

    def draw(
        self, spans: Sequence[Span], pool: PagePool, draws: Sequence[PlainDraw], steps: int
    ) -> np.ndarray:
        """Go on from ``spans`` (one token each, all of different sequences) for ``steps`` tokens: int64 [steps, spans].

        The tokens are those that `Sampler.pick` gives for ``draws``. Raises `EngineFault` for logits that are not
        finite.
        """
