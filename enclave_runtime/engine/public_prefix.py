"""Keys and values of a text that everybody knows, computed once at the start.

A system prompt that is part of the measured configuration belongs to nobody, so its keys and values may serve every
request that begins with it. A request never shares a page: its own pages get a copy, in whole pages and in whole
tiles of attention, so the result is what it would have computed itself, bit for bit. Nothing is ever added later:
what users send is never kept for anybody.
"""

import math

import numpy as np

from enclave_runtime.engine.decoder import ATTENTION_TILE, Decoder, Span
from enclave_runtime.engine.pages import PagePool, PageTable

PUBLIC_OWNER = 1 << 62
"""Who owns the pages of the public prefix; no request has this number."""


class PublicPrefix:
    """``tokens`` (int64) and their keys and values in ``table``."""

    def __init__(self, tokens: np.ndarray, table: PageTable, page_tokens: int) -> None:
        self._tokens = tokens
        self._table = table
        self._unit = unit(page_tokens)

    def begin(self, prompt: np.ndarray, table: PageTable, pool: PagePool) -> int:
        """Copy into ``table`` what ``prompt`` has in common with the prefix; how many positions that is.

        At least one position of a prompt is left to compute, since its logits are wanted.
        """
        length = min(len(self._tokens), len(prompt) - 1)
        same = self._tokens[:length] == prompt[:length]
        common = length if bool(same.all()) else int(np.argmin(same))
        common -= common % self._unit
        if common:
            pool.copy(self._table, table, common // pool.page_tokens)
        return common


def computed_prefix(tokens: np.ndarray, decoder: Decoder, pool: PagePool) -> PublicPrefix:
    """Compute ``tokens`` (int64, a multiple of `unit`) into pages of their own."""
    table = pool.allocate(PUBLIC_OWNER, len(tokens))
    for start in range(0, len(tokens), ATTENTION_TILE):
        decoder.step([Span(tokens[start : start + ATTENTION_TILE], start, table, False)], pool)
    return PublicPrefix(tokens, table, pool.page_tokens)


def unit(page_tokens: int) -> int:
    """Prefixes are reused in multiples of this many positions: whole pages, and whole tiles of attention."""
    return math.lcm(page_tokens, ATTENTION_TILE)
