"""The compiled decoder: right against transformers for every family, format and instruction set, and the same bits
for a request whoever is computed beside it.
"""

import ctypes
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enclave_runtime.engine.cpu import binding, packing
from enclave_runtime.engine.cpu.decoder import CpuDecoder
from enclave_runtime.engine.decoder import Span
from enclave_runtime.engine.errors import EngineFault, InvalidRequest, ModelMalformed
from enclave_runtime.engine.model import LoadedModel, load_model

LIBRARY = binding.library()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason="the compiled decoder was not built")
BEST = LIBRARY.cloister_best_path() if LIBRARY is not None else 0
PATHS = range(BEST + 1)

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
# What makes each family what it is, on a small random model.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama2": {"num_key_value_heads": 4},
    "llama3": {"rope_theta": None, "rope_parameters": LLAMA3, "head_dim": 32},
    "smollm2": {"tie_word_embeddings": True, "hidden_size": 96, "num_attention_heads": 3, "num_key_value_heads": 1},
    "mistral": {"model_type": "mistral", "head_dim": 48, "sliding_window": None},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True, "head_dim": 16},
    "qwen3": {"model_type": "qwen3", "head_dim": 64, "attention_bias": False},
    "odd sizes": {"hidden_size": 80, "num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": 16,
                  "intermediate_size": 100},
}  # fmt: skip


def compiled(model: LoadedModel, *, path: int = BEST, fine: bool = True, rows: int = 256) -> CpuDecoder:
    assert LIBRARY is not None
    decoder = model.decoder
    assert isinstance(decoder, CpuDecoder)
    other = CpuDecoder(LIBRARY, model.config, decoder._packed, path=path, fine=fine)
    other.reserve(512, rows=rows)
    return other


def tokens_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 264, count)


def saved(tmp_path: Path, tiny: Any, changes: dict[str, Any]) -> tuple[Path, Any]:
    """A random model made and saved by transformers, its biases and norms random too."""
    transformers = pytest.importorskip("transformers")
    folder = tiny.folder(tmp_path / "model")
    settings = {k: v for k, v in (tiny.config | changes).items() if v is not None}
    kind = settings.pop("model_type")
    config = transformers.AutoConfig.for_model(kind, **settings)
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn_like(weight)
            weight.copy_(1 + 0.3 * noise if "norm" in name else 0.1 * noise)
    model.eval().save_pretrained(folder)
    return folder, model


def error_against(decoder: CpuDecoder, tokens: np.ndarray, expected: np.ndarray) -> float:
    """Root mean square of what differs, relative to the logits' spread, over some prompts and single tokens."""
    pool = decoder.new_pool(64, 16)
    table = pool.allocate(1, len(tokens))
    found, ends = [], []
    cuts = [0, 50, 64, 81, 128, 140, *range(141, 151)]
    for start, end in pairwise(cuts):
        logits = decoder.step([Span(tokens[start:end], start, table, True)], pool)
        if end in (64, 128) or end > 140:
            found.append(logits[0].copy())
            ends.append(end - 1)
    wanted = expected[ends]
    return float(np.sqrt(np.square(np.stack(found) - wanted).mean()) / wanted.std(ddof=1))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_computes_what_transformers_does(tiny: Any, tmp_path: Path, family: str) -> None:
    folder, reference = saved(tmp_path, tiny, FAMILIES[family])
    tokens = tokens_of(150)
    with torch.inference_mode():
        exact = reference(torch.from_numpy(tokens)[None]).logits[0].numpy()
        rounded = reference.bfloat16().float()(torch.from_numpy(tokens)[None]).logits[0].numpy()
    model = load_model(folder)
    for path in PATHS:
        # Against the same bfloat16 weights what is left is the rounding of activations to bfloat16.
        assert error_against(compiled(model, path=path), tokens, rounded) < 0.025
        assert error_against(compiled(model, path=path), tokens, exact) < 0.03
    in_bytes = load_model(folder, "int8")
    for path in PATHS:
        assert error_against(compiled(in_bytes, path=path), tokens, exact) < 0.03
    assert np.allclose(by_torch(folder, tokens)[-1], exact[-1], atol=2e-4, rtol=1e-4)


def by_torch(folder: Path, tokens: np.ndarray) -> np.ndarray:
    """Float32 logits [tokens, vocabulary] from the same stored weights; only those that `error_against` looks at."""
    decoder = load_model(folder, "torch").decoder
    decoder.reserve(512)
    pool = decoder.new_pool(16, 16)
    table = pool.allocate(1, len(tokens))
    logits = np.zeros((len(tokens), decoder.config.vocab_size), dtype=np.float32)
    cuts = [0, 64, 128, 140, *range(141, 151)]
    for start, end in pairwise(cuts):
        logits[end - 1] = decoder.step([Span(tokens[start:end], start, table, True)], pool)[0]
    return logits


WIDE = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}


def quantised(kind: Kind, weight: np.ndarray, seed: int) -> np.ndarray:
    """Rows in format ``kind``; for formats that the gguf package only reads, random blocks with sane scales."""
    if kind not in (Kind.Q4_K, Kind.Q6_K):
        return gguf.quants.quantize(weight, kind)
    size = {Kind.Q4_K: 144, Kind.Q6_K: 210}[kind]
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, 256, (weight.shape[0], weight.shape[1] // 256, size), dtype=np.uint8)
    half = np.array([0.0003 if kind == Kind.Q4_K else 0.0001], dtype="<f2").view(np.uint8)
    if kind == Kind.Q4_K:
        blocks[..., 0:2] = half
        blocks[..., 2:4] = np.array([0.00225], dtype="<f2").view(np.uint8)
    else:
        blocks[..., 192:208] = generator.integers(5, 40, blocks[..., 192:208].shape)
        blocks[..., 208:210] = half
    return blocks.reshape(weight.shape[0], -1)


@pytest.mark.parametrize("kind", [Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q4_K, Kind.Q6_K])
def test_every_format_computes_what_its_float32_weights_do(tiny: Any, tmp_path: Path, kind: Kind) -> None:
    path = tiny.gguf(tmp_path / "m.gguf", changes=WIDE, spread=0.05, kind=kind, quantise=quantised)
    tokens = tokens_of(150)
    expected = by_torch(path, tokens)
    model = load_model(path)
    # Q4_K: two scales multiplied and rounded to half precision; its random blocks cancel as no trained ones do.
    bound = {Kind.F16: 0.02, Kind.BF16: 0.02, Kind.Q4_K: 4e-3}.get(kind, 2e-3)
    for instructions in PATHS:
        assert error_against(compiled(model, path=instructions), tokens, expected) < bound
        coarse = error_against(compiled(model, path=instructions, fine=False), tokens, expected)
        assert coarse < 0.06


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_gguf_of_other_families(tiny: Any, tmp_path: Path, architecture: str) -> None:
    folder, _ = saved(tmp_path, tiny, FAMILIES[architecture])
    path = tiny.gguf_of(folder, tmp_path / "m.gguf", architecture)
    tokens = tokens_of(150)
    expected = by_torch(folder, tokens)
    assert np.array_equal(by_torch(path, tokens), expected)
    for source in (path, folder):
        assert error_against(compiled(load_model(source)), tokens, expected) < 0.03


def reference_steps(decoder: CpuDecoder, tokens: np.ndarray) -> list[np.ndarray]:
    """Logits after every position, one token at a time and alone."""
    pool = decoder.new_pool(64, 16)
    table = pool.allocate(1, len(tokens))
    return [
        decoder.step([Span(tokens[n : n + 1], n, table, True)], pool)[0].copy() for n in range(len(tokens))
    ]


@pytest.fixture(scope="module", params=["bf16", "int8", "q4_1"])
def any_model(
    request: pytest.FixtureRequest, tiny: Any, tmp_path_factory: pytest.TempPathFactory
) -> LoadedModel:
    folder = tmp_path_factory.mktemp("batches")
    if request.param == "q4_1":
        return load_model(tiny.gguf(folder / "m.gguf", kind=Kind.Q4_1))
    model = tiny.folder(folder / "m", num_attention_heads=6, num_key_value_heads=2, head_dim=80)
    return load_model(model, "int8" if request.param == "int8" else "auto")


_ALONE: dict[tuple[int, int], list[np.ndarray]] = {}


@given(data=st.data(), path=st.sampled_from(list(PATHS)))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_request_has_the_same_bits_in_every_batch(
    any_model: LoadedModel, data: st.DataObject, path: int
) -> None:
    """Any neighbours, any cut of the prompt, any order, any place in memory, any number of threads and rows a batch."""
    mine = tokens_of(150, seed=1)
    decoder = compiled(any_model, path=path, rows=data.draw(st.sampled_from([7, 64, 256])))
    decoder.reserve(512, rows=data.draw(st.sampled_from([7, 64, 256])), threads=data.draw(st.integers(1, 3)))
    alone = _ALONE.get((id(any_model), path)) or _ALONE.setdefault(
        (id(any_model), path), reference_steps(compiled(any_model, path=path), mine)
    )
    pool = decoder.new_pool(64, 16)
    holes = [pool.allocate(99 + n, 16) for n in range(data.draw(st.integers(0, 20)))]
    for table in holes[::2]:
        pool.release(table)
    table = pool.allocate(1, len(mine))
    others = data.draw(st.lists(st.integers(1, 40), max_size=12))
    tables = [pool.allocate(2 + n, 45) for n in range(min(len(others), pool.free_pages // 3))]
    start, first = 0, True
    while start < len(mine):
        end = min(len(mine), start + data.draw(st.sampled_from([1, 2, 15, 16, 17, 64, 100])))
        spans = [Span(mine[start:end], start, table, True)]
        for n, neighbour in enumerate(tables):
            count = others[n] if first else 1
            span = Span(tokens_of(count, seed=n + 2), 0 if first else others[n], neighbour, n % 2 == 0)
            spans.insert(data.draw(st.integers(0, len(spans))), span)
        logits = decoder.step(spans, pool)
        row = [s.table is table for s in spans if s.wants_logits].index(True)
        assert np.array_equal(logits[row], alone[end - 1])
        start, first = end, False


def test_what_lies_beyond_a_sequence_does_not_matter(any_model: LoadedModel) -> None:
    decoder = compiled(any_model)
    pool, tokens = decoder.new_pool(64, 16), tokens_of(67)
    clean = pool.allocate(1, 200)
    expected = decoder.step([Span(tokens, 0, clean, True)], pool).copy()
    pool.release(clean)
    pool.storage.fill(float("nan"))
    poisoned = pool.allocate(1, 200)
    assert np.array_equal(decoder.step([Span(tokens, 0, poisoned, True)], pool), expected)


def test_a_step_writes_the_pages_of_its_sequences_and_no_other(any_model: LoadedModel) -> None:
    decoder = compiled(any_model)
    pool = decoder.new_pool(8, 16)
    pool.allocate(1, 16)
    table = pool.allocate(2, 40)
    decoder.step([Span(tokens_of(40), 0, table, False)], pool)
    written = {page for page in range(8) if bool(pool.storage[:, :, page].any())}
    assert written == set(table.pages.tolist())
    pool.release(table)
    assert not bool(pool.storage.any())


def test_what_does_not_fit_is_refused(any_model: LoadedModel) -> None:
    decoder = compiled(any_model)
    pool = decoder.new_pool(64, 16)
    table = pool.allocate(1, 600)
    for tokens, start in (([1 << 20], 0), ([-1], 0), ([1], 512)):
        with pytest.raises(EngineFault):
            decoder.step([Span(np.array(tokens), start, table, True)], pool)
    with pytest.raises(InvalidRequest):
        decoder.new_pool(8, 12)
    assert LIBRARY is not None
    unreserved = CpuDecoder(LIBRARY, decoder.config, decoder._packed)
    with pytest.raises(EngineFault):
        unreserved.step([Span(np.array([1]), 0, table, True)], pool)


@pytest.mark.parametrize("row", [0, -1])
def test_a_scale_that_is_not_finite_is_malformed(tiny: Any, tmp_path: Path, row: int) -> None:
    def poisoned(kind: Kind, weight: np.ndarray, seed: int) -> np.ndarray:
        rows = gguf.quants.quantize(weight, kind)
        rows[row, 0:2] = np.array([np.inf], dtype="<f2").view(np.uint8)
        return rows

    path = tiny.gguf(tmp_path / "m.gguf", kind=Kind.Q8_0, quantise=poisoned)
    with pytest.raises(ModelMalformed, match="not finite"):
        load_model(path)


@pytest.mark.parametrize("threads", [2, 7])
def test_weights_lie_the_same_whoever_puts_them_there(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """Matrices of many pieces, one of which is not whole, laid out by one thread and by several."""
    changes = {**WIDE, "intermediate_size": 1056}
    path = tiny.gguf(tmp_path / "m.gguf", changes=changes, spread=0.05, kind=Kind.Q8_0, quantise=quantised)

    def loaded(count: int) -> bytes:
        monkeypatch.setattr(packing, "loader_threads", lambda: count)
        decoder = load_model(path).decoder
        assert isinstance(decoder, CpuDecoder)
        memory = decoder._packed.kept[1]
        assert isinstance(memory, packing.WeightMemory)
        return ctypes.string_at(memory.address, memory._used)

    alone = loaded(1)
    assert len(alone) - alone.count(0) > len(alone) // 2
    assert loaded(threads) == alone


def test_activations_do_not_outlive_their_step(any_model: LoadedModel) -> None:
    """Whatever the step kept between its parts is zero afterwards (the memory is found by its mapping)."""
    decoder = compiled(any_model)
    pool = decoder.new_pool(64, 16)
    table = pool.allocate(1, 100)
    decoder.step([Span(tokens_of(100), 0, table, True)], pool)
    assert decoder.residue() == 0


def test_threads_that_come_late_take_no_chunk_of_another_job(tiny_folder: Path) -> None:
    """More threads than processors and jobs of microseconds: whoever wakes up late meets another job than its own."""
    model = load_model(tiny_folder)
    decoder = compiled(model)
    decoder.reserve(512, threads=12)
    pool, tokens = decoder.new_pool(8, 16), tokens_of(20)

    def logits() -> np.ndarray:
        table = pool.allocate(1, 40)
        decoder.step([Span(tokens, 0, table, True)], pool)
        for at in range(20, 24):
            last = decoder.step([Span(tokens[at - 20 : at - 19], at, table, True)], pool)[0].copy()
        pool.release(table)
        return last

    first = logits()
    assert all(np.array_equal(logits(), first) for _ in range(400))
