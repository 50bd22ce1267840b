"""Floating-point numbers of 16 bits, and float32: numpy has no bfloat16 of its own."""

import numpy as np

from enclave_runtime.engine.ggml_types import GgmlType


def widened(stored: np.ndarray, kind: GgmlType) -> np.ndarray:
    """What ``stored`` (uint8 [..., bytes]) holds in a format of `FLOATS`, exactly: float32 [..., numbers]."""
    if kind == GgmlType.F32:
        return stored.view("<f4")
    if kind == GgmlType.F16:
        return stored.view("<f2").astype(np.float32)
    return from_bfloat16(stored.view("<u2"))


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """Exactly the numbers whose bits are in ``bits`` (uint16): float32."""
    wide: np.ndarray = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return wide


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """The nearest bfloat16 of each float32, of two equally near ones the even one, as bits: uint16. NaN stays NaN."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    half = np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    nan = bits & np.uint32(0x7FFFFFFF) > np.uint32(0x7F800000)
    rounded: np.ndarray = np.where(nan, bits | np.uint32(0x400000), bits + half) >> np.uint32(16)
    return rounded.astype(np.uint16)


def to_float16(values: np.ndarray) -> np.ndarray:
    """The nearest float16 of each float32, as bits: uint16."""
    with np.errstate(over="ignore"):  # infinite, as everywhere else
        return values.astype(np.float16).view(np.uint16)
