"""Both kinds of model files: the same weights give the same model, and broken files are refused."""

import gc
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from enclave_runtime.engine.decoder import Span
from enclave_runtime.engine.errors import ModelError, ModelMalformed, ModelNotFound, UnsupportedModel
from enclave_runtime.engine.gguf_weights import expand
from enclave_runtime.engine.model import LoadedModel, load_model, model_digest
from enclave_runtime.engine.torch_decoder import TorchDecoder


def weights_of(model: LoadedModel) -> list[torch.Tensor]:
    assert isinstance(model.decoder, TorchDecoder)
    weights = model.decoder._weights
    layers = [
        tensor
        for layer in weights.layers
        for tensor in (
            layer.attention_norm,
            layer.query_key_value,
            layer.attention_output,
            layer.mlp_norm,
            layer.gate_up,
            layer.down,
        )
    ]
    return [weights.embedding, weights.final_norm, weights.head, *layers]


def logits_of(model: LoadedModel, count: int = 30) -> np.ndarray:
    model.decoder.reserve(64)
    pool = model.decoder.new_pool(8, 16)
    tokens = np.arange(count, dtype=np.int64) * 7 % 264
    return model.decoder.step([Span(tokens, 0, pool.allocate(1, count), True)], pool)


def test_gguf_and_safetensors_hold_the_same_model(tiny: Any, tiny_model: LoadedModel, tmp_path: Path) -> None:
    found = load_model(tiny.gguf(tmp_path / "tiny.gguf"))
    expanded = [load_model(path, "torch") for path in (tiny.folder(tmp_path / "m"), tmp_path / "tiny.gguf")]
    for expected, tensor in zip(*map(weights_of, expanded), strict=True):
        assert torch.equal(expected, tensor)
    assert np.array_equal(logits_of(tiny_model), logits_of(found))
    assert found.tokenizer.encode("the cat <|im_end|> 12") == tiny_model.tokenizer.encode(
        "the cat <|im_end|> 12"
    )
    assert found.chat_template.source == tiny_model.chat_template.source
    assert found.tokenizer.end_ids == tiny_model.tokenizer.end_ids == {2}


@pytest.mark.parametrize("kind", [Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1])
def test_quantised_weights_are_near(tiny: Any, tmp_path: Path, kind: Kind) -> None:
    path = tiny.gguf(tmp_path / "tiny.gguf", kind=kind)
    expected = weights_of(load_model(tiny.gguf(tmp_path / "plain.gguf"), "torch"))
    bound = {Kind.F16: 1e-3, Kind.BF16: 8e-3, Kind.Q8_0: 8e-3, Kind.Q4_0: 0.2, Kind.Q4_1: 0.15}[kind]
    for plain, quantised in zip(expected, weights_of(load_model(path, "torch")), strict=True):
        assert float((plain - quantised).abs().max()) <= bound


def test_a_tied_head_is_the_embedding(tiny: Any, tmp_path: Path) -> None:
    changes = {"tie_word_embeddings": True}
    for path in (
        tiny.folder(tmp_path / "folder", **changes),
        tiny.gguf(tmp_path / "m.gguf", changes=changes),
    ):
        embedding, _, head, *_ = weights_of(load_model(path, "torch"))
        assert head is embedding


def test_rope_factors_of_a_gguf_file_divide_the_frequencies(tiny: Any, tmp_path: Path) -> None:
    def halve(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor("rope_freqs.weight", np.full(8, 2.0, dtype=np.float32))

    slowed = load_model(tiny.gguf(tmp_path / "a.gguf", extra=halve))
    linear = load_model(tiny.folder(tmp_path / "b", rope_scaling={"type": "linear", "factor": 2.0}))
    plain = load_model(tiny.folder(tmp_path / "c"))
    assert np.array_equal(logits_of(slowed), logits_of(linear))
    assert not np.allclose(logits_of(slowed), logits_of(plain), atol=1e-3)


def q4_1_by_hand(block: bytes) -> list[float]:
    scale, least = struct.unpack("<ee", block[:4])
    low, high = [byte & 15 for byte in block[4:]], [byte >> 4 for byte in block[4:]]
    return [scale * number + least for number in low + high]


def q6_k_by_hand(block: bytes) -> list[float]:
    low, high, scales = block[:128], block[128:192], struct.unpack("16b", block[192:208])
    (scale,) = struct.unpack("<e", block[208:210])
    numbers = []
    for index in range(256):
        half, within = divmod(index, 128)
        quarter, place = divmod(within, 32)
        nibble = low[half * 64 + (quarter % 2) * 32 + place] >> (4 if quarter >= 2 else 0) & 15
        upper = high[half * 32 + place] >> (2 * quarter) & 3
        numbers.append(scale * scales[index // 16] * ((nibble | upper << 4) - 32))
    return numbers


@pytest.mark.parametrize(
    ("kind", "size", "halves", "by_hand"),
    [(Kind.Q4_1, 20, (0, 2), q4_1_by_hand), (Kind.Q6_K, 210, (208,), q6_k_by_hand)],
)
def test_blocks_expand_as_the_format_says(
    kind: Kind, size: int, halves: tuple[int, ...], by_hand: Callable[[bytes], list[float]]
) -> None:
    random = np.random.default_rng(5)
    rows = random.integers(0, 256, (3, 2 * size), dtype=np.uint8)
    for block in (0, size):
        for place in halves:  # the scales are halves: keep them small and finite
            rows[:, block + place + 1] = rows[:, block + place + 1] & 0x83 | 0x30
    found = expand(rows, kind)
    for row, expanded in zip(rows, found, strict=True):
        data = row.tobytes()
        assert np.allclose(expanded, by_hand(data[:size]) + by_hand(data[size:]), rtol=1e-5, atol=1e-6)


def test_shards_are_read_through_their_index(tiny: Any, tiny_model: LoadedModel, tmp_path: Path) -> None:
    folder = tiny.folder(tmp_path / "sharded")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {"a.safetensors": names[:7], "b.safetensors": names[7:]}
    for file, held in parts.items():
        save_file({name: weights[name] for name in held}, folder / file)
    index = {"weight_map": {name: file for file, held in parts.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert np.array_equal(logits_of(load_model(folder)), logits_of(tiny_model))


@pytest.mark.parametrize(
    "index",
    [
        b"[]",
        b"{}",
        b'{"weight_map": {}}',
        b'{"weight_map": {"a": "../outside.safetensors"}}',
        b'{"weight_map": {"a": "/etc/x.safetensors"}}',
        b'{"weight_map": {"a": "model.bin"}}',
        b'{"weight_map": {"a": "missing.safetensors"}}',
        b'{"weight_map": {"a": 5}}',
        b'{"weight_map": {"a": ["x"]}}',
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_an_index_that_is_broken_or_leaves_the_folder_is_refused(
    tiny: Any, tmp_path: Path, index: bytes
) -> None:
    folder = tiny.folder(tmp_path / "m")
    (folder / "model.safetensors.index.json").write_bytes(index)
    with pytest.raises(ModelMalformed):
        load_model(folder)


def test_missing_extra_and_misshapen_tensors_are_refused_by_name(tiny: Any, tmp_path: Path) -> None:
    folder = tiny.folder(tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    for changed in (
        {key: value for key, value in weights.items() if key != name},
        weights | {name: weights[name].T.contiguous()},
        weights | {"model.layers.0.self_attn.q_proj.bias": torch.zeros(64)},
    ):
        save_file(changed, folder / "model.safetensors")
        with pytest.raises(ModelMalformed, match=r"up_proj|q_proj\.bias"):
            load_model(folder)


def test_integers_are_no_weights(tiny: Any, tmp_path: Path) -> None:
    folder = tiny.folder(tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"model.norm.weight": torch.ones(64, dtype=torch.int8)}, folder / "model.safetensors")
    with pytest.raises(UnsupportedModel, match="I8"):
        load_model(folder)


def test_a_pickled_checkpoint_is_no_model(tiny: Any, tmp_path: Path) -> None:
    folder = tiny.folder(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelNotFound):
        load_model(folder)


def test_missing_models_are_named_as_missing(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        load_model(tmp_path / "nothing.gguf")
    with pytest.raises(ModelNotFound, match=r"config\.json"):
        load_model(tmp_path)
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(ModelMalformed):
        load_model(tmp_path / "empty.gguf")


def test_a_tokenizer_larger_than_the_model_is_refused(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelMalformed, match="tokenizer"):
        load_model(tiny.folder(tmp_path / "m", vocab_size=200))


@pytest.mark.parametrize(
    "file", ["tokenizer.json", "tokenizer_config.json", "config.json", "model.safetensors"]
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_broken_file_in_a_folder_stays_in_the_family(
    tiny_folder: Path, tmp_path: Path, file: str, data: st.DataObject
) -> None:
    for source in tiny_folder.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    content = bytearray((tiny_folder / file).read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        content[data.draw(st.integers(0, min(len(content), 4000) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / file).write_bytes(content)
    with suppress(ModelError):
        load_model(tmp_path)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_broken_gguf_stays_in_the_family(tiny: Any, tmp_path: Path, data: st.DataObject) -> None:
    source = tmp_path / "source.gguf"
    if not source.exists():
        tiny.gguf(source)
    content = bytearray(source.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        content[data.draw(st.integers(0, 9000))] = data.draw(st.integers(0, 255))
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(content)
    with suppress(ModelError):
        load_model(broken)


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        (lambda writer: writer.add_expert_count(4), "experts"),
        (lambda writer: writer.add_rope_dimension_count(8), "part of each head"),
        (lambda writer: writer.add_rope_scaling_type(gguf.RopeScalingType.YARN), "yarn"),
        (lambda writer: writer.add_uint16("split.count", 2), "split"),
        (
            lambda writer: writer.add_tensor("blk.0.attn_q.bias", np.zeros(64, dtype=np.float32)),
            r"q_proj\.bias",
        ),
    ],
)
def test_gguf_files_of_other_kinds_are_refused_by_name(
    tiny: Any, tmp_path: Path, extra: Callable[[gguf.GGUFWriter], None], named: str
) -> None:
    with pytest.raises(ModelError, match=named):
        load_model(tiny.gguf(tmp_path / "m.gguf", extra=extra))


def test_the_digest_covers_every_byte_and_name(tiny: Any, tiny_model: LoadedModel, tmp_path: Path) -> None:
    folder = tiny.folder(tmp_path / "m")
    assert load_model(folder).model_digest == tiny_model.model_digest
    assert load_model(folder).tokenizer_digest == tiny_model.tokenizer_digest
    with (folder / "config.json").open("a") as file:
        file.write(" ")
    changed = load_model(folder)
    assert changed.model_digest != tiny_model.model_digest
    assert changed.tokenizer_digest == tiny_model.tokenizer_digest
    assert model_digest({"a": b"1" * 32, "b": b"2" * 32}) != model_digest({"a": b"2" * 32, "b": b"1" * 32})


def test_importing_the_engine_starts_no_thread() -> None:
    said = "import os; import enclave_runtime.engine.model; print(len(os.listdir('/proc/self/task')))"
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", said], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "1\n"


def test_the_collector_works_again_once_a_model_is_loaded_or_refused(
    tiny_folder: Path, tmp_path: Path
) -> None:
    assert gc.isenabled()
    load_model(tiny_folder)
    assert gc.isenabled()
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelMalformed):
        load_model(tmp_path / "m.gguf")
    assert gc.isenabled()
    gc.disable()
    try:
        load_model(tiny_folder)
        assert not gc.isenabled()
    finally:
        gc.enable()
