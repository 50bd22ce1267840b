"""The GGUF container: hostile bytes never leave the error family."""

import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave_runtime.engine.errors import ModelError, ModelMalformed, UnsupportedModel
from enclave_runtime.engine.gguf_file import parse_gguf


@pytest.fixture(scope="module")
def container(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path: Path = tiny.gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")
    return path.read_bytes()


def header(version: int = 3, tensors: int = 0, entries: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries)


def entry(key: str, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + value


def test_reads_what_the_writer_wrote(container: bytes, tiny: Any) -> None:
    file = parse_gguf(container)
    assert file.metadata.text("general.architecture") == "llama"
    assert file.metadata.integer("llama.embedding_length") == 64
    assert file.metadata.number("llama.attention.layer_norm_rms_epsilon") == pytest.approx(1e-5)
    assert len(file.metadata.texts("tokenizer.ggml.tokens")) == tiny.config["vocab_size"]
    assert file.tensors["blk.1.ffn_down.weight"].shape == (64, 96)
    embedding = file.tensors["token_embd.weight"]
    start = file.data_start + embedding.offset
    stored = np.frombuffer(container, "<f4", tiny.config["vocab_size"] * 64, start)
    assert np.array_equal(stored, tiny.weights()["model.embed_tokens.weight"].numpy().reshape(-1))


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", ModelMalformed),
        (b"GGML" + header()[4:], ModelMalformed),
        (header(version=1), UnsupportedModel),
        (header(version=0x03000000), UnsupportedModel),
        (header(tensors=1 << 60), ModelMalformed),
        (header(entries=1 << 60), ModelMalformed),
        (header(entries=1) + struct.pack("<Q", 1 << 62), ModelMalformed),
        (header(entries=1) + entry("a", 99, b""), ModelMalformed),
        (header(entries=1) + entry("a", 7, b"\x02"), ModelMalformed),
        (header(entries=1) + entry("a", 8, struct.pack("<Q", 2) + b"\xff\xff"), ModelMalformed),
        (header(entries=1) + entry("a", 9, struct.pack("<IQ", 9, 1)), ModelMalformed),
        (header(entries=1) + entry("a", 9, struct.pack("<IQ", 8, 1 << 21)), ModelMalformed),
        (header(entries=1) + entry("a", 9, struct.pack("<IQ", 4, 1 << 60)), ModelMalformed),
        (header(entries=2) + 2 * entry("a", 0, b"\1"), ModelMalformed),
        (header(entries=1) + entry("general.alignment", 4, struct.pack("<I", 0)), ModelMalformed),
        (header(entries=1) + entry("general.alignment", 4, struct.pack("<I", 48)), ModelMalformed),
        (header(tensors=1) + struct.pack("<Q", 1) + b"t" + struct.pack("<I", 9), ModelMalformed),
        (header(tensors=1) + struct.pack("<Q", 1) + b"t" + struct.pack("<IQ", 1, 0), ModelMalformed),
    ],
)
def test_refuses(data: bytes, error: type[ModelError]) -> None:
    with pytest.raises(error):
        parse_gguf(data)


def test_every_truncation_of_the_head_is_refused(container: bytes) -> None:
    end = parse_gguf(container).data_start - 32
    for length in [*range(400), *range(400, end, 37)]:
        with pytest.raises(ModelError):
            parse_gguf(container[:length])


@given(position=st.integers(0, 6000), byte=st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(container: bytes, position: int, byte: int) -> None:
    changed = bytearray(container[:8000])
    changed[position] = byte
    with suppress(ModelError):
        parse_gguf(bytes(changed))


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ModelError):
        parse_gguf(data)
    with suppress(ModelError):
        parse_gguf(header(entries=2) + data)


def strings(values: Sequence[bytes]) -> bytes:
    return b"".join(struct.pack("<Q", len(value)) + value for value in values)


def read_back(count: int, data: bytes) -> list[str]:
    """The strings of an array, and that what follows it is found where it is."""
    array = entry("a", 9, struct.pack("<IQ", 8, count) + data)
    file = parse_gguf(header(entries=2) + array + entry("b", 4, struct.pack("<I", 7)))
    assert file.metadata.integer("b") == 7
    return file.metadata.texts("a")


def one_by_one(count: int, data: bytes) -> list[str] | None:
    """What an array of strings says, None where it is none."""
    found: list[str] = []
    for _ in range(count):
        length = int.from_bytes(data[:8], "little")
        if len(data) < 8 + length:
            return None
        with suppress(UnicodeDecodeError):
            found.append(data[8 : 8 + length].decode())
        data = data[8 + length :]
    return found if len(found) == count and not data else None


# Words as vocabularies have them, and what is rare in one: nothing at all, zeros, more than 255 bytes.
words = st.text("abĠ世", min_size=1, max_size=9) | st.sampled_from(
    ["", "\0", "a\0b", "\0\0\0\0\0\0\0\0", "x" * 256]
)


@given(st.lists(words, max_size=30))
def test_an_array_of_strings(values: list[str]) -> None:
    encoded = [value.encode() for value in values]
    assert read_back(len(values), strings(encoded)) == values


@pytest.mark.parametrize("odd", ["", "y" * 255, "z" * 300, "\0"])
def test_a_long_array_of_strings(odd: str) -> None:
    values = [f"word {number}" for number in range(20000)]
    for place in (0, 9000, 19999):
        changed = [*values[:place], odd, *values[place + 1 :]]
        assert read_back(len(values), strings([value.encode() for value in changed])) == changed


@given(
    st.lists(st.text("abĠ世", min_size=1, max_size=9), min_size=1, max_size=6),
    st.data(),
    st.integers(0, 255),
)
def test_a_changed_byte_of_an_array_is_read_as_one_string_after_another(
    values: list[str], data: st.DataObject, byte: int
) -> None:
    array = bytearray(strings([value.encode() for value in values]))
    array[data.draw(st.integers(0, len(array) - 1))] = byte
    expected = one_by_one(len(values), bytes(array))
    if expected is not None:
        assert read_back(len(values), bytes(array)) == expected
        return
    with pytest.raises((ModelError, AssertionError)):
        read_back(len(values), bytes(array))
