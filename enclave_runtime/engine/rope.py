"""Rotary position embedding: the angle table for one model.

Sources: RoFormer (arXiv 2104.09864) for the rotation, Llama 3.1's published configuration for the ``llama3``
scaling. The pairing is that of the Hugging Face checkpoints: dimension i turns with dimension i + D/2.
"""

from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """How fast each pair of dimensions turns.

    ``scaling`` is ``none``, ``linear`` (every frequency divided by ``factor``), ``llama3`` (low frequencies
    divided by ``factor``, high ones kept, a ramp between them) or ``factors`` (each frequency divided by its
    own entry of ``factors``, D/2 of them, as GGUF files store it).
    """

    theta: float
    scaling: str = "none"
    factor: float = 1.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_context: int = 0
    factors: tuple[float, ...] = ()


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> Tensor:
    """Radians per position of every pair: float32 [head_dim / 2]."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).to(torch.float32) / head_dim
    frequencies = 1.0 / (rope.theta**exponents)
    if rope.scaling == "linear":
        return frequencies / rope.factor
    if rope.scaling == "factors":
        return frequencies / torch.tensor(rope.factors, dtype=torch.float32)
    if rope.scaling == "llama3":
        return _llama3(frequencies, rope)
    return frequencies


def rotation_table(rope: RopeConfig, head_dim: int, positions: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines for positions 0 .. positions-1: two float32 [positions, head_dim / 2]."""
    steps = torch.arange(positions, dtype=torch.float32)
    angles = torch.outer(steps, inverse_frequencies(rope, head_dim))
    return angles.cos(), angles.sin()


def rotate(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn ``heads`` [rows, heads, D] by the angles of their rows (both tables: [rows, 1, D/2])."""
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1)


def _llama3(frequencies: Tensor, rope: RopeConfig) -> Tensor:
    turns = rope.original_context * frequencies / (2 * pi)  # full turns within the original context
    ramp = (turns - rope.low_frequency_factor) / (rope.high_frequency_factor - rope.low_frequency_factor)
    ramp = ramp.clamp(0.0, 1.0)
    return (1.0 - ramp) * frequencies / rope.factor + ramp * frequencies
