"""Weights of a Llama-family decoder, as whoever reads a model's files offers them to whoever lays them out.

A loader offers named tensors (`TensorSource`); `check_tensors` holds that exactly the tensors of the configuration are
there, in exactly its shapes. Names are those of the Hugging Face checkpoints.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from enclave_runtime.engine.config import ModelConfig
from enclave_runtime.engine.errors import ModelMalformed

MAX_LOADER_THREADS = 16


def loader_threads() -> int:
    """How many threads read a model: one for each processor of this process, within reason."""
    return min(MAX_LOADER_THREADS, len(os.sched_getaffinity(0)))


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as its file holds it: ``rows`` is uint8 [rows, bytes per row] in the format with ggml's number
    ``kind``. Row r of the tensor is stored row ``order[r]`` (r itself where ``order`` is None).
    """

    kind: int
    rows: np.ndarray
    order: np.ndarray | None = None


class TensorSource(Protocol):
    """Where weights come from. The reading methods may be called from several threads at once."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Row-major shape of every tensor offered, by checkpoint name."""

    def read_into(self, name: str, out: np.ndarray) -> None:
        """Write tensor ``name`` as float32 into ``out``, which has its shape."""

    def kind(self, name: str) -> int:
        """The number of tensor ``name``'s format in ggml."""

    def stored(self, name: str) -> StoredTensor:
        """Tensor ``name`` without converting it; its rows may be a view that lives as long as the source."""


def check_tensors(config: ModelConfig, source: TensorSource) -> None:
    """Raise `ModelMalformed` for a tensor that is missing, extra or of another shape."""
    offered = source.shapes()
    if config.tied_head:
        offered.pop("lm_head.weight", None)  # some files repeat the embedding under this name
    expected = dict(expected_shapes(config))
    for name, shape in expected.items():
        if name not in offered:
            raise ModelMalformed("tensor missing", expected=name)
        if offered[name] != shape:
            raise ModelMalformed(f"shape of {name}", expected=shape, found=offered[name])
    extra = sorted(offered.keys() - expected.keys())
    if extra:
        raise ModelMalformed("tensor that this architecture does not have", found=extra[0])


def expected_shapes(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Checkpoint name and shape of every tensor of ``config``."""
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    yield "model.embed_tokens.weight", (config.vocab_size, hidden)
    yield "model.norm.weight", (hidden,)
    if not config.tied_head:
        yield "lm_head.weight", (config.vocab_size, hidden)
    for layer in range(config.layers):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (hidden,)
        yield prefix + "self_attn.q_proj.weight", (queries, hidden)
        yield prefix + "self_attn.k_proj.weight", (keys, hidden)
        yield prefix + "self_attn.v_proj.weight", (keys, hidden)
        yield prefix + "self_attn.o_proj.weight", (hidden, queries)
        yield prefix + "post_attention_layernorm.weight", (hidden,)
        yield prefix + "mlp.gate_proj.weight", (inner, hidden)
        yield prefix + "mlp.up_proj.weight", (inner, hidden)
        yield prefix + "mlp.down_proj.weight", (hidden, inner)
        if config.projection_bias:
            yield prefix + "self_attn.q_proj.bias", (queries,)
            yield prefix + "self_attn.k_proj.bias", (keys,)
            yield prefix + "self_attn.v_proj.bias", (keys,)
        if config.head_norm:
            yield prefix + "self_attn.q_norm.weight", (config.head_dim,)
            yield prefix + "self_attn.k_norm.weight", (config.head_dim,)
