"""The CUDA decoder's device, played on the CPU: kernels by Triton's interpreter, memory between guard bytes.

A program: prints as JSON how far the decoder's logits are from float32's, and what it did with its device. Of its own,
because the interpreter is chosen before triton is imported. Takes a folder with a tiny model and names of what to do.
"""

import ctypes
import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch
from weight_sources import MadeWeights, half_weights

from enclave_runtime.engine.config import ModelConfig
from enclave_runtime.engine.cuda.build import ALIGNMENT, Kernel, Shape, kernels
from enclave_runtime.engine.cuda.decoder import CudaDecoder, shape_of
from enclave_runtime.engine.cuda.device import Crossings
from enclave_runtime.engine.cuda.device_memory import DevicePages
from enclave_runtime.engine.cuda.weight_formats import FP8, INT8, WeightFormat
from enclave_runtime.engine.cuda.weight_rounding import quantised
from enclave_runtime.engine.decoder import Decoder, Span
from enclave_runtime.engine.engine import Engine
from enclave_runtime.engine.engine_config import EngineConfig
from enclave_runtime.engine.model import load_model
from enclave_runtime.engine.pages import PagePool, PageTable
from enclave_runtime.engine.request import GenerationRequest
from enclave_runtime.engine.sampling import PlainDraw, Sampler, SamplingSettings
from enclave_runtime.engine.torch_decoder import TorchDecoder
from enclave_runtime.engine.torch_weights import assemble

GUARD = 256
TYPES = {
    "*fp16": torch.float16,
    "*fp32": torch.float32,
    "*fp64": torch.float64,
    "*i32": torch.int32,
    "*i64": torch.int64,
    "*i8": torch.int8,
    "*fp8e4nv": torch.float8_e4m3fn,
}


class InterpretedDevice:
    """`Device` on the CPU. After `close`, whoever wants memory or another size of product is told off."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.crossings = Crossings()
        self.target, self.kernels_digest = "interpreted", "00" * 32
        self.memory: dict[int, torch.Tensor] = {}
        self.prepared: set[tuple[int, int, int, bool]] = set()
        self.graphs: list[list[Callable[[], None]]] = []
        self.open = True
        self._recording: list[Callable[[], None]] | None = None
        self._kernels: dict[str, Kernel] = {each.name: each for each in kernels(shape)}

    def constants(self, name: str) -> Mapping[str, int]:
        return self._kernels[name].constants

    def allocate(self, size: int) -> int:
        assert self.open, "device memory taken after the start"
        whole = torch.full((size + 2 * GUARD,), 0xA5, dtype=torch.uint8)
        whole[GUARD : GUARD + size] = 0
        self.memory[whole.data_ptr() + GUARD] = whole
        return whole.data_ptr() + GUARD

    def pinned(self, size: int) -> np.ndarray:
        assert self.open, "pinned memory taken after the start"
        return np.zeros(size, dtype=np.uint8)

    def bytes(self, address: int, size: int) -> np.ndarray:
        """The memory at an address, which has to be within one allocation."""
        assert any(
            start <= address and address + size <= start + len(m) - 2 * GUARD
            for start, m in self.memory.items()
        )
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def guards_hold(self) -> bool:
        return all(
            bool((m[:GUARD] == 0xA5).all() and (m[-GUARD:] == 0xA5).all()) for m in self.memory.values()
        )

    def upload(self, target: int, data: np.ndarray) -> None:
        assert self._recording is None
        self.bytes(target, data.nbytes)[:] = np.ascontiguousarray(data).view(np.uint8).reshape(-1)
        self.crossings.uploads += 1
        self.crossings.uploaded += data.nbytes

    def download(self, source: int, out: np.ndarray) -> None:
        assert self._recording is None
        assert out.flags.c_contiguous
        out.reshape(-1).view(np.uint8)[:] = self.bytes(source, out.nbytes)
        self.crossings.downloads += 1
        self.crossings.downloaded += out.nbytes

    def zero(self, target: int, size: int) -> None:
        self._do(lambda: self.bytes(target, size).fill(0))

    def copy(self, source: int, target: int, size: int) -> None:
        self._do(lambda: np.copyto(self.bytes(target, size), self.bytes(source, size)))

    def launch(self, name: str, grid: Sequence[int], arguments: Sequence[int | float]) -> None:
        kernel = self._kernels[name]
        named = dict(zip(kernel.arguments, arguments, strict=True))
        assert not [argument for argument in kernel.aligned if named[argument] % ALIGNMENT], named
        module = importlib.import_module(f"enclave_runtime.engine.cuda.kernels.{kernel.module}")
        function = getattr(module, kernel.function)
        handed = [
            self._pointer(kind, int(value)) if kind[0] == "*" else value
            for kind, value in zip(kernel.arguments.values(), arguments, strict=True)
        ]
        self._do(lambda: function[tuple(grid)](*handed, **kernel.constants))
        if self._recording is None:
            self.crossings.launches += 1

    def prepare(self, rows: int, inputs: int, outputs: int, *, wide: bool = False) -> None:
        assert self.open, "product prepared after the start"
        self.prepared.add((rows, inputs, outputs, wide))

    def multiply(
        self, x: int, weight: int, out: int, rows: int, inputs: int, outputs: int, *, wide: bool = False
    ) -> None:
        assert (rows, inputs, outputs, wide) in self.prepared, (rows, inputs, outputs, wide)

        def work() -> None:
            left = self.bytes(x, rows * inputs * 2).view(np.float16).reshape(rows, inputs)
            right = self.bytes(weight, outputs * inputs * 2).view(np.float16).reshape(outputs, inputs)
            kind = np.float32 if wide else np.float16
            result = left.astype(np.float32) @ right.astype(np.float32).T
            self.bytes(out, rows * outputs * (4 if wide else 2)).view(kind)[:] = result.astype(kind).reshape(
                -1
            )

        self._do(work)

    def capture(self, commands: Callable[[], None]) -> int:
        assert self.open, "graph recorded after the start"
        self._recording = []
        commands()
        self.graphs.append(self._recording)
        self._recording = None
        return len(self.graphs) - 1

    def replay(self, graph: int) -> None:
        assert self._recording is None
        for command in self.graphs[graph]:
            command()
        self.crossings.replays += 1

    def wait(self) -> None:
        assert self._recording is None

    def _do(self, command: Callable[[], None]) -> None:
        if self._recording is None:
            command()
        else:
            self._recording.append(command)

    def _pointer(self, kind: str, address: int) -> torch.Tensor:
        if address == 0:
            return torch.full((1,), 0, dtype=TYPES[kind])
        size = torch.empty(0, dtype=TYPES[kind]).element_size()
        self.bytes(address, size)
        return torch.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype=TYPES[kind])


def made(
    config: ModelConfig, *, few: int = 8, positions: int = 160, weights: WeightFormat | None = None
) -> tuple[CudaDecoder, DevicePages, InterpretedDevice]:
    device = InterpretedDevice(shape_of(config, element="fp16"))
    decoder = CudaDecoder(device, config, half_weights(config), few=few, weights=weights)
    pool = decoder.new_pool(24, 16)
    assert isinstance(pool, DevicePages)
    decoder.reserve(positions, rows=64)
    device.open = False
    return decoder, pool, device


def script(vocabulary: int) -> Callable[[Decoder, PagePool], np.ndarray]:
    """Three sequences: prompts whole, cut and one token long, decoding beside a prompt, guesses, pages out of order."""
    generator = np.random.default_rng(5)
    words = [generator.integers(0, vocabulary, size=size) for size in (70, 11, 1)]
    later = generator.integers(0, vocabulary, size=(3, 6))

    def run(decoder: Decoder, pool: PagePool) -> np.ndarray:
        gap, second = pool.allocate(9, 32), pool.allocate(2, 40)
        pool.release(gap)
        hole = pool.allocate(8, 16)
        tables = [pool.allocate(1, 90), second, pool.allocate(3, 20)]
        pool.release(hole)
        found = [
            decoder.step(
                [Span(words[1], 0, tables[1], True), Span(words[0][:64], 0, tables[0], False)], pool
            ).copy()
        ]
        ends = [70, 11, 1]
        found.append(
            decoder.step(
                [
                    Span(later[1, :1], 11, tables[1], True),
                    Span(words[0][64:], 64, tables[0], True),
                    Span(words[2], 0, tables[2], True),
                ],
                pool,
            ).copy()
        )
        ends[1] += 1
        for at in range(2):
            spans = [Span(later[i, at : at + 1], ends[i] + at, tables[i], True) for i in range(3)]
            found.append(decoder.step(spans, pool).copy())
        # Two guesses of one sequence in one step, beside another sequence.
        guesses = [Span(later[0, at : at + 1], ends[0] + at, tables[0], True) for at in (2, 3, 4)]
        found.append(decoder.step([*guesses, Span(later[1, 2:3], ends[1] + 2, tables[1], True)], pool).copy())
        for table in tables:
            pool.release(table)
        return np.concatenate(found)

    return run


def distance(found: np.ndarray, wanted: np.ndarray) -> float:
    """Root mean square of the difference over the spread of the logits."""
    return float(np.sqrt(np.square(found - wanted).mean()) / wanted.std())


def rounded(config: ModelConfig, kind: WeightFormat | None) -> MadeWeights:
    """What `half_weights` become where a decoder holds the layers' matrices in format ``kind``."""
    source = half_weights(config)
    for name, matrix in source.tensors.items():
        if kind is not None and matrix.ndim == 2 and ".layers." in name:
            bits, scales = quantised(kind, matrix)
            numbers = torch.from_numpy(bits).view(torch.int8 if kind is INT8 else torch.float8_e4m3fn)
            wide = scales.astype(np.float32).repeat(kind.group, 1)[:, : matrix.shape[1]]
            source.tensors[name] = numbers.float().numpy() * wide
    return source


def logits(config: ModelConfig, few: int, weights: WeightFormat | None = None) -> dict[str, float]:
    decoder, pool, device = made(config, few=few, weights=weights)
    run = script(config.vocab_size)
    found = run(decoder, pool)
    plain = TorchDecoder(config, assemble(config, rounded(config, weights)))
    plain.reserve(160)
    wanted = run(plain, plain.new_pool(24, 16))
    pages = device.bytes(pool.address, pool.size).reshape(2 * config.layers, 25, -1)
    left = int(np.count_nonzero(pages[:, : pool.nobodys]))
    return {
        "error": distance(found, wanted),
        "left_in_pages": float(left),
        "left_in_steps": float(left_over(decoder, device)),
        "guards": float(not device.guards_hold()),
    }


def left_over(decoder: CudaDecoder, device: InterpretedDevice) -> int:
    """Bytes of working memory, logits, tokens and their copies on the host that are not zero."""
    memory = decoder._reserved
    assert memory is not None
    bases = (memory.room, memory.logits, memory.history, memory.control, memory.chunk_control)
    hosts = (memory.control_host, memory.chunk_host, memory.logits_host, memory.history_host)
    sizes = [len(device.memory[base]) - 2 * GUARD for base in bases]
    found = [device.bytes(base, size) for base, size in zip(bases, sizes, strict=True)]
    return sum(int(np.count_nonzero(each)) for each in (*found, *hosts))


def batches(config: ModelConfig, weights: WeightFormat | None = None) -> dict[str, float]:
    """With products that always read rows alone: the same bits in any batch and for any cut."""
    decoder, pool, _ = made(config, few=64, weights=weights)
    words = np.random.default_rng(6).integers(0, config.vocab_size, size=(4, 20))

    def alone(row: int) -> np.ndarray:
        table = pool.allocate(1, 30)
        first = decoder.step([Span(words[row, :19], 0, table, True)], pool).copy()
        second = decoder.step([Span(words[row, 19:], 19, table, True)], pool).copy()
        pool.release(table)
        return np.concatenate([first, second])

    tables = [pool.allocate(5 + row, 30) for row in range(4)]
    whole = decoder.step([Span(words[row, :19], 0, tables[row], True) for row in range(4)], pool).copy()
    after = decoder.step([Span(words[row, 19:], 19, tables[row], True) for row in range(4)], pool).copy()
    for table in tables:
        pool.release(table)
    same = all(np.array_equal(alone(row), np.stack([whole[row], after[row]])) for row in range(4))
    return {"neighbours": float(not same)}


def pages_out_and_in(config: ModelConfig) -> dict[str, float]:
    """A page taken out of the device and put into another one there."""
    _, pool, device = made(config)
    planes = device.bytes(pool.address, pool.size).reshape(2 * config.layers, pool.nobodys + 1, -1)
    planes[...] = np.random.default_rng(3).integers(0, 256, planes.shape, dtype=np.uint8)
    wanted, out = planes.copy(), np.zeros(pool.page_bytes, dtype=np.uint8)
    wanted[:, 7] = wanted[:, 2]
    pool.read_page(2, out)
    taken = float(np.count_nonzero(out != wanted[:, 2].ravel()))
    pool.write_page(7, out)
    found = {"taken": taken, "given": float(np.count_nonzero(planes != wanted))}
    pool.clear()
    return found | {"left": float(np.count_nonzero(planes)), "guards": float(not device.guards_hold())}


def draws(config: ModelConfig) -> dict[str, float]:
    """Tokens drawn on the device are the host's, step by step; what that costs in crossings."""
    seeds, heats = [3, (1 << 127) + 1, 77], [0.0, 0.8, 1.4]
    prompt = np.random.default_rng(7).integers(0, config.vocab_size, size=(3, 5))

    def begun() -> tuple[CudaDecoder, DevicePages, InterpretedDevice, list[PageTable], list[list[int]]]:
        decoder, pool, device = made(config)
        tables = [pool.allocate(1 + row, 40) for row in range(3)]
        first = decoder.step([Span(prompt[row], 0, tables[row], True) for row in range(3)], pool)
        return decoder, pool, device, tables, [[*prompt[row], int(first[row].argmax())] for row in range(3)]

    decoder, pool, _, tables, slow = begun()
    samplers = [
        Sampler(SamplingSettings(temperature=heat), seed) for heat, seed in zip(heats, seeds, strict=True)
    ]
    for _ in range(9):
        spans = [
            Span(np.array(row[-1:]), len(row) - 1, table, True)
            for row, table in zip(slow, tables, strict=True)
        ]
        result = decoder.step(spans, pool)
        for row, logit, sampler in zip(slow, result, samplers, strict=True):
            row.append(sampler.pick(logit, np.array(row), 5))

    decoder, pool, device, tables, fast = begun()
    plain = [sampler.plain() for sampler in samplers]
    asked = [each for each in plain if isinstance(each, PlainDraw)]
    counts = []
    for steps in (1, 8):
        spans = [
            Span(np.array(row[-1:]), len(row) - 1, table, True)
            for row, table in zip(fast, tables, strict=True)
        ]
        before = decoder.crossings
        tokens = decoder.draw(spans, pool, asked, steps)
        now = decoder.crossings
        counts.append(
            (
                now.uploads - before.uploads,
                now.downloads - before.downloads,
                now.replays - before.replays,
                now.launches - before.launches,
                now.downloaded - before.downloaded,
            )
        )
        for row, drawn in zip(fast, tokens.T, strict=True):
            row.extend(int(token) for token in drawn)
    for table in tables:
        pool.release(table)
    rows = 64 * 4
    return {
        "drawn": float(slow != fast),
        "crossings": float(counts != [(1, 1, 1, 0, rows), (0, 1, 8, 0, 8 * rows)]),
        "left_in_steps": float(left_over(decoder, device)),
    }


def engine(folder: Path) -> dict[str, float]:
    """The same answers from an engine whose decoder draws and one whose decoder hands logits over."""
    loaded = load_model(folder, "torch")

    class Handing:
        """A `CudaDecoder` without its draws."""

        def __init__(self, inner: CudaDecoder) -> None:
            self.config, self.one_order, self.new_pool = inner.config, inner.one_order, inner.new_pool
            self.reserve, self.step = inner.reserve, inner.step

    answers, uploads = [], []
    for drawing in (True, False):
        device = InterpretedDevice(shape_of(loaded.config, element="fp16"))
        decoder = CudaDecoder(device, loaded.config, half_weights(loaded.config))
        model = replace(loaded, decoder=decoder if drawing else Handing(decoder))
        made = Engine(model, EngineConfig(max_batch=3, max_context=64, step_budget=67))
        device.open = False
        made.start()
        before = replace(device.crossings)
        requests = [
            GenerationRequest([5, 6, 7], 10, temperature=0.0, ignore_eos=True),
            GenerationRequest([9, 8], 7, temperature=0.9, seed=4),
            GenerationRequest([3] * 9, 8, temperature=1.1, seed=5),
            GenerationRequest([4], 4, temperature=1.0, top_k=5, seed=6),
        ]
        pieces = [generation.collect() for generation in [made.submit(request) for request in requests]]
        made.stop()
        answers.append([(piece.text, piece.token_count, piece.finish_reason) for piece in pieces])
        uploads.append(device.crossings.uploads - before.uploads)
        assert left_over(decoder, device) == 0
    return {"answers": float(answers[0] != answers[1]), "fewer_crossings": float(uploads[0] >= uploads[1])}


def main() -> None:
    folder, wanted = Path(sys.argv[1]), sys.argv[2:]
    small = replace(load_model(folder, "torch").config, context_length=160, layers=1)
    work: dict[str, Callable[[], dict[str, float]]] = {
        "llama": lambda: logits(replace(small, layers=2), 8),
        "cublaslt": lambda: logits(small, 1),
        "tied": lambda: logits(replace(small, tied_head=True, kv_heads=1), 8),
        "qwen2": lambda: logits(replace(small, projection_bias=True, heads=6, kv_heads=2), 8),
        "qwen3": lambda: logits(replace(small, head_norm=True, head_dim=32, kv_heads=4), 2),
        "int8": lambda: logits(small, 8, INT8),
        "fp8": lambda: logits(small, 8, FP8),
        "int8 rows": lambda: logits(small, 1, INT8),
        "fp8 rows": lambda: logits(small, 1, FP8),
        "batches": lambda: batches(small),
        "int8 batches": lambda: batches(small, INT8),
        "fp8 batches": lambda: batches(small, FP8),
        "pages": lambda: pages_out_and_in(replace(small, layers=2)),
        "draws": lambda: draws(small),
        "engine": lambda: engine(folder),
    }
    found = {f"{name}.{key}": value for name in wanted or work for key, value in work[name]().items()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
