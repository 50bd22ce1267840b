"""What a client keeps of CPU evidence from one appraisal to the next, so that the same bytes need not be read twice.

Kept is what is true of the bytes alone: which signatures in them are right, and what they say. Dates, revocation and
the policy are judged anew each time. Nothing that failed is kept.
"""

from contextlib import suppress
from typing import TYPE_CHECKING

from .errors import AttestationError

if TYPE_CHECKING:
    from .tdx.collateral import CollateralCache, TdxCollateral


class CpuMemory:
    """The memory of one client: at most ``limit`` sets of collateral, and as many platforms; the oldest go first."""

    __slots__ = ("_limit", "_tdx")

    def __init__(self, limit: int = 32) -> None:
        self._limit = limit
        self._tdx: CollateralCache | None = None

    @property
    def tdx(self) -> "CollateralCache":
        """What is known of TDX collateral and of platforms' certificates."""
        from .tdx.collateral import CollateralCache

        return self._tdx or CollateralCache()

    def learn_tdx(self, collateral: "TdxCollateral", pck_chain: bytes, roots: frozenset[str]) -> None:
        """Keep what an accepting appraisal under these roots has used; what cannot stand by itself is not kept."""
        with suppress(AttestationError):
            self._tdx = self.tdx.learning(collateral, pck_chain, roots, self._limit)
