"""Guessing the next tokens of an answer from its own past, so that one step can compute several of them.

Answers repeat: names, quotations, code. Where the last few tokens occurred before in the same request, what followed
them then is a guess of what follows now (prompt lookup). A guess is computed in the same step as the token before it
and counts only if the sampler, with its own logits and its own next random number, picks exactly that token. So an
answer is the same, token for token, with guessing or without it.

There is nothing to share and nothing to keep: the only store is the request's own buffer of tokens, which is
overwritten when the request ends. How often guesses come true depends on the words, and shows in time; a node only
guesses where its cells are paced (``enclave_runtime.node``).
"""

from collections.abc import Sequence

import numpy as np

MAX_GUESSES = 8
_LONGEST, _SHORTEST = 4, 2


def dealt(wants: Sequence[int], budget: int) -> list[int]:
    """``budget`` in rounds of one each, first come first served, to those who want so many."""
    given = [0] * len(wants)
    for _ in range(max(wants, default=0)):
        for place, want in enumerate(wants):
            if given[place] < want and budget > 0:
                given[place] += 1
                budget -= 1
    return given


def guesses(tokens: np.ndarray, most: int) -> np.ndarray:
    """At most ``most`` tokens that may follow ``tokens`` (int64 [count]): what followed the latest earlier occurrence
    of its longest tail of 4 to 2 tokens. Empty where there is none.
    """
    if most < 1:
        return tokens[:0]
    for length in range(min(_LONGEST, len(tokens) - 1), _SHORTEST - 1, -1):
        tail = tokens[-length:]
        earlier = np.lib.stride_tricks.sliding_window_view(tokens[:-1], length)
        places = np.flatnonzero((earlier == tail).all(axis=1))
        if len(places):
            after = int(places[-1]) + length
            return tokens[after : after + most].copy()
    return tokens[:0]
