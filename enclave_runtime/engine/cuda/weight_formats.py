"""How matrices of weights lie on the device: in the kernels' element, or in 8 bits with a scale for a group of inputs.

``i8`` holds what a file has in Q8_0 (ggml) as it is stored; other weights are rounded to the nearest of 255 steps.
``fp8`` is E4M3 without infinities (Micikevicius et al., 2022, "FP8 Formats for Deep Learning"), ties to even.
"""

from dataclasses import dataclass

import numpy as np

from enclave_runtime.engine.errors import ModelMalformed

Q8_0 = 8
"""ggml's number of the format: blocks of a float16 scale and 32 numbers of 8 bits."""
_BLOCK = 32
_LARGEST_FP8 = 448.0


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """``element`` and ``scale`` are triton's names of the types; ``group`` inputs of an output share a scale."""

    name: str
    element: str
    scale: str
    group: int

    def groups(self, inputs: int) -> int:
        """Scales of one output."""
        return -(-inputs // self.group)

    @property
    def scale_type(self) -> type[np.floating]:
        return np.float16 if self.scale == "fp16" else np.float32


INT8 = WeightFormat("i8", "i8", "fp16", _BLOCK)
FP8 = WeightFormat("fp8", "fp8e4nv", "fp32", 128)
QUANTISED = (INT8, FP8)


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
        scales = (np.abs(blocks).max(2) / most).astype(kind.scale_type)
    if not np.isfinite(scales).all():
        raise ModelMalformed("weights that are not finite or too large")
    wide = scales.astype(np.float32)
    # A group whose scale is too small for its type is zero: so are its weights, to within that type's smallest number.
    inverse = np.divide(1.0, wide, out=np.zeros_like(wide), where=wide > 0)
    scaled = np.clip(blocks * inverse[:, :, None], -most, most)
    bits = np.rint(scaled).astype(np.int8).view(np.uint8) if kind is INT8 else fp8_bits(scaled)
    return np.ascontiguousarray(bits.reshape(outputs, -1)[:, :inputs]), scales


def from_q8_0(rows: np.ndarray, inputs: int) -> tuple[np.ndarray, np.ndarray]:
    """What ``rows``, uint8 [outputs, bytes], hold in `Q8_0`, as `quantised` gives it for `INT8`: no number is changed.

    Raises `ModelMalformed` for a scale that is not finite.
    """
    blocks = rows.reshape(len(rows), inputs // _BLOCK, 2 + _BLOCK)
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
