"""What lies on the device: weights, KV pages, and the working memory of a step, as addresses."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from enclave_runtime.engine.config import ModelConfig
from enclave_runtime.engine.cuda.device import Device
from enclave_runtime.engine.cuda.weight_formats import INT8, WeightFormat
from enclave_runtime.engine.cuda.weight_rounding import from_q8_0, quantised
from enclave_runtime.engine.ggml_types import GgmlType
from enclave_runtime.engine.half_floats import to_bfloat16, to_float16
from enclave_runtime.engine.pages import PagePool
from enclave_runtime.engine.weights import TensorSource, check_tensors

ALIGNMENT = 256
ELEMENTS = {"bf16": to_bfloat16, "fp16": to_float16}
"""Types of weights, activations, keys and values, two bytes each, and how float32 is rounded to them."""

_ELEMENT_BYTES = 2


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix [outputs, inputs]: in the kernels' element, or in 8 bits, where ``scales`` is not 0."""

    weights: int
    scales: int = 0


@dataclass(frozen=True, slots=True)
class LayerAddresses:
    """One layer: norms in the kernels' element, ``bias`` in float32; 0 where a model has none."""

    attention_norm: int
    query_key_value: Matrix
    bias: int
    query_norm: int
    key_norm: int
    attention_output: Matrix
    mlp_norm: int
    gate: Matrix
    up: Matrix  # follows gate without a gap
    down: Matrix


@dataclass(frozen=True, slots=True)
class DeviceWeights:
    """All weights; ``head``, never quantised, is ``embedding`` where the model ties them. ``size`` counts bytes."""

    embedding: int
    layers: tuple[LayerAddresses, ...]
    final_norm: int
    head: Matrix
    size: int


def upload_weights(
    device: Device, config: ModelConfig, source: TensorSource, kind: WeightFormat | None = None
) -> DeviceWeights:
    """Write every weight to the device, once; the layers' matrices in 8 bits where there is a ``kind``.

    Raises `ModelMalformed` (see `check_tensors`) and CudaError.
    """
    check_tensors(config, source)
    shapes = source.shapes()
    rounded = ELEMENTS[device.shape.element]

    def size_of(name: str) -> int:
        count = int(np.prod(shapes[name], dtype=np.int64))
        return count * (4 if name.endswith("bias") else _ELEMENT_BYTES)

    taken = 0

    def room(size: int) -> int:
        nonlocal taken
        taken += size
        return device.allocate(size)

    def put(*names: str) -> int:
        """Several tensors one after the other; where the first one lies."""
        base = place = room(sum(size_of(name) for name in names))
        for name in names:
            whole = np.empty(shapes[name], dtype=np.float32)
            source.read_into(name, whole)
            device.upload(place, whole if name.endswith("bias") else rounded(whole))
            device.wait()
            place += size_of(name)
        return base

    def matrices(*names: str) -> list[Matrix]:
        """Several matrices one after the other, and so their scales."""
        if kind is None:
            sizes = [size_of(name) for name in names]
            return [Matrix(at) for at in _one_after_the_other(put(*names), sizes)]
        parts = [held(kind, source, name, shapes[name]) for name in names]
        starts = []
        for pieces in zip(*parts, strict=True):
            sizes = [piece.nbytes for piece in pieces]
            starts.append(_one_after_the_other(room(sum(sizes)), sizes))
            for at, piece in zip(starts[-1], pieces, strict=True):
                device.upload(at, piece)
                device.wait()
        return [Matrix(*both) for both in zip(*starts, strict=True)]

    def layer(index: int) -> LayerAddresses:
        prefix = f"model.layers.{index}."
        attention = prefix + "self_attn."
        gate, up = matrices(prefix + "mlp.gate_proj.weight", prefix + "mlp.up_proj.weight")
        return LayerAddresses(
            attention_norm=put(prefix + "input_layernorm.weight"),
            query_key_value=matrices(*(f"{attention}{part}_proj.weight" for part in "qkv"))[0],
            bias=put(*(f"{attention}{part}_proj.bias" for part in "qkv")) if config.projection_bias else 0,
            query_norm=put(attention + "q_norm.weight") if config.head_norm else 0,
            key_norm=put(attention + "k_norm.weight") if config.head_norm else 0,
            attention_output=matrices(attention + "o_proj.weight")[0],
            mlp_norm=put(prefix + "post_attention_layernorm.weight"),
            gate=gate,
            up=up,
            down=matrices(prefix + "mlp.down_proj.weight")[0],
        )

    embedding = put("model.embed_tokens.weight")
    layers = tuple(layer(index) for index in range(config.layers))
    final_norm = put("model.norm.weight")
    head = embedding if config.tied_head else put("lm_head.weight")
    return DeviceWeights(embedding, layers, final_norm, Matrix(head), taken)


def held(
    kind: WeightFormat, source: TensorSource, name: str, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Matrix ``name`` in format ``kind``: bits and scales (see `quantised`); what its file holds so is not rounded."""
    if kind is INT8 and source.kind(name) == GgmlType.Q8_0:
        stored = source.stored(name)
        rows = stored.rows if stored.order is None else stored.rows[stored.order]
        return from_q8_0(rows, shape[1])
    whole = np.empty(shape, dtype=np.float32)
    source.read_into(name, whole)
    return quantised(kind, whole)


def _one_after_the_other(base: int, sizes: Sequence[int]) -> list[int]:
    return [base + sum(sizes[:index]) for index in range(len(sizes))]


class DevicePages(PagePool):
    """KV pages on the device: element [layers, 2, pages + 1, page_tokens, kv heads, head size].

    One page more than anybody can own takes what rows without a request write. ``forget`` is called whenever pages are
    given back, so that what else is kept of a request goes with them.
    """

    def __init__(
        self,
        device: Device,
        config: ModelConfig,
        *,
        pages: int,
        page_tokens: int,
        forget: Callable[[], None],
    ) -> None:
        super().__init__(pages, page_tokens)
        self.nobodys = pages
        self._device, self._layers, self._forget = device, config.layers, forget
        self._part_bytes = page_tokens * config.kv_heads * config.head_dim * _ELEMENT_BYTES
        self._plane_bytes = (pages + 1) * self._part_bytes
        self.page_bytes = 2 * config.layers * self._part_bytes
        self.size = config.layers * 2 * self._plane_bytes
        self.address = device.allocate(self.size)

    def keys(self, layer: int) -> int:
        """Where a layer's keys begin."""
        return self.address + 2 * layer * self._plane_bytes

    def values(self, layer: int) -> int:
        """Where a layer's values begin."""
        return self.keys(layer) + self._plane_bytes

    def zero(self, pages: np.ndarray) -> None:
        for first, count in _runs(pages):
            for plane in range(2 * self._layers):
                at = self.address + plane * self._plane_bytes + first * self._part_bytes
                self._device.zero(at, count * self._part_bytes)
        self._forget()

    def zero_all(self) -> None:
        self._device.zero(self.address, self.size)
        self._forget()

    def copy_page(self, taken: int, given: int) -> None:
        for plane in range(2 * self._layers):
            base, size = self.address + plane * self._plane_bytes, self._part_bytes
            self._device.copy(base + taken * size, base + given * size, size)

    def read_page(self, page: int, out: np.ndarray) -> None:
        for plane, part in enumerate(out.reshape(2 * self._layers, self._part_bytes)):
            self._device.download(self.address + plane * self._plane_bytes + page * self._part_bytes, part)

    def write_page(self, page: int, data: np.ndarray) -> None:
        for plane, part in enumerate(data.reshape(2 * self._layers, self._part_bytes)):
            self._device.upload(self.address + plane * self._plane_bytes + page * self._part_bytes, part)
        self._device.wait()  # the memory it is read from is overwritten next


@dataclass(frozen=True, slots=True)
class Scratch:
    """Working memory of a step with ``rows`` rows: addresses, one after the other from ``base``; ``size`` in bytes."""

    base: int
    x: int
    residual: int
    normed: int
    query_key_value: int
    queries: int
    mixed: int
    both: int
    inner: int
    partial: int
    maxima: int
    sums: int
    scores: int
    winners: int
    size: int


def scratch(base: int, rows: int, config: ModelConfig, *, splits: int, blocks: int) -> Scratch:
    """Lay out working memory at ``base`` for ``rows`` rows; ``splits`` and ``blocks`` are 0 for a chunk of a prompt,
    which needs neither shares of attention nor blocks of the vocabulary.
    """
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    widths = {
        "x": config.hidden_size * 2,
        "residual": config.hidden_size * 2,
        "normed": config.hidden_size * 2,
        "query_key_value": (queries + 2 * keys) * 2,
        "queries": queries * 2,
        "mixed": queries * 2,
        "both": config.intermediate_size * 4,
        "inner": config.intermediate_size * 2,
        "partial": queries * splits * 4,
        "maxima": config.heads * splits * 4,
        "sums": config.heads * splits * 4,
        "scores": blocks * 8,
        "winners": blocks * 4,
    }
    places, at = {}, base
    for name, width in widths.items():
        places[name] = at
        at += -(-rows * width // ALIGNMENT) * ALIGNMENT
    return Scratch(base=base, size=at - base, **places)


def _runs(pages: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pages that follow one another: first and count of each run."""
    if not len(pages):
        return
    ordered = np.sort(pages)
    for run in np.split(ordered, np.flatnonzero(np.diff(ordered) != 1) + 1):
        yield int(run[0]), len(run)
