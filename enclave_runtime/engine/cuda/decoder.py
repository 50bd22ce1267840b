"""The decoder on an NVIDIA GPU: a step is a fixed list of kernels, recorded once for each size of batch.

Rows of one token (answers being written) run as a CUDA graph that is recorded before the first step, one for each
power of two; chunks of prompts run as the same list of kernels one by one. Weights go up once, KV pages stay on the
device and are zeroed there, and so are tokens, positions and page tables: a batch that goes on unchanged needs nothing
from the host. Tokens are drawn on the device with the noise that the host's sampler would look up, and come back in
batches of up to `AHEAD` steps: one copy for all rows and all those steps.

Products of up to ``few`` rows are read by `weights_times_row`, in the same order for every number of rows; more rows go
to cuBLASLt, whose order of sums depends on their number. With ``few`` as large as a step, a request's logits have the
same bits in any batch, at the price of slow prompts. Layers held in 8 bits are read as they are, by many rows through
`weights_times_rows`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from enclave_runtime.engine.config import ModelConfig
from enclave_runtime.engine.cuda.build import Shape
from enclave_runtime.engine.cuda.cublaslt import open_library
from enclave_runtime.engine.cuda.device import Crossings, CudaDevice, Device
from enclave_runtime.engine.cuda.device_memory import (
    ELEMENTS,
    DevicePages,
    Matrix,
    Scratch,
    scratch,
    upload_weights,
)
from enclave_runtime.engine.cuda.driver import open_driver
from enclave_runtime.engine.cuda.step_memory import AHEAD, StepMemory
from enclave_runtime.engine.cuda.weight_formats import WeightFormat
from enclave_runtime.engine.decoder import ATTENTION_TILE, Span
from enclave_runtime.engine.errors import EngineFault, InvalidRequest, UnsupportedModel
from enclave_runtime.engine.pages import PagePool
from enclave_runtime.engine.sampling import PlainDraw
from enclave_runtime.engine.weights import TensorSource

KERNELS = Path(__file__).with_name("cubins")
"""Where an image keeps what ``enclave_runtime.engine.cuda.build`` made."""
FEW = 8
"""Rows up to which weights are read by a product of our own."""

_GREEDY = PlainDraw(0, 0.0)


def shape_of(config: ModelConfig, *, element: str = "bf16", page: int = 16) -> Shape:
    """What kernels must be compiled for to compute ``config``."""
    return Shape(
        hidden=config.hidden_size,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_size=config.head_dim,
        page=page,
        qk_norm=config.head_norm,
        bias=config.projection_bias,
        element=element,
    )


def open_decoder(
    config: ModelConfig, source: TensorSource, weights: WeightFormat | None = None, folder: Path = KERNELS
) -> "CudaDecoder":
    """The decoder on this machine's first GPU with the kernels of ``folder``; see `CudaDecoder` for ``weights``.

    Raises CudaError (``no_driver``, ``no_cublaslt``, ``kernel_missing``, ...), `UnsupportedModel`, `ModelMalformed`.
    """
    return CudaDecoder(CudaDevice(open_driver(), folder, open_library()), config, source, weights=weights)


class CudaDecoder:
    """`Decoder`, and `DrawingDecoder`, over a `Device`. One thread calls it."""

    ahead = AHEAD

    def __init__(
        self,
        device: Device,
        config: ModelConfig,
        source: TensorSource,
        *,
        few: int = FEW,
        weights: WeightFormat | None = None,
    ) -> None:
        """Upload the weights, the layers' matrices in the format ``weights``, or in the kernels' element.

        Raises `UnsupportedModel` for kernels of another shape, `ModelMalformed`, CudaError.
        """
        shape = device.shape
        if shape.element not in ELEMENTS or shape_of(config, element=shape.element, page=shape.page) != shape:
            raise UnsupportedModel(
                "kernels compiled for another shape", expected=shape_of(config), found=shape
            )
        self._device, self._config, self._few = device, config, max(1, few)
        self._weights, self._format = upload_weights(device, config, source, weights), weights
        self._reserved: StepMemory | None = None
        self._recorded: dict[tuple[int, bool], int] = {}
        self._pool: DevicePages | None = None

    @property
    def config(self) -> ModelConfig:
        return self._config

    @property
    def one_order(self) -> bool:
        return False  # products of cuBLASLt's sum in an order that depends on the number of rows

    @property
    def crossings(self) -> Crossings:
        """What has crossed between host and device until now."""
        return replace(self._device.crossings)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights on the device."""
        return self._weights.size

    def manifest(self) -> Mapping[str, str]:
        """For the runtime manifest; ``digest`` is of ``kernels.json``, which has that of every cubin."""
        return {"decoder": "cuda", "path": self._device.target, "digest": self._device.kernels_digest}

    def new_pool(self, pages: int, page_tokens: int) -> PagePool:
        """KV memory on the device; the latest pool is the one that steps use. Raises `InvalidRequest` for pages of
        another size than the kernels'.
        """
        if page_tokens != self._device.shape.page:
            raise InvalidRequest("page_tokens", expected=self._device.shape.page, found=page_tokens)
        self._pool = DevicePages(
            self._device, self._config, pages=pages, page_tokens=page_tokens, forget=self._forget
        )
        self._recorded.clear()
        return self._pool

    def reserve(self, positions: int, *, rows: int = 256, threads: int = 2) -> None:
        """Take all device memory, choose cuBLASLt's algorithms and record the graphs. `new_pool` comes first."""
        device, config = self._device, self._config
        if self._pool is None:
            raise EngineFault("memory for steps before memory for keys and values")
        reserved = StepMemory.of(device, config, positions, rows)
        self._reserved = reserved
        queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
        counts = {bucket for bucket in reserved.buckets if bucket > self._few}
        counts |= {_padded(count) for count in range(self._few + 1, reserved.chunk + 1)}
        for count in sorted(counts) if self._format is None else ():
            device.prepare(count, config.hidden_size, queries + 2 * keys)
            device.prepare(count, queries, config.hidden_size)
            device.prepare(count, config.hidden_size, 2 * config.intermediate_size)
            device.prepare(count, config.intermediate_size, config.hidden_size)
        for bucket in reserved.buckets:
            if bucket > self._few:
                device.prepare(bucket, config.hidden_size, config.vocab_size, wide=True)
            for drawn in (False, True):
                commands = partial(self._one_token_each, bucket, drawn=drawn)
                self._recorded[bucket, drawn] = device.capture(commands)

    def step(self, spans: Sequence[Span], pool: PagePool) -> np.ndarray:
        """See `Decoder.step`: logits come to the host, one copy for the rows of one token and one for prompts."""
        reserved = self._ready(pool)
        order = [index for index, span in enumerate(spans) if span.wants_logits]
        result = np.empty((len(order), self._config.vocab_size), dtype=np.float32)
        row_of = {index: row for row, index in enumerate(order)}
        for span in spans:
            pool.check_span(span.table, span.start, len(span.tokens))
        chunks = [index for index, span in enumerate(spans) if len(span.tokens) > 1]
        for group in _groups(chunks, reserved.batch):
            ended = [index for index in group if spans[index].wants_logits]
            for index in group:
                self._prompt(spans[index], ended.index(index) if index in ended else 0)
            self._logits(result, [row_of[index] for index in ended], list(range(len(ended))), len(ended))
        singles = [index for index, span in enumerate(spans) if len(span.tokens) == 1]
        for group in _groups(singles, reserved.batch):
            bucket = self._place([spans[index] for index in group], [_GREEDY] * len(group))
            self._device.replay(self._recorded[bucket, False])
            wanted = [place for place, index in enumerate(group) if spans[index].wants_logits]
            self._logits(result, [row_of[group[place]] for place in wanted], wanted, bucket)
        self._device.wait()
        return result

    def draw(
        self, spans: Sequence[Span], pool: PagePool, draws: Sequence[PlainDraw], steps: int
    ) -> np.ndarray:
        """See `DrawingDecoder.draw`."""
        reserved = self._ready(pool)
        if not 1 <= steps <= AHEAD or any(len(span.tokens) != 1 for span in spans):
            raise EngineFault("a draw that does not fit what was reserved")
        for span in spans:
            pool.check_span(span.table, span.start, steps)
        result = np.empty((steps, len(spans)), dtype=np.int64)
        for group in _groups(list(range(len(spans))), reserved.batch):
            bucket = self._place([spans[index] for index in group], [draws[index] for index in group])
            self._device.zero(reserved.taken, 4 * reserved.batch)
            for _ in range(steps):
                self._device.replay(self._recorded[bucket, True])
            history = reserved.history_host[:steps]
            self._device.download(reserved.history, history)
            result[:, group] = history[:, : len(group)]
            reserved.moved_on(bucket, steps)
            history.fill(0)
            self._device.zero(reserved.history, reserved.history_host.nbytes)
        self._device.wait()
        if (result < 0).any():
            raise EngineFault("logits are not finite")
        return result

    def _ready(self, pool: PagePool) -> "StepMemory":
        if self._reserved is None or not self._recorded or pool is not self._pool:
            raise EngineFault("a step before anything was reserved, or with a pool of another decoder")
        return self._reserved

    def _forget(self) -> None:
        if self._reserved is not None:
            self._reserved.forget(self._device)

    def _place(self, spans: Sequence[Span], draws: Sequence[PlainDraw]) -> int:
        """Make the device's tables say what these rows are; only what it does not know already goes up. The size of
        the graph to run.
        """
        reserved, pool = self._reserved, self._pool
        assert reserved is not None
        assert pool is not None
        if end := reserved.place(spans, draws, pool.nobodys):
            self._device.upload(reserved.control, reserved.control_host[:end])
        return reserved.bucket(len(spans))

    def _prompt(self, span: Span, logits_row: int) -> None:
        """All of a span of several tokens, a chunk at a time; logits of its last token if it wants them."""
        reserved, device = self._reserved, self._device
        assert reserved is not None
        begin, count = 0, len(span.tokens)
        while begin < count:
            end = min(count, begin + reserved.chunk)
            rows = end - begin
            first = span.start + begin
            reserved.write_chunk(span.tokens[begin:end], first, span.table.pages)
            device.upload(reserved.chunk_control, reserved.chunk_host)
            room = scratch(reserved.room, _padded(rows), self._config, splits=0, blocks=0)
            self._layers(
                room, rows, reserved.chunk_tokens, reserved.chunk_positions, reserved.chunk_table, first
            )
            if end == count and span.wants_logits:
                self._head(room, rows - 1, 1, reserved.logits + logits_row * self._config.vocab_size * 4)
            device.zero(room.base, room.size)
            device.zero(reserved.chunk_control, reserved.chunk_host.nbytes)
            device.wait()  # before the host's copy is written again
            reserved.chunk_host.fill(0)
            begin = end

    def _one_token_each(self, rows: int, *, drawn: bool) -> None:
        """The kernels of one step of ``rows`` rows; what is recorded."""
        reserved, device, config = self._reserved, self._device, self._config
        assert reserved is not None
        blocks = reserved.vocabulary_blocks
        room = scratch(reserved.room, rows, config, splits=reserved.splits, blocks=blocks)
        self._layers(room, rows, reserved.tokens, reserved.positions, reserved.tables, None)
        self._head(room, 0, rows, reserved.logits)
        if drawn:
            device.launch(
                "gumbel_blocks",
                (rows, blocks),
                (
                    *(reserved.logits, reserved.seeds, reserved.lengths, reserved.temperatures),
                    *(room.scores, room.winners, config.vocab_size, blocks),
                ),
            )
            device.launch(
                "gumbel_join",
                (rows,),
                (
                    *(room.scores, room.winners, reserved.tokens, reserved.positions, reserved.lengths),
                    *(reserved.taken, reserved.history, blocks, reserved.batch),
                ),
            )
            device.zero(reserved.logits, rows * config.vocab_size * 4)
        device.zero(room.base, room.size)

    def _layers(
        self, room: Scratch, rows: int, tokens: int, positions: int, tables: int, first: int | None
    ) -> None:
        """Every layer for ``rows`` rows: of one sequence from position ``first`` on, or (None) each of its own."""
        device, config, weights, reserved = self._device, self._config, self._weights, self._reserved
        assert reserved is not None
        assert self._pool is not None
        hidden, inner = config.hidden_size, config.intermediate_size
        queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
        width = reserved.width if first is None else 0
        device.launch("embed", (rows,), (tokens, weights.embedding, room.x, room.residual, hidden))
        for index, layer in enumerate(weights.layers):
            stored = self._pool.keys(index), self._pool.values(index)
            self._add_norm(room.x, room.residual, layer.attention_norm, room.normed, rows)
            self._product(
                room.normed, layer.query_key_value, room.query_key_value, rows, hidden, queries + 2 * keys
            )
            device.launch(
                "rotate_and_append",
                (rows, config.heads + 2 * config.kv_heads),
                (
                    *(room.query_key_value, positions, tables, reserved.cosines, reserved.sines),
                    *(layer.bias, layer.query_norm, layer.key_norm, room.queries, *stored),
                    *(width, config.norm_epsilon),
                ),
            )
            if first is None:
                self._attend_each(room, rows, stored)
            else:
                block = device.constants("prefill")["QUERIES"]
                device.launch(
                    "prefill",
                    (-(-rows // block), config.heads),
                    (room.queries, *stored, tables, room.mixed, rows, first, config.head_dim**-0.5),
                )
            self._product(room.mixed, layer.attention_output, room.x, rows, queries, hidden)
            self._add_norm(room.x, room.residual, layer.mlp_norm, room.normed, rows)
            if rows <= self._few:
                name = f"gate_up_swiglu_{self._kernels_of(layer.gate)}"
                block = device.constants(name)["ROWS"]
                both = layer.gate.weights, layer.up.weights, layer.gate.scales, layer.up.scales
                device.launch(
                    name, (rows, -(-inner // block)), (room.normed, *both, room.inner, hidden, inner)
                )
            else:
                self._product(room.normed, layer.gate, room.both, rows, hidden, 2 * inner)
                block = device.constants("swiglu")["BLOCK"]
                device.launch("swiglu", (rows, -(-inner // block)), (room.both, room.inner, inner))
            self._product(room.inner, layer.down, room.x, rows, inner, hidden)

    def _attend_each(self, room: Scratch, rows: int, stored: tuple[int, int]) -> None:
        config, reserved = self._config, self._reserved
        assert reserved is not None
        shares = room.partial, room.maxima, room.sums
        self._device.launch(
            "decode_split",
            (rows, config.kv_heads, reserved.splits),
            (
                *(room.queries, *stored, reserved.tables, reserved.lengths, *shares),
                *(reserved.width, config.head_dim**-0.5),
            ),
        )
        self._device.launch("decode_join", (rows * config.heads,), (*shares, room.mixed))

    def _head(self, room: Scratch, first: int, rows: int, logits: int) -> None:
        """The last norm and the head for ``rows`` rows from ``first`` on."""
        offset = first * self._config.hidden_size * 2
        self._add_norm(
            room.x + offset, room.residual + offset, self._weights.final_norm, room.normed + offset, rows
        )
        self._product(
            room.normed + offset,
            self._weights.head,
            logits,
            rows,
            self._config.hidden_size,
            self._config.vocab_size,
            wide=True,
        )

    def _add_norm(self, x: int, residual: int, weight: int, out: int, rows: int) -> None:
        columns, epsilon = self._config.hidden_size, self._config.norm_epsilon
        self._device.launch("add_rms_norm", (rows,), (x, residual, weight, out, columns, epsilon))

    def _kernels_of(self, matrix: Matrix) -> str:
        return self._format.name if self._format is not None and matrix.scales else "plain"

    def _product(
        self, x: int, matrix: Matrix, out: int, rows: int, inputs: int, outputs: int, *, wide: bool = False
    ) -> None:
        kind, device = "logits" if wide else self._kernels_of(matrix), self._device
        both = matrix.weights, matrix.scales
        if rows <= self._few:
            name = f"weights_times_row_{kind}"
            block = device.constants(name)["ROWS"]
            device.launch(name, (rows, -(-outputs // block)), (x, *both, out, inputs, outputs))
        elif matrix.scales:
            name = f"weights_times_rows_{kind}"
            sizes = device.constants(name)
            grid = -(-outputs // sizes["OUTPUTS"]), -(-rows // sizes["ROWS"])
            device.launch(name, grid, (x, *both, out, rows, inputs, outputs))
        else:
            device.multiply(x, matrix.weights, out, _padded(rows), inputs, outputs, wide=wide)

    def _logits(self, result: np.ndarray, rows: Sequence[int], places: Sequence[int], used: int) -> None:
        """Bring logits from ``places`` to ``rows`` of ``result``, and clear the ``used`` rows on the way."""
        reserved = self._reserved
        assert reserved is not None
        if rows:
            taken = reserved.logits_host[: max(places) + 1]
            self._device.download(reserved.logits, taken)
            result[list(rows)] = taken[list(places)]
            taken.fill(0)
        if used:
            self._device.zero(reserved.logits, used * self._config.vocab_size * 4)


def _padded(rows: int) -> int:
    """How many rows a product of cuBLASLt's is made for: few sizes, so that all can be prepared."""
    if rows <= ATTENTION_TILE:
        return 1 << (rows - 1).bit_length()
    return -(-rows // ATTENTION_TILE) * ATTENTION_TILE


def _groups(items: list[int], size: int) -> list[list[int]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
