"""The decoder on torch: right against transformers, indifferent to neighbours, at ease without executable memory."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from enclave_runtime.engine.decoder import ATTENTION_TILE, Span
from enclave_runtime.engine.model import LoadedModel, load_model
from enclave_runtime.engine.torch_decoder import TorchDecoder
from enclave_runtime.engine.torch_pages import TorchPages

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def prepared(model: LoadedModel, pages: int = 128) -> tuple[TorchDecoder, TorchPages]:
    decoder = model.decoder
    assert isinstance(decoder, TorchDecoder)
    decoder.reserve(512)
    pool = decoder.new_pool(pages, 16)
    assert isinstance(pool, TorchPages)
    return decoder, pool


def tokens_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 264, count)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True},
        {"num_key_value_heads": 4},
        {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 32},
        {"rope_theta": None, "rope_parameters": LLAMA3_ROPE},
        {"rope_scaling": {"type": "linear", "factor": 4.0}},
    ],
    ids=["grouped", "tied", "ungrouped", "wide heads", "llama3 rope", "linear rope"],
)
def test_logits_are_those_of_transformers(tiny: Any, tmp_path: Path, changes: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    folder = tiny.folder(tmp_path / "model", **changes)
    reference = transformers.LlamaForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    tokens = tokens_of(150)
    with torch.inference_mode():
        expected = reference(torch.from_numpy(tokens)[None]).logits[0].numpy()

    decoder, pool = prepared(load_model(folder, "torch"))
    table = pool.allocate(1, 150)
    worst = 0.0
    for start, end in [(0, 64), (64, 128), (128, 140), *((n, n + 1) for n in range(140, 150))]:
        logits = decoder.step([Span(tokens[start:end], start, table, True)], pool)
        worst = max(worst, float(np.abs(logits[0] - expected[end - 1]).max()))
    assert worst < 1e-4


def test_a_folder_saved_by_transformers_loads(tiny: Any, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(**{k: v for k, v in tiny.config.items() if k != "model_type"})
    saved = transformers.LlamaForCausalLM(config)
    folder = tiny.folder(tmp_path / "model")
    saved.save_pretrained(folder)
    tokens = tokens_of(40)
    with torch.inference_mode():
        expected = saved(torch.from_numpy(tokens)[None]).logits[0, -1].numpy()
    decoder, pool = prepared(load_model(folder, "torch"))
    logits = decoder.step([Span(tokens, 0, pool.allocate(1, 40), True)], pool)
    assert np.allclose(logits[0], expected, atol=1e-4, rtol=0)


def alone_and_in_batches(model: LoadedModel) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
    """One request's logits after its prompt and one token more: alone, and in batches cut in several ways."""
    decoder, pool = prepared(model)
    mine, next_token = tokens_of(100, seed=1), np.array([7])

    def run(neighbours: int, cuts: list[int]) -> list[np.ndarray]:
        tables = [pool.allocate(owner, 101) for owner in range(1, neighbours + 2)]
        found, start = [], 0
        for end in cuts:
            spans = [Span(mine[start:end], start, tables[0], end == 100)]
            for index, table in enumerate(tables[1:]):
                other = tokens_of(100, seed=index + 2)
                spans.insert(index % 2, Span(other[start:end], start, table, index % 2 == 0 and end == 100))
            logits = decoder.step(spans, pool)
            if end == 100:
                wanted = [span for span in spans if span.wants_logits]
                found.append(logits[[span.table is tables[0] for span in wanted].index(True)].copy())
            start = end
        spans = [Span(next_token, 100, table, True) for table in reversed(tables)]
        found.append(decoder.step(spans, pool)[-1].copy())
        for table in tables:
            pool.release(table)
        return found

    others = [run(neighbours, cuts) for neighbours in range(6) for cuts in ([100], [64, 100])]
    return run(0, [100]), others


def test_neighbours_do_not_change_the_logits_of_a_request(tiny_torch: LoadedModel) -> None:
    alone, others = alone_and_in_batches(tiny_torch)
    for other in others:
        for expected, found in zip(alone, other, strict=True):
            assert np.allclose(expected, found, atol=1e-5, rtol=0)


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="observed with MKL only")  # type: ignore[no-untyped-call]
def test_neighbours_do_not_change_a_single_bit(tiny_torch: LoadedModel) -> None:
    alone, others = alone_and_in_batches(tiny_torch)
    for other in others:
        for expected, found in zip(alone, other, strict=True):
            assert np.array_equal(expected, found)


def test_scattered_pages_give_the_same_logits_as_neighbouring_ones(tiny_torch: LoadedModel) -> None:
    decoder, pool = prepared(tiny_torch, pages=16)
    tokens = tokens_of(70)
    together = pool.allocate(1, 71)
    assert together.first >= 0
    expected = decoder.step([Span(tokens, 0, together, True)], pool).copy()
    after = decoder.step([Span(tokens[:1], 70, together, True)], pool).copy()
    pool.release(together)

    singles = [pool.allocate(owner, 1) for owner in range(1, 17)]
    for table in singles[::2]:
        pool.release(table)
    scattered = pool.allocate(99, 71)
    assert scattered.first < 0
    assert np.array_equal(decoder.step([Span(tokens, 0, scattered, True)], pool), expected)
    assert np.array_equal(decoder.step([Span(tokens[:1], 70, scattered, True)], pool), after)


def test_what_lies_beyond_a_sequence_does_not_matter(tiny_torch: LoadedModel) -> None:
    decoder, pool = prepared(tiny_torch)
    tokens = tokens_of(ATTENTION_TILE + 3)
    clean = pool.allocate(1, 200)
    expected = decoder.step([Span(tokens, 0, clean, True)], pool).copy()
    pool.release(clean)
    pool.storage.fill_(float("nan"))
    poisoned = pool.allocate(1, 200)
    assert np.array_equal(decoder.step([Span(tokens, 0, poisoned, True)], pool), expected)


_WITHOUT_EXECUTABLE_MEMORY = """
import ctypes, errno, mmap, sys
from pathlib import Path
from enclave_runtime.engine.engine import Engine
from enclave_runtime.engine.engine_config import EngineConfig
from enclave_runtime.engine.request import GenerationRequest
from enclave_runtime.engine.model import load_model
engine = Engine(load_model(Path(sys.argv[1]), sys.argv[2]), EngineConfig(max_context=256))
engine.start()
engine.warm_up()
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN
    print("unavailable", ctypes.get_errno())
    raise SystemExit
try:
    mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)
except OSError as error:
    assert error.errno == errno.EACCES, error
else:
    raise SystemExit("writable and executable memory was granted")
requests = [GenerationRequest([5] * length, 20, seed=1) for length in (1, 9, 65, 200)]
answers = [engine.submit(request) for request in requests]
print("answered", sum(answer.collect().token_count > 0 for answer in answers))
engine.stop()
"""


@pytest.mark.parametrize("decoder", ["torch", "auto"])
def test_it_runs_where_no_memory_can_become_executable(tiny_folder: Path, decoder: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_EXECUTABLE_MEMORY, str(tiny_folder), decoder],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if done.stdout.startswith("unavailable"):
        pytest.skip("this kernel has no PR_SET_MDWE")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["answered", "4"]
