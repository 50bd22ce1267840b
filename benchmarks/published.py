"""The published study that most people quote, recomputed from its own figures.

Zhu et al., Confidential Computing on NVIDIA Hopper GPUs: A Performance Benchmark Study, arXiv 2409.03992 v4,
tables 1 and 2 (H100 NVL, vLLM 0.5.4) and the Llama-3.1-8B rows of table 3. The other rows of table 3 are left
out: they could not be compared with the paper again when this was written.
"""

from dataclasses import dataclass
from typing import Literal

SOURCE = "arXiv 2409.03992 v4"

Model = Literal["Llama-3.1-8B", "Phi3-14B-128k", "Llama-3.1-70B"]
Quantity = Literal["TPS", "QPS", "TTFT", "ITL", "TPS short", "TPS medium", "TPS long"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One comparison: with the TEE on and off, and the overhead as printed (percent of the TEE-off figure)."""

    table: int
    model: Model
    quantity: Quantity
    unit: str
    on: float
    off: float
    printed_percent: float

    @property
    def overhead_percent(self) -> float:
        """The overhead recomputed: lost throughput, or added latency, in percent of TEE-off."""
        lost = self.off - self.on if self.unit.endswith("/s") else self.on - self.off
        return 100.0 * lost / self.off


CELLS = (
    Cell(1, "Llama-3.1-8B", "TPS", "tokens/s", 123.2985, 132.3618, 6.85),
    Cell(1, "Llama-3.1-8B", "QPS", "requests/s", 18.2141, 18.8208, 3.22),
    Cell(1, "Phi3-14B-128k", "TPS", "tokens/s", 66.5845, 69.7787, 4.58),
    Cell(1, "Phi3-14B-128k", "QPS", "requests/s", 7.1760, 7.3456, 2.31),
    Cell(1, "Llama-3.1-70B", "TPS", "tokens/s", 2.4823, 2.4789, -0.13),
    Cell(1, "Llama-3.1-70B", "QPS", "requests/s", 0.8325, 0.8295, -0.36),
    Cell(2, "Llama-3.1-8B", "TTFT", "s", 0.0288, 0.0242, 19.03),
    Cell(2, "Llama-3.1-8B", "ITL", "s", 1.6743, 1.5549, 7.67),
    Cell(2, "Phi3-14B-128k", "TTFT", "s", 0.0546, 0.0463, 18.02),
    Cell(2, "Phi3-14B-128k", "ITL", "s", 3.7676, 3.5784, 5.29),
    Cell(2, "Llama-3.1-70B", "TTFT", "s", 0.5108, 0.5129, -0.41),
    Cell(2, "Llama-3.1-70B", "ITL", "s", 94.8714, 95.2395, -0.39),
    Cell(3, "Llama-3.1-8B", "TPS short", "tokens/s", 127.0310, 136.8282, 7.16),
    Cell(3, "Llama-3.1-8B", "TPS medium", "tokens/s", 122.9356, 132.0464, 6.90),
    Cell(3, "Llama-3.1-8B", "TPS long", "tokens/s", 122.9705, 131.7333, 6.65),
)


def cell(model: Model, quantity: Quantity) -> Cell:
    """One cell. Raises LookupError where the study has none."""
    found = [each for each in CELLS if (each.model, each.quantity) == (model, quantity)]
    if not found:
        raise LookupError(f"{SOURCE} has no {quantity} of {model}")
    return found[0]


def answer_tokens(model: Model) -> tuple[float, float]:
    """Tokens of a mean answer if "ITL" were an answer's decode time: ITL × TPS, TEE off and on."""
    itl, tps = cell(model, "ITL"), cell(model, "TPS")
    return itl.off * tps.off, itl.on * tps.on


def concurrency(model: Model) -> float:
    """Requests under way at once, TEE off, by Little's law: QPS × ("ITL" + TTFT)."""
    return cell(model, "QPS").off * (cell(model, "ITL").off + cell(model, "TTFT").off)


def inconsistencies() -> tuple[str, ...]:
    """What does not fit together in the study's figures, each with the numbers that show it."""
    found = [
        f"{each.model} {each.quantity}: printed {each.printed_percent:.2f} %, its own figures give "
        f"{each.overhead_percent:.2f} %"
        for each in CELLS
        if abs(each.overhead_percent - each.printed_percent) > 0.02
    ]
    small, large = cell("Llama-3.1-8B", "TPS"), cell("Llama-3.1-8B", "ITL")
    lengths = ", ".join(f"{answer_tokens(model)[0]:.0f}" for model in _MODELS)
    loads = ", ".join(f"{concurrency(model):.0f}" for model in _MODELS)
    return (
        *found,
        f'"ITL" is no time between tokens: {large.off} s beside {small.off:.1f} tokens/s '
        f"({1000 / small.off:.2f} ms a token). ITL × TPS is {lengths} tokens for the three models: the column "
        "reads as the decode time of a whole answer.",
        f"By Little's law the rows ran at different loads: about {loads} requests at once.",
        f"In one closed loop QPS and TPS lose the same share; here {cell('Llama-3.1-8B', 'QPS').printed_percent} % "
        f"and {small.printed_percent} %.",
        "Throughput is divided by TEE-off and so is latency: the same slowdown gives a smaller number as lost "
        "throughput (off - on) / off than as added latency (on - off) / off.",
        f"No intervals are given. A TEE cannot speed a model up, so the negative overheads of "
        f"{cell('Llama-3.1-70B', 'TTFT').model} (down to {cell('Llama-3.1-70B', 'TTFT').printed_percent} %) put the "
        "noise at 0.4 points or more.",
        "The token-length buckets overlap as written (100, 500); ours are 1-100, 101-500, 501-1500.",
    )


_MODELS: tuple[Model, ...] = ("Llama-3.1-8B", "Phi3-14B-128k", "Llama-3.1-70B")
