"""What AMD's security bulletins make of the lowest acceptable firmware, by processor.

AMD gives no verdict "up to date", so a policy holds floors, and each floor says which bulletin it comes
from. The levels are those that verifiers tracking the bulletins publish. Whoever sets a policy for machines
of their own reads the bulletins, and may waive one by its number (``waive_bulletins``), in the open.

Microcode levels count for each stepping by itself: the lower number of Genoa-X is not older than Genoa's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from .sev_snp_report import CpuId, Product

_ALL_STEPPINGS: Final = range(16)


@dataclass(frozen=True, slots=True)
class Bulletin:
    """Demands of one bulletin on one kind of processor.

    ``floor`` gives levels by the TCB part's name. ``platform`` and ``guest_policy`` name bits that must be
    set. ``refused``: no firmware helps, so whoever takes such a processor waives this by its id.
    """

    id: str
    product: Product
    models: range
    steppings: range = _ALL_STEPPINGS
    floor: Mapping[str, int] = field(default_factory=dict)
    platform: frozenset[str] = frozenset()
    guest_policy: frozenset[str] = frozenset()
    refused: bool = False

    def concerns(self, product: Product, cpuid: CpuId | None) -> bool:
        """Whether a processor is of the kind meant. One that does not say its model may be, so it is."""
        if product is not self.product:
            return False
        return cpuid is None or (cpuid.model in self.models and cpuid.stepping in self.steppings)


_MILAN: Final = range(0x10)
_GENOA: Final = range(0x10, 0x20)
_ZEN4C: Final = range(0xA0, 0xB0)  # Bergamo, Siena
_TURIN: Final = range(0x12)
_ALIAS_CHECK: Final = frozenset({"alias_check_complete"})
_HIDING: Final = frozenset({"ciphertext_hiding", "page_swap_disable"})

AMD_BULLETINS: Final = (
    # arXiv 2605.12990 (BadFuse, MilanLaunchy, 2026-05): software alone reads the seed of a Milan chip's keys, and
    # with it signs reports of any firmware and any level.
    Bulletin("arXiv-2605.12990", Product.MILAN, _MILAN, refused=True),
    # AMD-SB-3015 (BadRAM, 2024-12): memory modules that lie about their size alias protected memory.
    # Mitigating firmware checks for aliases at boot and says so in PLATFORM_INFO.
    Bulletin("AMD-SB-3015", Product.MILAN, _MILAN, floor={"snp": 0x17}, platform=_ALIAS_CHECK),
    Bulletin("AMD-SB-3015", Product.GENOA, _GENOA, floor={"snp": 0x16}, platform=_ALIAS_CHECK),
    Bulletin("AMD-SB-3015", Product.GENOA, _ZEN4C, floor={"snp": 0x16}, platform=_ALIAS_CHECK),
    Bulletin("AMD-SB-3015", Product.TURIN, _TURIN, platform=_ALIAS_CHECK),
    # AMD-SB-3019 (EntrySign, 2025-02): microcode that AMD did not sign could be loaded.
    Bulletin("AMD-SB-3019", Product.MILAN, _MILAN, range(2), floor={"snp": 0x18, "ucode": 0xDB}),
    Bulletin(
        "AMD-SB-3019", Product.MILAN, _MILAN, range(2, 16), floor={"snp": 0x18, "ucode": 0x44}
    ),  # Milan-X
    Bulletin("AMD-SB-3019", Product.GENOA, _GENOA, range(2), floor={"snp": 0x17, "ucode": 0x54}),
    Bulletin(
        "AMD-SB-3019", Product.GENOA, _GENOA, range(2, 16), floor={"snp": 0x17, "ucode": 0x4F}
    ),  # Genoa-X
    Bulletin("AMD-SB-3019", Product.GENOA, _ZEN4C, floor={"snp": 0x17, "ucode": 0x19}),
    # AMD-SB-3020 (RMPocalypse, 2025-10): the reverse map table could be written while it was set up.
    Bulletin("AMD-SB-3020", Product.GENOA, _GENOA, floor={"snp": 0x1B}),
    Bulletin("AMD-SB-3020", Product.GENOA, _ZEN4C, floor={"snp": 0x1B}),
    Bulletin("AMD-SB-3020", Product.TURIN, _TURIN, floor={"snp": 0x04}),
    # AMD-SB-3021 (ciphertext side channels): the host watches ciphertext, or moves pages to where it can. The
    # guest's own policy must forbid both; it takes firmware ABI 1.58.
    Bulletin("AMD-SB-3021", Product.GENOA, _GENOA, guest_policy=_HIDING),
    Bulletin("AMD-SB-3021", Product.GENOA, _ZEN4C, guest_policy=_HIDING),
    Bulletin("AMD-SB-3021", Product.TURIN, _TURIN, guest_policy=_HIDING),
    # AMD-SB-3027 (StackWarp, 2026-01): a sibling thread could shift a guest's stack pointer.
    Bulletin("AMD-SB-3027", Product.GENOA, _GENOA, range(2), floor={"ucode": 0x56}),
    Bulletin("AMD-SB-3027", Product.GENOA, _GENOA, range(2, 16), floor={"ucode": 0x51}),  # Genoa-X
    Bulletin("AMD-SB-3027", Product.TURIN, _TURIN, floor={"ucode": 0x51}),
)

BULLETIN_IDS: Final = frozenset(bulletin.id for bulletin in AMD_BULLETINS)
