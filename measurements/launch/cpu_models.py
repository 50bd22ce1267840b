"""CPUID signatures of the processors that QEMU can present: they are measured with each vCPU's first state."""

from collections.abc import Mapping
from typing import Final

from .record import malformed


def cpuid_signature(family: int, model: int, stepping: int) -> int:
    """CPUID Fn0000_0001 EAX of a processor (AMD 25481)."""
    extended = max(family - 0x0F, 0)
    return (
        extended << 20 | (model >> 4) << 16 | min(family, 0x0F) << 8 | (model & 0x0F) << 4 | (stepping & 0x0F)
    )


_NAPLES, _ROME, _MILAN, _GENOA, _TURIN = (
    cpuid_signature(0x17, 0x01, 2),
    cpuid_signature(0x17, 0x31, 0),
    cpuid_signature(0x19, 0x01, 1),
    cpuid_signature(0x19, 0x11, 0),
    cpuid_signature(0x1A, 0x00, 0),
)

# QEMU, target/i386/cpu.c: the versions of one model differ in features, never in family, model and stepping.
CPU_SIGNATURES: Final[Mapping[str, int]] = {
    "EPYC": _NAPLES,
    "EPYC-IBPB": _NAPLES,
    "EPYC-v1": _NAPLES,
    "EPYC-v2": _NAPLES,
    "EPYC-v3": _NAPLES,
    "EPYC-v4": _NAPLES,
    "EPYC-Rome": _ROME,
    "EPYC-Rome-v1": _ROME,
    "EPYC-Rome-v2": _ROME,
    "EPYC-Rome-v3": _ROME,
    "EPYC-Milan": _MILAN,
    "EPYC-Milan-v1": _MILAN,
    "EPYC-Milan-v2": _MILAN,
    "EPYC-Genoa": _GENOA,
    "EPYC-Genoa-v1": _GENOA,
    "EPYC-Turin": _TURIN,
}
"""Name of a QEMU processor model → its signature."""


def signature_of(model: str) -> int:
    """The signature of a QEMU processor model. Raises ImageError for one that is not listed."""
    if model not in CPU_SIGNATURES:
        raise malformed(f"unknown processor model {model[:40]!r}; one of {', '.join(CPU_SIGNATURES)}")
    return CPU_SIGNATURES[model]
