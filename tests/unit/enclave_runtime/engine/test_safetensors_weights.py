"""Safetensors files: every number as it is stored, and nothing but a named refusal for what is broken."""

import json
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enclave_runtime.engine.errors import ModelError, ModelMalformed
from enclave_runtime.engine.half_floats import from_bfloat16, to_bfloat16, to_float16
from enclave_runtime.engine.safetensors_weights import SafetensorsFolder

STORED = {
    "b": ("BF16", [3, 5], np.arange(15, dtype=np.uint16) * 4111),
    "a": ("F16", [2, 2], np.arange(4, dtype=np.uint16) * 9001),
    "d": ("F32", [7], np.arange(7, dtype=np.uint32) * 0x0FEDCBA9),
    "c.rotary_emb.inv_freq": ("F32", [1], np.zeros(1, dtype=np.uint32)),
}


def file_of(order: list[str], *, gap: int = 0, pad: int = 0, after: bytes = b"") -> bytes:
    """A file whose data lie in ``order``, whatever the order of the header, which is padded with ``pad`` blanks."""
    places, data = {}, b""
    for name in order:
        stored = STORED[name][2].tobytes()
        places[name] = [len(data), len(data) + len(stored)]
        data += stored + bytes(gap)
    entries = {
        name: {"dtype": kind, "shape": shape, "data_offsets": places[name]}
        for name, (kind, shape, _) in STORED.items()
    }
    header = json.dumps(entries).encode() + b" " * pad
    return struct.pack("<Q", len(header)) + header + data + after


def opened(folder: Path, content: bytes) -> SafetensorsFolder:
    (folder / "model.safetensors").write_bytes(content)
    return SafetensorsFolder(folder)


@pytest.mark.parametrize("order", [list(STORED), sorted(STORED), sorted(STORED, reverse=True)])
@pytest.mark.parametrize("pad", [0, 1, 3])
def test_every_tensor_is_found_bit_for_bit(tmp_path: Path, order: list[str], pad: int) -> None:
    source = opened(tmp_path, file_of(order, pad=pad))
    assert source.shapes() == {"a": (2, 2), "b": (3, 5), "d": (7,)}
    for name, number in (("a", 1), ("b", 30), ("d", 0)):
        bits, stored = STORED[name][2], source.stored(name)
        assert source.kind(name) == stored.kind == number
        assert stored.order is None
        assert stored.rows.shape[0] == (1 if name == "d" else STORED[name][1][0])
        assert stored.rows.tobytes() == bits.tobytes()
        found = np.full(STORED[name][1], -1, dtype=np.float32)
        source.read_into(name, found)
        back = {"a": to_float16, "b": to_bfloat16, "d": lambda values: values.view(np.uint32)}[name](found)
        assert np.array_equal(back.reshape(-1), bits)


def test_gaps_and_what_follows_the_data_are_refused(tmp_path: Path) -> None:
    for broken in (file_of(list(STORED), gap=4), file_of(list(STORED), after=b"\0" * 8)):
        with pytest.raises(ModelMalformed):
            opened(tmp_path, broken)


WHOLE = file_of(list(STORED))


def test_truncation_at_every_length_is_refused(tmp_path: Path) -> None:
    for length in range(len(WHOLE)):
        with pytest.raises(ModelError):
            opened(tmp_path, WHOLE[:length])


def reading_stays_in_the_family(folder: Path, content: bytes) -> None:
    with suppress(ModelError):
        source = opened(folder, content)
        for name, shape in source.shapes().items():
            out = np.empty(shape, dtype=np.float32)
            source.read_into(name, out)
            assert source.stored(name).rows.nbytes in (out.nbytes, out.nbytes // 2)


def test_every_change_of_a_byte_of_the_header_stays_in_the_family(tmp_path: Path) -> None:
    for place in range(len(WHOLE)):
        for change in (0x01, 0x10, 0x80, 0xFF):
            content = bytearray(WHOLE)
            content[place] ^= change
            reading_stays_in_the_family(tmp_path, bytes(content))


@given(st.binary(max_size=300))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_bytes_stay_in_the_family(tmp_path: Path, content: bytes) -> None:
    reading_stays_in_the_family(tmp_path, content)
    length = struct.pack("<Q", len(content))
    reading_stays_in_the_family(tmp_path, length + content)


def test_every_bfloat16_goes_there_and_back() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    values = from_bfloat16(bits)
    nan = np.isnan(values)
    assert np.array_equal(to_bfloat16(values)[~nan], bits[~nan])
    assert np.isnan(from_bfloat16(to_bfloat16(values[nan]))).all()
    assert values[0x3FC0] == 1.5
    assert values[0xFF80] == -np.inf


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_rounding_to_bfloat16_gives_the_nearest_and_of_two_the_even_one(value: float) -> None:
    found = int(to_bfloat16(np.array([value], dtype=np.float32))[0])
    rounded = float(from_bfloat16(np.array([found], dtype=np.uint16))[0])
    for neighbour in (found - 1, found + 1):
        if neighbour & 0x7FFF <= 0x7F7F and neighbour >= 0:
            other = float(from_bfloat16(np.array([neighbour], dtype=np.uint16))[0])
            if np.isfinite(rounded):
                assert abs(rounded - value) <= abs(other - value)
                assert abs(rounded - value) < abs(other - value) or found % 2 == 0
