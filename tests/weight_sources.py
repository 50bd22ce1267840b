"""Weights that no file holds, as a `TensorSource` offers them."""

from collections.abc import Callable

import numpy as np

from enclave_runtime.engine.config import ModelConfig
from enclave_runtime.engine.weights import StoredTensor, expected_shapes


class MadeWeights:
    """A `TensorSource` over what ``make`` (name, shape) gives for every tensor of ``config``."""

    def __init__(self, config: ModelConfig, make: Callable[[str, tuple[int, ...]], np.ndarray]) -> None:
        self.tensors = {name: make(name, shape) for name, shape in expected_shapes(config)}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    def read_into(self, name: str, out: np.ndarray) -> None:
        np.asarray(out)[...] = self.tensors[name]

    def kind(self, name: str) -> int:
        return 0

    def stored(self, name: str) -> StoredTensor:
        raise NotImplementedError


def zeros(config: ModelConfig) -> MadeWeights:
    """A model of zeros."""
    return MadeWeights(config, lambda _, shape: np.zeros(shape, dtype=np.float32))


def random_weights(config: ModelConfig, seed: int = 1) -> MadeWeights:
    """Normal weights of a quarter's spread, around 1 for norms."""
    chance = np.random.default_rng(seed)

    def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
        return (chance.standard_normal(shape) * 0.25 + ("norm" in name)).astype(np.float32)

    return MadeWeights(config, drawn)


def half_weights(config: ModelConfig) -> MadeWeights:
    """Normal weights that float16 holds exactly (biases: float32), of a spread that its activations stand."""
    chance = np.random.default_rng(config.hidden_size + config.head_dim)

    def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
        norm = "norm" in name
        whole = (chance.standard_normal(shape) * (0.1 if norm else 0.25) + norm).astype(np.float32)
        return whole if name.endswith("bias") else whole.astype(np.float16).astype(np.float32)

    return MadeWeights(config, drawn)
