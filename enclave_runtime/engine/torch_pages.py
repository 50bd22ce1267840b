"""KV pages for the decoder on torch: a tensor that lies position by position, on the device of the weights."""

import numpy as np
import torch
from torch import Tensor

from enclave_runtime.engine.pages import PagePool, PageTable


class TorchPages(PagePool):
    """Pages in one tensor, ``storage``: float32 [layers, 2, pages, page_tokens, kv heads, head size]."""

    def __init__(
        self, *, layers: int, kv_heads: int, head_dim: int, pages: int, page_tokens: int, device: str = "cpu"
    ) -> None:
        super().__init__(pages, page_tokens)
        self.storage = torch.zeros(layers, 2, pages, page_tokens, kv_heads, head_dim, device=device)
        self.page_bytes = self.storage.nbytes // pages if pages else 0
        self._by_slot = self.storage.view(layers, 2, pages * page_tokens, kv_heads, head_dim)

    def zero(self, pages: np.ndarray) -> None:
        for page in pages:
            self.storage[:, :, int(page)].zero_()

    def zero_all(self) -> None:
        self.storage.zero_()

    def copy_page(self, taken: int, given: int) -> None:
        self.storage[:, :, given] = self.storage[:, :, taken]

    def read_page(self, page: int, out: np.ndarray) -> None:
        taken = self.storage[:, :, page]
        torch.from_numpy(out).view(taken.dtype).view(taken.shape).copy_(taken)

    def write_page(self, page: int, data: np.ndarray) -> None:
        given = self.storage[:, :, page]
        given.copy_(torch.from_numpy(data).view(given.dtype).view(given.shape))

    def slots(self, table: PageTable, start: int, count: int) -> np.ndarray:
        """Where positions ``start`` .. ``start + count - 1`` are stored: int64 [count], checked for
        ownership.

        The pages count as written from here on.
        """
        self.check_span(table, start, count)
        positions = np.arange(start, start + count, dtype=np.int64)
        result: np.ndarray = (
            table.pages[positions // self.page_tokens] * self.page_tokens + positions % self.page_tokens
        )
        return result

    def store(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Write rows of keys and values [rows, kv heads, head size] into ``slots`` (from `slots`)."""
        self._by_slot[layer, 0].index_copy_(0, slots, keys)
        self._by_slot[layer, 1].index_copy_(0, slots, values)

    def read(self, layer: int, table: PageTable, length: int) -> tuple[Tensor, Tensor]:
        """Keys and values of positions 0 .. ``length - 1``: two float32 [kv heads, length, head size]."""
        if table.first >= 0:
            start = table.first * self.page_tokens
            both = self._by_slot[layer, :, start : start + length]
        else:
            used = torch.from_numpy(table.pages[: self.pages_for(length)]).to(self.storage.device)
            both = self.storage[layer].index_select(1, used).flatten(1, 2)[:, :length]
        keys, values = both.transpose(1, 2).unbind(0)
        return keys, values
