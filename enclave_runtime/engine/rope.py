"""Rotary position embedding: the angle table for one model.

Sources: RoFormer (arXiv 2104.09864) for the rotation, Llama 3.1's published configuration for the ``llama3``
scaling. The pairing is that of the Hugging Face checkpoints: dimension i turns with dimension i + D/2.
"""

from dataclasses import dataclass
from math import pi

import numpy as np


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


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> np.ndarray:
    """Radians per position of every pair: float32 [head_dim / 2], each the nearest to its value."""
    frequencies = rope.theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if rope.scaling == "linear":
        frequencies = frequencies / rope.factor
    elif rope.scaling == "factors":
        frequencies = frequencies / np.array(rope.factors, dtype=np.float64)
    elif rope.scaling == "llama3":
        frequencies = _llama3(frequencies, rope)
    nearest: np.ndarray = frequencies.astype(np.float32)
    return nearest


def rotation_table(rope: RopeConfig, head_dim: int, positions: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines for positions 0 .. positions-1: two float32 [positions, head_dim / 2].

    The angle is the product in float32, as models are trained with it; its cosine and sine are the nearest to their
    values, so that they are the same on every processor.
    """
    steps = np.arange(positions, dtype=np.float32)
    angles = np.multiply.outer(steps, inverse_frequencies(rope, head_dim)).astype(np.float64)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _llama3(frequencies: np.ndarray, rope: RopeConfig) -> np.ndarray:
    turns = rope.original_context * frequencies / (2 * pi)  # full turns within the original context
    ramp = (turns - rope.low_frequency_factor) / (rope.high_frequency_factor - rope.low_frequency_factor)
    ramp = ramp.clip(0.0, 1.0)
    scaled: np.ndarray = (1.0 - ramp) * frequencies / rope.factor + ramp * frequencies
    return scaled
