"""Choosing the next token of one request from its logits.

A request's choices depend on its own logits, settings and seed only: one Philox stream per request, one
number drawn per token.
"""

import numpy as np
import torch
from torch import Tensor

_LIKELY = 1024  # candidates looked at first; the whole vocabulary is sorted only if these do not reach top_p


class Sampler:
    """Greedy at ``temperature`` 0, otherwise from the smallest set of likeliest tokens that reaches
    ``top_p``.

    ``seed`` is any integer below 2**128 (negative ones down to -2**127).
    """

    def __init__(self, *, temperature: float, top_p: float, seed: int) -> None:
        self._temperature = temperature
        self._top_p = top_p
        self._stream = np.random.Generator(np.random.Philox(key=seed % (1 << 128)))

    def pick(self, logits: Tensor) -> int:
        """The next token id, from finite float32 ``logits`` [vocabulary]."""
        if self._temperature == 0.0:
            return int(torch.argmax(logits))
        scaled = (logits.double() - logits.max()) / self._temperature
        probabilities = torch.softmax(scaled, dim=0)
        if self._top_p >= 1.0:
            return self._draw(probabilities)
        candidates, ids = self._nucleus(probabilities)
        return int(ids[self._draw(candidates)])

    def _nucleus(self, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        ordered, ids = torch.topk(probabilities, min(_LIKELY, len(probabilities)))
        if float(ordered.sum()) < self._top_p:
            ordered, ids = torch.sort(probabilities, descending=True, stable=True)
        before = ordered.cumsum(0) - ordered
        kept = max(1, int(torch.count_nonzero(before < self._top_p)))
        return ordered[:kept], ids[:kept]

    def _draw(self, weights: Tensor) -> int:
        bounds = weights.cumsum(0)
        point = self._stream.random() * float(bounds[-1])
        return min(int(torch.searchsorted(bounds, point, right=True)), len(weights) - 1)
