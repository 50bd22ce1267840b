"""Weights out of a GGUF file, as they are stored or expanded to float32.

For architecture ``llama``, GGUF stores the rows of query and key so that neighbouring dimensions turn
together under RoPE; they are put back into checkpoint order (i with i + D/2), whole rows at a time. Qwen's
rows stay in checkpoint order.
"""

import re

import numpy as np

from enclave_runtime.engine.config import ModelConfig
from enclave_runtime.engine.errors import ModelMalformed, UnsupportedModel
from enclave_runtime.engine.ggml_types import BLOCKS, FLOATS, GgmlType, type_name
from enclave_runtime.engine.gguf_file import GgufFile, GgufTensor
from enclave_runtime.engine.half_floats import widened
from enclave_runtime.engine.weights import StoredTensor

_OUTER_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "attn_q.bias": "self_attn.q_proj.bias",
    "attn_k.bias": "self_attn.k_proj.bias",
    "attn_v.bias": "self_attn.v_proj.bias",
    "attn_q_norm.weight": "self_attn.q_norm.weight",
    "attn_k_norm.weight": "self_attn.k_norm.weight",
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
_LAYER = re.compile(r"blk\.(0|[1-9][0-9]{0,3})\.(.+)", re.ASCII)
ROPE_FACTORS = "rope_freqs.weight"


class GgufTensors:
    """A `TensorSource` over the bytes of a GGUF file (which must stay alive and unchanged while it is
    read)."""

    def __init__(self, file: GgufFile, data: memoryview, config: ModelConfig) -> None:
        self._data = data
        self._data_start = file.data_start
        self._config = config
        self._neighbouring = file.metadata.text("general.architecture") == "llama"
        self._tensors: dict[str, GgufTensor] = {}
        for tensor in file.tensors.values():
            if tensor.name == ROPE_FACTORS:
                continue
            self._tensors[_checkpoint_name(tensor.name)] = tensor

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tensor.shape for name, tensor in self._tensors.items()}

    def read_into(self, name: str, out: np.ndarray) -> None:
        stored = self.stored(name)
        rows = stored.rows if stored.order is None else stored.rows[stored.order]
        np.copyto(out, expand(rows, GgmlType(stored.kind)).reshape(out.shape))

    def kind(self, name: str) -> int:
        tensor = self._tensors[name]
        stored_rows(tensor, self._data, self._data_start)
        return tensor.kind

    def stored(self, name: str) -> StoredTensor:
        tensor = self._tensors[name]
        rows, order = stored_rows(tensor, self._data, self._data_start), None
        if self._neighbouring and name.endswith("q_proj.weight"):
            order = _half_pairing(len(rows), self._config.heads)
        elif self._neighbouring and name.endswith("k_proj.weight"):
            order = _half_pairing(len(rows), self._config.kv_heads)
        return StoredTensor(tensor.kind, rows, order)


def rope_factors(file: GgufFile, data: memoryview) -> tuple[float, ...] | None:
    """Divisors of the rotary frequencies, if the file carries them."""
    tensor = file.tensors.get(ROPE_FACTORS)
    if tensor is None:
        return None
    if tensor.kind != GgmlType.F32 or len(tensor.shape) != 1:
        raise ModelMalformed("rope_freqs is no float32 vector", found=tensor.shape)
    return tuple(stored_rows(tensor, data, file.data_start).view("<f4").reshape(-1).tolist())


def stored_rows(tensor: GgufTensor, data: memoryview, data_start: int) -> np.ndarray:
    """The bytes of ``tensor`` as stored: uint8 [rows, bytes per row], a view of ``data``."""
    if tensor.kind not in BLOCKS:
        raise UnsupportedModel(f"quantisation of {tensor.name}", found=type_name(tensor.kind))
    block_items, block_bytes = BLOCKS[GgmlType(tensor.kind)]
    columns = tensor.shape[-1]
    if columns % block_items:
        raise ModelMalformed(f"row of {tensor.name} is no whole number of blocks", found=columns)
    row_bytes = columns // block_items * block_bytes
    rows = 1
    for size in tensor.shape[:-1]:
        rows *= size
    start = data_start + tensor.offset
    if start + rows * row_bytes > len(data):
        raise ModelMalformed(f"{tensor.name} lies beyond the end of the file", found=tensor.offset)
    return np.frombuffer(data, np.uint8, rows * row_bytes, start).reshape(rows, row_bytes)


def expand(rows: np.ndarray, kind: GgmlType) -> np.ndarray:
    """Stored rows (uint8) to float32 [rows, columns]. Raises `UnsupportedModel` for blocks where the package gguf, that
    takes them apart, is not installed; the compiled decoder needs it for no matrix.
    """
    if kind in FLOATS:
        return widened(rows, kind)
    try:
        from gguf import GGMLQuantizationType, quants
    except ImportError:
        raise UnsupportedModel(f"{kind.name} in float32: cloister's extra 'runtime' brings it") from None
    with np.errstate(all="ignore"):  # scales of a malformed file may overflow
        expanded: np.ndarray = quants.dequantize(rows, GGMLQuantizationType(kind))
    return expanded


def _half_pairing(rows: int, heads: int) -> np.ndarray:
    """Which stored row each row in checkpoint order is: int64 [rows]."""
    pairs = np.arange(rows, dtype=np.int64).reshape(heads, rows // heads // 2, 2)
    return pairs.swapaxes(1, 2).reshape(rows)


def _checkpoint_name(name: str) -> str:
    if name in _OUTER_NAMES:
        return _OUTER_NAMES[name]
    layer = _LAYER.fullmatch(name)
    if layer and layer[2] in _LAYER_NAMES:
        return f"model.layers.{layer[1]}.{_LAYER_NAMES[layer[2]]}"
    return name  # assemble() refuses it by this name
