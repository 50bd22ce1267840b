"""How long messages look from outside: Padmé lengths for requests, equal cells on a ladder for responses.

A profile is fixed by the node and part of its measured manifest. It is never chosen by a client: a choice is
a label.
"""

from dataclasses import dataclass
from typing import Literal

MIN_REQUEST = 2048
FIRST_RUNG = 16
MIN_CELL, MAX_CELL = 128, 16_384


def padme(length: int, minimum: int = MIN_REQUEST) -> int:
    """The length in bytes to which ``length`` is padded: at least ``minimum``, at most 12 % longer.

    Padmé (Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and Communication with PURBs",
    2019, section 4.3): lengths keep as many significant bits as their exponent has, so they leak O(log log
    length) bits.
    """
    length = max(length, minimum, 1)
    exponent = length.bit_length() - 1
    free_bits = max(exponent - exponent.bit_length(), 0)
    mask = (1 << free_bits) - 1
    return (length + mask) & ~mask


def ladder_rung(cells: int) -> int:
    """How many cells an answer of ``cells`` cells is stretched to: 16, 20, 25, 32 … (×1.25, rounded up)."""
    rung = FIRST_RUNG
    while rung < cells:
        rung = -(-rung * 5 // 4)
    return rung


@dataclass(frozen=True, slots=True)
class CellProfile:
    """How responses are paced: ``off``, as they come; ``constant``, ``cell_bytes`` each ``interval_ms``.

    Raises ValueError for a profile that could not work.
    """

    name: Literal["off", "constant"] = "constant"
    cell_bytes: int = 512
    interval_ms: int = 100

    def __post_init__(self) -> None:
        if self.name not in ("off", "constant"):
            raise ValueError("a padding profile is 'off' or 'constant'")
        if not MIN_CELL <= self.cell_bytes <= MAX_CELL:
            raise ValueError(f"a cell has {MIN_CELL} to {MAX_CELL} bytes")
        if not 1 <= self.interval_ms <= 10_000:
            raise ValueError("cells are 1 to 10,000 ms apart")

    def manifest(self) -> dict[str, str | int]:
        """What the runtime manifest says about it: whole numbers and strings only."""
        if self.name == "off":
            return {"name": "off"}
        return {
            "name": self.name,
            "cell_bytes": self.cell_bytes,
            "interval_ms": self.interval_ms,
            "ladder_first": FIRST_RUNG,
            "ladder_step_percent": 125,
        }
