"""Weights as the decoder on torch multiplies them: float32, query, key and value in one matrix, gate and up in one."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from enclave_runtime.engine.config import ModelConfig
from enclave_runtime.engine.weights import TensorSource, check_tensors, loader_threads


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


def assemble(config: ModelConfig, source: TensorSource) -> ModelWeights:
    """Read every weight as float32. Raises what `check_tensors` raises."""
    check_tensors(config, source)
    weights, places = room_for(config)
    with ThreadPoolExecutor(loader_threads(), thread_name_prefix="weights") as pool:
        for _ in pool.map(lambda place: source.read_into(place[0], place[1].numpy()), places):
            pass
    return weights


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
