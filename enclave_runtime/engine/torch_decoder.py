"""The decoder on torch float32: RMSNorm, rotary attention with grouped heads, SwiGLU, optionally a tied head.

Float32 because its matrix products need no code generated at run time, so the process can refuse executable
memory (PR_SET_MDWE) from the moment it is sealed.

A request's logits do not depend on who shares its steps, as far as the library underneath allows:

- rows are padded to a multiple of `ROW_TILE`, because a matrix product sums a row in another order when it is
  one of a few;
- attention runs for each sequence alone, in tiles of `ATTENTION_TILE` queries at fixed positions, so it
  leaves no trace how a long prompt was cut into steps.

With that, results were bit-identical in every batch tried (MKL, AVX-512 and AVX2, 1 and 2 threads); it is a
property of the library observed by the tests, not one it promises.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from enclave_runtime.engine.config import ModelConfig
from enclave_runtime.engine.decoder import ATTENTION_TILE, Span
from enclave_runtime.engine.pages import PagePool, PageTable
from enclave_runtime.engine.rope import rotation_table
from enclave_runtime.engine.torch_pages import TorchPages
from enclave_runtime.engine.torch_weights import LayerWeights, ModelWeights

ROW_TILE = 8


class TorchDecoder:
    """`Decoder` over `ModelWeights`, on the device where those lie; logits come to the CPU."""

    def __init__(self, config: ModelConfig, weights: ModelWeights) -> None:
        self._config = config
        self._weights = weights
        self._device = weights.embedding.device
        self._cosines = self._sines = torch.empty(0, config.head_dim // 2)
        self._threads = torch.get_num_threads()

    @property
    def config(self) -> ModelConfig:
        return self._config

    @property
    def one_order(self) -> bool:
        return False  # a property of the library underneath, which promises none

    def manifest(self) -> Mapping[str, str]:
        return {"decoder": "torch", "path": "float32", "digest": ""}

    def new_pool(self, pages: int, page_tokens: int) -> PagePool:
        return TorchPages(
            layers=self._config.layers,
            kv_heads=self._config.kv_heads,
            head_dim=self._config.head_dim,
            pages=pages,
            page_tokens=page_tokens,
            device=str(self._device),
        )

    def reserve(self, positions: int, *, rows: int = 256, threads: int = 2) -> None:
        tables = rotation_table(self._config.rope, self._config.head_dim, positions)
        self._cosines, self._sines = (self._placed(table) for table in tables)
        self._threads = threads

    @torch.inference_mode()
    def step(self, spans: Sequence[Span], pool: PagePool) -> np.ndarray:
        assert isinstance(pool, TorchPages)
        if torch.get_num_threads() != self._threads:  # the setting belongs to the thread that computes
            torch.set_num_threads(self._threads)
        rows = sum(len(span.tokens) for span in spans)
        padding = -rows % ROW_TILE
        pad = np.zeros(padding, dtype=np.int64)
        given = np.concatenate([*(span.tokens for span in spans), pad])
        tokens = self._placed(given)
        positions = self._placed(
            np.concatenate([*(np.arange(s.start, s.start + len(s.tokens)) for s in spans), pad])
        )
        slots = self._placed(
            np.concatenate([pool.slots(span.table, span.start, len(span.tokens)) for span in spans])
        )
        turn = self._cosines[positions].unsqueeze(1), self._sines[positions].unsqueeze(1)
        tiles = [tile for span in spans for tile in _tiles(span, self._device)]

        state = self._weights.embedding[tokens]
        tokens.zero_()
        given.fill(0)
        for index, layer in enumerate(self._weights.layers):
            state += self._attend(index, layer, state, turn, slots, tiles, pool)
            state += self._feed_forward(layer, state)
        logits: np.ndarray = self._logits(state, spans).cpu().numpy()
        return logits

    def _attend(
        self,
        index: int,
        layer: LayerWeights,
        state: Tensor,
        turn: tuple[Tensor, Tensor],
        slots: Tensor,
        tiles: "list[_Tile]",
        pool: TorchPages,
    ) -> Tensor:
        config = self._config
        turning = config.heads + config.kv_heads
        fused = functional.linear(self._norm(state, layer.attention_norm), layer.query_key_value)
        if layer.bias is not None:
            fused += layer.bias
        heads = fused.view(len(state), turning + config.kv_heads, config.head_dim)
        straight = heads[:, :turning]
        if layer.query_norm is not None and layer.key_norm is not None:
            parts = torch.tensor_split(straight, (config.heads,), dim=1)
            normed = [
                self._norm(p, w) for p, w in zip(parts, (layer.query_norm, layer.key_norm), strict=True)
            ]
            straight = torch.cat(normed, dim=1)
        turned = _rotate(straight, *turn)
        queries, keys = turned[:, : config.heads], turned[:, config.heads :]
        pool.store(index, slots, keys[: len(slots)], heads[: len(slots), turning:])

        mixed = torch.zeros(len(state), config.heads, config.head_dim, device=self._device)
        row = 0
        for tile in tiles:
            past_keys, past_values = pool.read(index, tile.table, tile.end)
            mixed[row : row + tile.count] = functional.scaled_dot_product_attention(
                queries[row : row + tile.count].transpose(0, 1).unsqueeze(0),
                past_keys.unsqueeze(0),
                past_values.unsqueeze(0),
                attn_mask=tile.mask,
                enable_gqa=True,
            )[0].transpose(0, 1)
            row += tile.count
        return functional.linear(mixed.flatten(1), layer.attention_output)

    def _feed_forward(self, layer: LayerWeights, state: Tensor) -> Tensor:
        gate, up = functional.linear(self._norm(state, layer.mlp_norm), layer.gate_up).chunk(2, dim=-1)
        return functional.linear(functional.silu(gate) * up, layer.down)

    def _logits(self, state: Tensor, spans: Sequence[Span]) -> Tensor:
        ends = np.cumsum([len(span.tokens) for span in spans]) - 1
        wanted = [int(end) for end, span in zip(ends, spans, strict=True) if span.wants_logits]
        if not wanted:
            return torch.empty(0, self._config.vocab_size, device=self._device)
        padded = wanted + wanted[:1] * (-len(wanted) % ROW_TILE)
        last = self._norm(state[padded], self._weights.final_norm)
        return functional.linear(last, self._weights.head)[: len(wanted)]

    def _placed(self, numbers: np.ndarray) -> Tensor:
        return torch.from_numpy(numbers).to(self._device)

    def _norm(self, state: Tensor, weight: Tensor) -> Tensor:
        scale = state.square().mean(-1, keepdim=True).add_(self._config.norm_epsilon).rsqrt_()
        return state * scale * weight


@dataclass(frozen=True, slots=True)
class _Tile:
    """Queries ``end - count`` .. ``end - 1`` of one sequence; ``mask`` is None for a single query."""

    table: PageTable
    count: int
    end: int
    mask: Tensor | None


def _tiles(span: Span, device: torch.device) -> list[_Tile]:
    tiles = []
    position, stop = span.start, span.start + len(span.tokens)
    while position < stop:
        end = min(stop, (position // ATTENTION_TILE + 1) * ATTENTION_TILE)
        count = end - position
        mask = None
        if count > 1:
            mask = torch.full((count, end), float("-inf"), device=device).triu_(position + 1)
        tiles.append(_Tile(span.table, count, end, mask))
        position = end
    return tiles


def _rotate(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn ``heads`` [rows, heads, D] by the angles of their rows (both tables: [rows, 1, D/2])."""
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1)
