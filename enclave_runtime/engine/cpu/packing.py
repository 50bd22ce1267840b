"""Stored weights into the layouts of the compiled decoder, in one piece of memory.

What a file holds in blocks keeps its numbers: Q8_0, Q6_K, Q4_0, Q4_1 and Q4_K are rearranged, never rounded anew
(for Q4_K, block scale times group scale is kept in half precision). Floating-point matrices become bfloat16, or
8 bits with a scale per 32 where that is asked for. Norms and biases stay float32.
"""

import ctypes
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from enclave_runtime.engine.config import ModelConfig
from enclave_runtime.engine.cpu import binding
from enclave_runtime.engine.errors import ModelMalformed, UnsupportedModel
from enclave_runtime.engine.ggml_types import FLOATS, GgmlType
from enclave_runtime.engine.weights import StoredTensor, TensorSource, check_tensors, loader_threads

GROUP = 32
LANES = 16

_KINDS = {
    GgmlType.Q8_0: binding.KIND_Q8,
    GgmlType.Q6_K: binding.KIND_Q8_16,
    GgmlType.Q4_1: binding.KIND_Q4_MIN,
    GgmlType.Q4_K: binding.KIND_Q4_MIN,
    GgmlType.Q4_0: binding.KIND_Q4,
}


@dataclass(frozen=True, slots=True)
class PackedModel:
    """What the library computes with; ``kept`` holds on to the memory behind the structures.

    ``weight_bytes`` is what one token reads of the matrices (the head, not the embedding beside it).
    """

    struct: binding.Model
    weight_bytes: int
    kept: tuple[object, ...]


class WeightMemory:
    """Zeroed memory of the library's, in huge pages where there are any. Lives as long as this object."""

    def __init__(self, library: ctypes.CDLL, size: int) -> None:
        self._library, self._size, self._used = library, size, 0
        self.address: int = library.cloister_memory(size) or 0
        if not self.address:
            raise MemoryError("no memory for the weights")

    def take(self, size: int) -> int:
        """The address of ``size`` more bytes, aligned to cache lines."""
        place = self.address + self._used
        self._used += _aligned(size)
        if self._used > self._size:
            raise MemoryError("more weights than were counted")
        return place

    def __del__(self) -> None:
        if getattr(self, "address", 0):
            self._library.cloister_memory_free(self.address, self._size)
            self.address = 0


def computes(config: ModelConfig) -> bool:
    """Whether the compiled decoder knows this shape: heads of a multiple of 16, at most 256 wide."""
    return config.head_dim % LANES == 0 and config.head_dim <= 256


def pack(
    library: ctypes.CDLL, config: ModelConfig, source: TensorSource, *, int8: bool = False
) -> PackedModel:
    """Read and lay out every weight; ``int8`` turns floating-point matrices into 8 bits.

    Raises `ModelMalformed` (also for scales that are not finite) or `UnsupportedModel`.
    """
    check_tensors(config, source)
    packer = _Packer(library, config, source, int8)
    return packer.pack()


_PLACES = (
    ("query", "self_attn.q_proj.weight"),
    ("key", "self_attn.k_proj.weight"),
    ("value", "self_attn.v_proj.weight"),
    ("output", "self_attn.o_proj.weight"),
    ("gate", "mlp.gate_proj.weight"),
    ("up", "mlp.up_proj.weight"),
    ("down", "mlp.down_proj.weight"),
)
_VECTORS = (
    ("attention_norm", "input_layernorm.weight"),
    ("mlp_norm", "post_attention_layernorm.weight"),
    ("query_bias", "self_attn.q_proj.bias"),
    ("key_bias", "self_attn.k_proj.bias"),
    ("value_bias", "self_attn.v_proj.bias"),
    ("query_norm", "self_attn.q_norm.weight"),
    ("key_norm", "self_attn.k_norm.weight"),
)


class _Packer:
    def __init__(self, library: ctypes.CDLL, config: ModelConfig, source: TensorSource, int8: bool) -> None:
        self._library, self._config, self._source, self._int8 = library, config, source, int8
        self._shapes = source.shapes()
        self._vectors: list[np.ndarray] = []

    def pack(self) -> PackedModel:
        config = self._config
        matrices: list[tuple[str, binding.Matrix]] = []
        layers = (binding.Layer * config.layers)()
        for index, layer in enumerate(layers):
            prefix = f"model.layers.{index}."
            for field, name in _PLACES:
                matrices.append((prefix + name, getattr(layer, field)))
            for field, name in _VECTORS:
                if prefix + name in self._shapes:
                    setattr(layer, field, self._vector(prefix + name))
        struct = binding.Model(
            vocabulary=config.vocab_size,
            hidden=config.hidden_size,
            layers=config.layers,
            heads=config.heads,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            intermediate=config.intermediate_size,
            norm_epsilon=config.norm_epsilon,
            final_norm=self._vector("model.norm.weight"),
            layer=ctypes.cast(layers, ctypes.POINTER(binding.Layer)),
        )
        matrices.append(("model.embed_tokens.weight", struct.embedding))
        if not config.tied_head:
            matrices.append(("lm_head.weight", struct.head))
        sizes = [self._describe(name, matrix) for name, matrix in matrices]
        memory = WeightMemory(self._library, sum(_aligned(a) + _aligned(b) for a, b in sizes) + 1)
        for (_, matrix), (weights, scales) in zip(matrices, sizes, strict=True):
            matrix.weights = memory.take(weights)
            matrix.scales = memory.take(scales)
        self._fill(matrices)
        read = sum(a + b for a, b in sizes)
        if config.tied_head:
            ctypes.pointer(struct.head)[0] = struct.embedding
        else:
            read -= sum(sizes[-2])
        return PackedModel(struct, read, (layers, memory, self._vectors))

    def _describe(self, name: str, matrix: binding.Matrix) -> tuple[int, int]:
        """Fill in all but the addresses; the sizes in bytes of weights and scales."""
        outputs, columns = self._shapes[name]
        kind = GgmlType(self._source.kind(name))
        if kind in FLOATS:
            matrix.kind = binding.KIND_Q8 if self._int8 else binding.KIND_BF16
        elif kind in _KINDS:
            matrix.kind = _KINDS[kind]
        else:
            raise UnsupportedModel(f"quantisation of {name}", found=kind.name)
        matrix.outputs, matrix.inputs = outputs, -(-columns // GROUP) * GROUP
        shape = matrix.kind, matrix.outputs, matrix.inputs
        return self._library.cloister_matrix_bytes(*shape), self._library.cloister_scale_bytes(*shape)

    def _fill(self, matrices: Sequence[tuple[str, binding.Matrix]]) -> None:
        """Lay out all of them, each thread in a single call: none waits for the interpreter, which reads a tokenizer
        meanwhile.
        """
        stored = (binding.StoredMatrix * len(matrices))()
        kept: list[np.ndarray | None] = []
        for place, (name, matrix) in zip(stored, matrices, strict=True):
            tensor: StoredTensor = self._source.stored(name)
            rows, order = np.ascontiguousarray(tensor.rows), tensor.order
            place.matrix = ctypes.pointer(matrix)
            place.rows, place.row_bytes = rows.ctypes.data, rows.shape[1]
            place.order = None if order is None else order.ctypes.data
            place.columns, place.stored = self._shapes[name][1], tensor.kind
            kept += rows, order
        begun = ctypes.c_int64(0)

        def work(_: int) -> int:
            return int(self._library.cloister_pack(stored, len(stored), ctypes.byref(begun)))

        with ThreadPoolExecutor(loader_threads(), thread_name_prefix="weights") as pool:
            failed = max(pool.map(work, range(loader_threads())))
        if failed:
            raise ModelMalformed("weights or scales that are not finite", found=matrices[failed - 1][0])

    def _vector(self, name: str) -> int:
        size = self._shapes[name][0]
        values = np.zeros(-(-size // GROUP) * GROUP, dtype=np.float32)
        self._source.read_into(name, values[:size])
        self._vectors.append(values)
        return int(values.ctypes.data)


def _aligned(size: int) -> int:
    return (size + 63) // 64 * 64
