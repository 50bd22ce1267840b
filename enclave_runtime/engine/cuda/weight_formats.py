"""How matrices of weights lie on the device, where they do not lie in the kernels' element: in 8 bits with scales.

``fp8`` is E4M3 without infinities (Micikevicius et al., 2022, "FP8 Formats for Deep Learning").
"""

from dataclasses import dataclass


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


INT8 = WeightFormat("i8", "i8", "fp16", 32)
FP8 = WeightFormat("fp8", "fp8e4nv", "fp32", 128)
QUANTISED = (INT8, FP8)
