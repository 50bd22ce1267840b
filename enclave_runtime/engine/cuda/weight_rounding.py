"""Weights into the 8 bits that kernels read (`WeightFormat`).

What a file holds in Q8_0 (ggml) becomes ``i8`` as it is stored; other weights go to the nearest of 255 steps. For
``fp8`` they go to the nearest of its numbers, ties to even.
"""

import numpy as np

from enclave_runtime.engine.cuda.weight_formats import INT8, WeightFormat
from enclave_runtime.engine.errors import ModelMalformed
from enclave_runtime.engine.ggml_types import BLOCKS, GgmlType

_LARGEST_FP8 = 448.0


def scale_type(kind: WeightFormat) -> type[np.floating]:
    """numpy's type of the scales."""
    return np.float16 if kind.scale == "fp16" else np.float32


def quantised(kind: WeightFormat, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``matrix``, float32 [outputs, inputs], in 8 bits: the bits, uint8 of its shape, and scales [outputs, groups].

    Raises `ModelMalformed` for weights that are not finite, or too large for a scale.
    """
    outputs, inputs = matrix.shape
    groups = kind.groups(inputs)
    whole = np.zeros((outputs, groups * kind.group), dtype=np.float32)
    whole[:, :inputs] = matrix
    blocks = whole.reshape(outputs, groups, kind.group)
    most = 127.0 if kind is INT8 else _LARGEST_FP8
    with np.errstate(over="ignore", invalid="ignore"):
        scales = (np.abs(blocks).max(2) / most).astype(scale_type(kind))
    if not np.isfinite(scales).all():
        raise ModelMalformed("weights that are not finite or too large")
    wide = scales.astype(np.float32)
    # A group whose scale is too small for its type is zero: so are its weights, to within that type's smallest number.
    inverse = np.divide(1.0, wide, out=np.zeros_like(wide), where=wide > 0)
    scaled = np.clip(blocks * inverse[:, :, None], -most, most)
    bits = np.rint(scaled).astype(np.int8).view(np.uint8) if kind is INT8 else fp8_bits(scaled)
    return np.ascontiguousarray(bits.reshape(outputs, -1)[:, :inputs]), scales


def from_q8_0(rows: np.ndarray, inputs: int) -> tuple[np.ndarray, np.ndarray]:
    """What ``rows``, uint8 [outputs, bytes], hold in Q8_0, as `quantised` gives it for `INT8`: no number is changed.

    Raises `ModelMalformed` for a scale that is not finite.
    """
    blocks = rows.reshape(len(rows), -1, BLOCKS[GgmlType.Q8_0][1])
    scales = np.ascontiguousarray(blocks[:, :, :2]).view(np.float16)[:, :, 0]
    if not np.isfinite(scales).all():
        raise ModelMalformed("scales that are not finite")
    return np.ascontiguousarray(blocks[:, :, 2:]).reshape(len(rows), inputs), np.ascontiguousarray(scales)


def fp8_bits(values: np.ndarray) -> np.ndarray:
    """Float32 of at most 448 in magnitude as E4M3: uint8, the bits."""
    magnitude = np.abs(values)
    # The exponent of the last place: three bits after the first, and never below that of the smallest numbers.
    place = np.where(magnitude > 0, np.maximum(np.frexp(magnitude)[1] - 4, -9), -9)
    steps = np.rint(np.ldexp(magnitude, -place)).astype(np.int32)  # up to 15, or 16: the next exponent
    return np.asarray(steps + (place + 9) * 8 + (np.signbit(values) << 7), dtype=np.uint8)
