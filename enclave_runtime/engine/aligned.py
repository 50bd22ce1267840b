"""Arrays that begin at a cache line, as the kernels read and write them fastest."""

import math

import numpy as np
from numpy.typing import DTypeLike

CACHE_LINE = 64


def aligned_zeros(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Zeros of ``shape`` that begin at a multiple of `CACHE_LINE` bytes."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    whole = np.zeros(size + CACHE_LINE, dtype=np.uint8)
    begin = -whole.ctypes.data % CACHE_LINE
    return whole[begin : begin + size].view(dtype).reshape(shape)
