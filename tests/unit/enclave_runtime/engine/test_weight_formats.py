"""Weights in 8 bits as GPU kernels read them: rounded as the types say, and what a file holds in Q8_0 not at all."""

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from weight_sources import MadeWeights

from enclave_runtime.engine.cuda.device_memory import held
from enclave_runtime.engine.cuda.weight_formats import FP8, INT8, QUANTISED, WeightFormat
from enclave_runtime.engine.cuda.weight_rounding import fp8_bits, from_q8_0, quantised, scale_type
from enclave_runtime.engine.errors import ModelMalformed
from enclave_runtime.engine.ggml_types import GgmlType
from enclave_runtime.engine.weights import StoredTensor


def wide(kind: WeightFormat, bits: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The numbers that a kernel computes with, in float64."""
    numbers = torch.from_numpy(bits).view(torch.int8 if kind is INT8 else torch.float8_e4m3fn)
    return numbers.double().numpy() * scales.astype(np.float64).repeat(kind.group, 1)[:, : bits.shape[1]]


@given(arrays.arrays(np.float32, 32, elements=st.floats(-448, 448, width=32)))
def test_eight_bit_floats_are_rounded_to_the_nearest(values: np.ndarray) -> None:
    expected = torch.from_numpy(values.copy()).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    assert np.array_equal(fp8_bits(values), expected)


def test_every_eight_bit_float_stays_what_it_is() -> None:
    every = np.array([bits for bits in range(256) if bits & 0x7F != 0x7F], dtype=np.uint8)
    values = torch.from_numpy(every).view(torch.float8_e4m3fn).float().numpy()
    assert np.array_equal(fp8_bits(values), every)


@pytest.mark.parametrize("kind", QUANTISED, ids=lambda kind: kind.name)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 300)),
    power=st.integers(-12, 12),
    seed=st.integers(0, 99),
)
def test_no_weight_moves_further_than_its_type_says(
    kind: WeightFormat, shape: tuple[int, int], power: int, seed: int
) -> None:
    matrix = (np.random.default_rng(seed).standard_normal(shape) * 2.0**power).astype(np.float32)
    bits, scales = quantised(kind, matrix)
    assert bits.shape == shape
    assert scales.shape == (shape[0], kind.groups(shape[1]))
    assert scales.dtype == scale_type(kind)
    found = wide(kind, bits, scales)
    step = scales.astype(np.float64).repeat(kind.group, 1)[:, : shape[1]]
    # Half a step: of 1/127 of the largest, or of the place of three bits. A scale in float16 is rounded itself.
    slack = step * 127 * 2**-10 + 127 * 2.0**-24 if kind is INT8 else 0.0
    bound = step / 2 if kind is INT8 else np.maximum(np.abs(matrix) / 16, step * 2**-10)
    assert (np.abs(found - matrix) <= bound * 1.001 + slack).all()


@pytest.mark.parametrize("kind", QUANTISED, ids=lambda kind: kind.name)
def test_zeros_stay_zeros_and_what_is_not_finite_is_refused(kind: WeightFormat) -> None:
    matrix = np.zeros((2, 70), dtype=np.float32)
    assert not wide(kind, *quantised(kind, matrix)).any()
    for broken in (np.inf, -np.inf, np.nan):
        matrix[1, 65] = broken
        with pytest.raises(ModelMalformed):
            quantised(kind, matrix)


@given(st.integers(0, 99))
def test_what_a_file_holds_in_eight_bits_is_kept_bit_for_bit(seed: int) -> None:
    matrix = np.random.default_rng(seed).standard_normal((6, 96)).astype(np.float32)
    rows = gguf.quants.quantize(matrix, gguf.GGMLQuantizationType.Q8_0)
    expected = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType.Q8_0)
    found = from_q8_0(rows, 96)
    assert np.array_equal(wide(INT8, *found), expected.astype(np.float64))


def test_a_broken_scale_of_a_file_is_refused() -> None:
    rows = np.zeros((2, 34), dtype=np.uint8)
    rows[1, :2] = (0, 0x7C)  # infinity
    with pytest.raises(ModelMalformed):
        from_q8_0(rows, 32)


class _Stored(MadeWeights):
    """One matrix in Q8_0, its rows in another order than the tensor's."""

    def __init__(self, matrix: np.ndarray, order: np.ndarray) -> None:
        self.tensors = {"m": matrix}
        self._rows = gguf.quants.quantize(matrix[np.argsort(order)], gguf.GGMLQuantizationType.Q8_0)
        self._order = order

    def kind(self, name: str) -> int:
        return GgmlType.Q8_0

    def stored(self, name: str) -> StoredTensor:
        return StoredTensor(GgmlType.Q8_0, self._rows, self._order)


def test_a_decoder_takes_stored_eight_bits_in_the_tensors_order_and_rounds_the_rest() -> None:
    matrix = np.random.default_rng(3).standard_normal((4, 64)).astype(np.float32)
    source = _Stored(matrix, np.array([2, 0, 3, 1]))
    whole = gguf.quants.quantize(matrix, gguf.GGMLQuantizationType.Q8_0)
    expected = gguf.quants.dequantize(whole, gguf.GGMLQuantizationType.Q8_0)
    assert np.array_equal(wide(INT8, *held(INT8, source, "m", (4, 64))), expected)
    for mine, wanted in zip(held(FP8, source, "m", (4, 64)), quantised(FP8, matrix), strict=True):
        assert np.array_equal(mine, wanted)
