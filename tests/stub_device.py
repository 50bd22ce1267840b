"""The CUDA decoder through the real binding, down to C: a driver and a cuBLASLt that note what they are asked.

A program, since a wrong width of an argument would end the process: takes the stub library (tests/stub_libcuda.c), and
a folder for kernels; prints as JSON what was asked at the start and in each step.
"""

import ctypes
import hashlib
import json
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from weight_sources import zeros

from enclave_runtime.engine.config import ModelConfig
from enclave_runtime.engine.cuda import cublaslt
from enclave_runtime.engine.cuda.build import SCHEMA, kernels
from enclave_runtime.engine.cuda.decoder import CudaDecoder, shape_of
from enclave_runtime.engine.cuda.device import CudaDevice
from enclave_runtime.engine.cuda.driver import open_driver
from enclave_runtime.engine.decoder import Span
from enclave_runtime.engine.rope import RopeConfig
from enclave_runtime.engine.sampling import PlainDraw

CONFIG = ModelConfig(
    vocab_size=300,
    hidden_size=64,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=16,
    intermediate_size=96,
    context_length=256,
    norm_epsilon=1e-5,
    tied_head=False,
    rope=RopeConfig(10000.0),
)


def written(folder: Path) -> Path:
    shape = shape_of(CONFIG)
    entries: list[dict[str, Any]] = []
    for kernel in kernels(shape):
        cubin = b"\x7fELF" + kernel.name.encode()
        (folder / f"{kernel.name}.cubin").write_bytes(cubin)
        entries.append(
            {
                "name": kernel.name,
                "entry": kernel.name,
                "arguments": dict(kernel.arguments),
                "constants": dict(kernel.constants),
                "threads": 32 * kernel.warps,
                "shared": 65_536 if kernel.name == "prefill" else 0,
                "scratch": 2,
                "aligned": list(kernel.aligned),
                "sha256": hashlib.sha256(cubin).hexdigest(),
            }
        )
    document = {"schema": SCHEMA, "target": "sm_90", "shape": asdict(shape), "kernels": entries}
    (folder / "kernels.json").write_text(json.dumps(document))
    return folder


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    stub = ctypes.CDLL(name)
    stub.stub_notes.restype = ctypes.c_char_p
    asked: dict[str, Any] = {}

    def notes(what: str) -> None:
        asked[what] = stub.stub_notes().decode().splitlines()
        stub.stub_forget()

    device = CudaDevice(open_driver(name), written(folder), cublaslt.open_library((name,)))
    decoder = CudaDecoder(device, CONFIG, zeros(CONFIG), few=2)
    pool = decoder.new_pool(90, 16)
    decoder.reserve(128, rows=64)
    notes("start")
    table, other = pool.allocate(1, 60), pool.allocate(2, 30)
    logits = decoder.step([Span(np.arange(40), 0, table, True)], pool)
    asked["logits"] = [list(logits.shape), float(np.abs(logits).max())]
    notes("prompt")

    def thread() -> None:
        spans = [Span(np.array([7]), 40, table, True), Span(np.array([8]), 0, other, True)]
        draws = [PlainDraw(5, 0.0), PlainDraw(1 << 100, 0.7)]
        decoder.draw(spans, pool, draws, 8)
        notes("draw")
        spans = [Span(np.array([0]), 48, table, True), Span(np.array([0]), 8, other, True)]
        decoder.draw(spans, pool, draws, 4)
        notes("draw again")
        decoder.step(spans, pool)
        notes("step")
        crowd = [Span(np.array([row]), 0, pool.allocate(10 + row, 1), True) for row in range(70)]
        asked["crowd"] = list(decoder.step(crowd, pool).shape)
        for span in crowd:
            pool.release(span.table)
        notes("many rows")
        long = pool.allocate(5, 128)
        decoder.step([Span(np.arange(128), 0, long, True)], pool)
        pool.release(long)
        notes("long prompt")
        pool.copy(table, other, 1)
        notes("copy")
        pool.release(table)
        notes("release")

    worker = threading.Thread(target=thread)
    worker.start()
    worker.join()
    asked["manifest"] = dict(decoder.manifest())
    asked["crossings"] = asdict(replace(decoder.crossings))
    print(json.dumps(asked))


if __name__ == "__main__":
    main()
