"""One rank's share of a model: heads, the intermediate size and the head's vocabulary are split, the rest is whole.

Query, key, value, gate and up are split by outputs, the two projections that follow by inputs, so that a layer needs
two sums over the ranks and nothing else (Shoeybi et al., 2019, arXiv 1909.08053). Embedding and norms are everywhere.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from enclave_runtime.engine.config import ModelConfig
from enclave_runtime.engine.errors import UnsupportedModel
from enclave_runtime.engine.torch_weights import LayerWeights, ModelWeights, room_for
from enclave_runtime.engine.weights import TensorSource, check_tensors

MAX_RANKS = 64

_BY_OUTPUTS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
_BY_INPUTS = ("o_proj.weight", "down_proj.weight")


@dataclass(frozen=True, slots=True)
class Shard:
    """``config`` has this rank's heads and intermediate size; ``weights.head`` its rows of the head, ``first_word`` on,
    ``words`` on every rank but perhaps the last.
    """

    rank: int
    ranks: int
    config: ModelConfig
    weights: ModelWeights
    first_word: int
    words: int


def check_split(config: ModelConfig, ranks: int) -> None:
    """Raise `UnsupportedModel` (``not_divisible``) unless every rank gets as many heads, KV heads and intermediate
    columns as every other.
    """
    if type(ranks) is not int or not 1 <= ranks <= MAX_RANKS:
        raise UnsupportedModel("ranks", expected=f"1 to {MAX_RANKS}", found=ranks)
    for name, count in (
        ("kv heads", config.kv_heads),
        ("heads", config.heads),
        ("intermediate size", config.intermediate_size),
    ):
        if count % ranks:
            raise UnsupportedModel(
                f"{name} are not divisible by {ranks} ranks", code="not_divisible", found=count
            )


def read_shard(
    config: ModelConfig, source: TensorSource, rank: int, ranks: int, device: str = "cpu"
) -> Shard:
    """Read what rank ``rank`` (from 0) computes, onto ``device``.

    Raises `UnsupportedModel` (see `check_split`), `ModelMalformed`.
    """
    check_split(config, ranks)
    check_tensors(config, source)
    small = replace(
        config,
        heads=config.heads // ranks,
        kv_heads=config.kv_heads // ranks,
        intermediate_size=config.intermediate_size // ranks,
    )
    words = -(-config.vocab_size // ranks)
    first, last = min(rank * words, config.vocab_size), min((rank + 1) * words, config.vocab_size)
    weights, places = room_for(replace(small, tied_head=True))
    shapes = source.shapes()
    for name, out in places:
        whole = torch.empty(shapes[name], dtype=torch.float32)
        source.read_into(name, whole.numpy())
        if any(part in name for part in _BY_OUTPUTS):
            whole = whole.chunk(ranks, 0)[rank]
        elif name.endswith(_BY_INPUTS):
            whole = whole.chunk(ranks, 1)[rank]
        out.copy_(whole)
    head = weights.embedding
    if not config.tied_head:
        head = torch.empty(config.vocab_size, config.hidden_size)
        source.read_into("lm_head.weight", head.numpy())
    weights = replace(weights, head=head[first:last].clone() if ranks > 1 else head)
    return Shard(rank, ranks, small, _moved(weights, device), first, words)


def _moved(weights: ModelWeights, device: str) -> ModelWeights:
    if device == "cpu":
        return weights
    layers = tuple(
        LayerWeights(*(_on(getattr(layer, each.name), device) for each in fields(layer)))
        for layer in weights.layers
    )
    return ModelWeights(
        weights.embedding.to(device), layers, weights.final_norm.to(device), weights.head.to(device)
    )


def _on(tensor: Any, device: str) -> Any:
    return None if tensor is None else tensor.to(device)
