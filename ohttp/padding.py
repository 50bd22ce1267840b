"""How long messages look from outside: Padmé lengths for requests, equal cells on a ladder for responses.

A profile is fixed by the node and part of its measured manifest. It is never chosen by a client: a choice is
a label.
"""

from dataclasses import dataclass
from typing import Literal

from .errors import PaddingError

MIN_REQUEST = 2048
FIRST_RUNG = 16
STEP_PERCENT = 125
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
        rung = -(-rung * STEP_PERCENT // 100)
    return rung


ProfileName = Literal["off", "bucket", "constant"]
PROFILES: tuple[ProfileName, ...] = ("off", "bucket", "constant")


@dataclass(frozen=True, slots=True)
class CellProfile:
    """What shape responses have on the wire.

    ``constant``: cells of ``cell_bytes``, one each ``interval_ms`` from the start on. ``bucket``: the same cells,
    each sent when there is something to say, so that sizes are hidden and times are not. Both end on a rung of
    the ladder. ``off``: bytes as they come. Raises ValueError for a profile that could not work.
    """

    name: ProfileName = "constant"
    cell_bytes: int = 512
    interval_ms: int = 100

    def __post_init__(self) -> None:
        if self.name not in PROFILES:
            raise ValueError("a padding profile is 'off', 'bucket' or 'constant'")
        if not MIN_CELL <= self.cell_bytes <= MAX_CELL:
            raise ValueError(f"a cell has {MIN_CELL} to {MAX_CELL} bytes")
        if not 1 <= self.interval_ms <= 10_000:
            raise ValueError("cells are 1 to 10,000 ms apart")

    def manifest(self) -> dict[str, str | int]:
        """What the runtime manifest says about it: whole numbers and strings only."""
        if self.name == "off":
            return {"name": "off"}
        beat = {"interval_ms": self.interval_ms} if self.name == "constant" else {}
        return {
            "name": self.name,
            "cell_bytes": self.cell_bytes,
            **beat,
            "ladder_first": FIRST_RUNG,
            "ladder_step_percent": STEP_PERCENT,
        }

    @classmethod
    def from_manifest(cls, stated: object) -> "CellProfile":
        """The profile that ``manifest`` described. Raises PaddingError ``profile`` for anything else."""
        try:
            if not isinstance(stated, dict) or any(
                type(value) not in (str, int) for value in stated.values()
            ):
                raise ValueError("not a table of names and numbers")
            given = {name: stated[name] for name in ("name", "cell_bytes", "interval_ms") if name in stated}
            profile = cls(**given)
            if profile.manifest() != stated:
                raise ValueError("more, less, or another ladder than there is here")
        except (ValueError, TypeError):
            raise PaddingError(
                "profile", "the manifest states no padding profile that is known here"
            ) from None
        return profile


class CellCheck:
    """Holds the chunks of a response to the profile that was promised: their sizes, and their number."""

    __slots__ = ("_cell", "_seen")

    def __init__(self, profile: CellProfile) -> None:
        self._cell = None if profile.name == "off" else profile.cell_bytes
        self._seen = 0

    def chunk(self, plaintext: bytes) -> None:
        """One chunk, the final one included. Raises PaddingError ``cell``."""
        self._seen += 1
        if self._cell is not None and len(plaintext) != self._cell:
            raise PaddingError("cell", "a chunk of the response has not the size that the node promised")

    def finish(self) -> None:
        """The response has ended. Raises PaddingError ``ladder``."""
        if self._cell is not None and ladder_rung(self._seen) != self._seen:
            raise PaddingError("ladder", "the response has not a length that the node promised")
