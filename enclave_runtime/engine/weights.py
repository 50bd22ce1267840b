"""Weights of a Llama-family decoder, laid out as the decoder multiplies them.

A loader offers named tensors (`TensorSource`); `assemble` checks that exactly the tensors of the
configuration are there, in exactly its shapes, and writes them into fused matrices: query, key and value in
one, gate and up in one. Names are those of the Hugging Face checkpoints.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from enclave_runtime.engine.config import ModelConfig
from enclave_runtime.engine.errors import ModelMalformed

LOADER_THREADS = 2


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer, float32, row-major [outputs, inputs]. H heads, K kv heads of size D; I intermediate."""

    attention_norm: Tensor  # [hidden]
    query_key_value: Tensor  # [(H + 2K) * D, hidden]
    attention_output: Tensor  # [hidden, H * D]
    mlp_norm: Tensor  # [hidden]
    gate_up: Tensor  # [2 * I, hidden]
    down: Tensor  # [hidden, I]
    bias: Tensor | None = None  # [(H + 2K) * D]
    query_norm: Tensor | None = None  # [D]
    key_norm: Tensor | None = None  # [D]


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """All weights, float32. ``head`` is the same tensor as ``embedding`` when the model ties them."""

    embedding: Tensor  # [vocabulary, hidden]
    layers: tuple[LayerWeights, ...]
    final_norm: Tensor  # [hidden]
    head: Tensor  # [vocabulary, hidden]


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

    def read_into(self, name: str, out: Tensor) -> None:
        """Write tensor ``name`` as float32 into ``out``, which has its shape and is contiguous."""

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


def assemble(config: ModelConfig, source: TensorSource) -> ModelWeights:
    """Read every weight as float32. Raises what `check_tensors` raises."""
    check_tensors(config, source)
    weights, places = room_for(config)
    with ThreadPoolExecutor(LOADER_THREADS, thread_name_prefix="weights") as pool:
        for _ in pool.map(lambda place: source.read_into(*place), places):
            pass
    return weights


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


def room_for(config: ModelConfig) -> tuple[ModelWeights, list[tuple[str, Tensor]]]:
    """Memory for the weights of ``config``, not filled, and for every tensor's name the part of it where it belongs."""
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    places: list[tuple[str, Tensor]] = []

    def new(*shape: int) -> Tensor:
        return torch.empty(*shape, dtype=torch.float32)

    embedding, final_norm = new(config.vocab_size, hidden), new(hidden)
    places += [("model.embed_tokens.weight", embedding), ("model.norm.weight", final_norm)]
    head = embedding
    if not config.tied_head:
        head = new(config.vocab_size, hidden)
        places.append(("lm_head.weight", head))
    layers = []
    for index in range(config.layers):
        layer = LayerWeights(
            new(hidden),
            new(queries + 2 * keys, hidden),
            new(hidden, queries),
            new(hidden),
            new(2 * inner, hidden),
            new(hidden, inner),
            bias=new(queries + 2 * keys) if config.projection_bias else None,
            query_norm=new(config.head_dim) if config.head_norm else None,
            key_norm=new(config.head_dim) if config.head_norm else None,
        )
        query, key, value = torch.tensor_split(layer.query_key_value, (queries, queries + keys))
        gate, up = torch.tensor_split(layer.gate_up, (inner,))
        prefix = f"model.layers.{index}."
        places += [
            (prefix + "input_layernorm.weight", layer.attention_norm),
            (prefix + "self_attn.q_proj.weight", query),
            (prefix + "self_attn.k_proj.weight", key),
            (prefix + "self_attn.v_proj.weight", value),
            (prefix + "self_attn.o_proj.weight", layer.attention_output),
            (prefix + "post_attention_layernorm.weight", layer.mlp_norm),
            (prefix + "mlp.gate_proj.weight", gate),
            (prefix + "mlp.up_proj.weight", up),
            (prefix + "mlp.down_proj.weight", layer.down),
        ]
        if layer.bias is not None:
            for name, part in zip(
                "qkv", torch.tensor_split(layer.bias, (queries, queries + keys)), strict=True
            ):
                places.append((f"{prefix}self_attn.{name}_proj.bias", part))
        if layer.query_norm is not None and layer.key_norm is not None:
            places.append((prefix + "self_attn.q_norm.weight", layer.query_norm))
            places.append((prefix + "self_attn.k_norm.weight", layer.key_norm))
        layers.append(layer)
    return ModelWeights(embedding, tuple(layers), final_norm, head), places
