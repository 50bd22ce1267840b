"""How a node computes its model: which kernels, how the weights are kept, how activations are rounded.

Part of the measured configuration and of the manifest: each choice gives other bits, so a replay needs to know it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from enclave_runtime.errors import ConfigurationError

_VALUES: Mapping[str, tuple[str | int, ...]] = {
    "kernels": ("auto", "compiled", "torch", "cuda"),
    "weights": ("stored", "int8", "fp8"),
    "activations": (16, 8),
    "ranks": tuple(range(1, 9)),
}


@dataclass(frozen=True, slots=True)
class DecoderChoice:
    """``kernels``: ``compiled``, ``torch``, ``cuda`` (a GPU's), or ``auto`` for the compiled ones where they are built
    and know the shape.
    ``weights``: ``stored`` as the file has them (on a GPU: in bfloat16), ``int8``, floating-point matrices turned into
    8 bits with a scale per 32 (on a GPU: those of the layers), or, on a GPU alone, ``fp8`` with a scale per 128.
    ``activations``: to how many bits those are rounded that meet quantised weights; 8 are quicker in large
    batches and further from float32 (docs/decoder.md). ``ranks``: processes that share the model, on torch alone.
    """

    kernels: str = "auto"
    weights: str = "stored"
    activations: int = 16
    ranks: int = 1

    def __post_init__(self) -> None:
        for name, values in _VALUES.items():
            value = getattr(self, name)
            if type(value) is bool or value not in values:
                allowed = ", ".join(map(str, values))
                raise ConfigurationError("config_decoder", f"'{name}' is one of: {allowed}")
        if self.ranks > 1 and self.kernels != "torch":
            raise ConfigurationError("config_decoder", "several 'ranks' compute on torch")
        if self.kernels == "torch" and (self.weights, self.activations) != ("stored", 16):
            raise ConfigurationError("config_decoder", "torch computes with stored weights and 16 bits")
        if self.kernels == "cuda" and self.activations != 16:
            raise ConfigurationError("config_decoder", "activations of 8 bits are the compiled decoder's")
        if self.kernels != "cuda" and self.weights == "fp8":
            raise ConfigurationError("config_decoder", "'fp8' weights are a GPU's")

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> "DecoderChoice":
        """Read the table of a configuration. Raises ConfigurationError ``config_decoder``."""
        odd = set(table) - set(_VALUES)
        if odd:
            raise ConfigurationError("config_decoder", f"unknown: {', '.join(sorted(odd))[:200]}")
        return cls(**table)

    @property
    def wanted(self) -> str:
        """What `enclave_runtime.engine.model.load_model` calls it."""
        if self.kernels == "cuda":
            return "cuda" if self.weights == "stored" else f"cuda {self.weights}"
        if self.weights == "int8":
            return "int8"
        # Rounding to 8 bits is the compiled decoder's: to fall back would be to compute something else than was said.
        return "compiled" if self.activations == 8 else self.kernels

    def manifest(self) -> dict[str, str | int]:
        """The values by name, for the runtime manifest."""
        return asdict(self)
