"""A model's logits by the AMX kernels, alone and in a batch, beside AVX-512's: a process of its own for test_amx.py,
since the emulator has to be there before it starts. Usage: amx_steps.py MODEL TOKENS NEIGHBOURS...; prints JSON.
"""

import ctypes
import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np

from enclave_runtime.engine.cpu import binding
from enclave_runtime.engine.cpu.decoder import CpuDecoder
from enclave_runtime.engine.decoder import Span
from enclave_runtime.engine.model import load_model

AVX512, AMX = binding.PATH_AVX512, binding.PATH_AMX


def logits(decoder: CpuDecoder, tokens: np.ndarray, cuts: list[int], neighbour: int = 0) -> np.ndarray:
    """After each cut; with another sequence of ``neighbour`` tokens computed in the same first step."""
    pool = decoder.new_pool(64, 16)
    table, beside = pool.allocate(1, len(tokens)), pool.allocate(2, 64)
    found = []
    for start, end in pairwise(cuts):
        spans = [Span(tokens[start:end], start, table, True)]
        if neighbour and start == 0:
            spans.insert(0, Span(tokens[:neighbour], 0, beside, False))
        found.append(decoder.step(spans, pool)[0].copy())
    return np.stack(found)


def main(path: Path, count: int, neighbours: list[int]) -> None:
    library = binding.library()
    assert library is not None
    model = load_model(path)
    decoder = model.decoder
    assert isinstance(decoder, CpuDecoder)
    tokens = np.random.default_rng(0).integers(0, model.config.vocab_size, count)
    alone, cut = [*range(count + 1)], [0, count // 2 - 1, count // 2, count]
    result: dict[str, object] = {"path": decoder.path, "name": decoder.path_name}
    for name, fine in (("16 bits", True), ("8 bits", False)):
        ours, theirs = (
            CpuDecoder(library, model.config, decoder._packed, path=p, fine=fine) for p in (AMX, AVX512)
        )
        ours.reserve(512, threads=2)
        theirs.reserve(512, threads=1)
        by_tokens, expected = logits(ours, tokens, alone), logits(theirs, tokens, cut)
        found = [logits(ours, tokens, cut, neighbour) for neighbour in (0, *neighbours)]
        ends = [end - 1 for end in cut[1:]]
        result[name] = {
            "alone as in batches": all(np.array_equal(each, by_tokens[ends]) for each in found),
            "as avx512": bool(np.array_equal(found[0], expected)),
            "apart": float(np.abs(found[0] - expected).max() / expected.std()),
            "residue": ours.residue(),
        }
    emulator = ctypes.CDLL(None)
    if hasattr(emulator, "amx_emulator_products"):
        for function in ("products", "configured"):
            counter = getattr(emulator, f"amx_emulator_{function}")
            counter.restype = ctypes.c_int64
            result[function] = counter()
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), [*map(int, sys.argv[3:])])
