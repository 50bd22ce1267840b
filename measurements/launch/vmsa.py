"""The state in which a vCPU starts: the page that SNP measures for each (AMD APM vol. 2, table B-4).

What a hypervisor writes into it differs: each shape here is what that hypervisor is known to start with.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from struct import pack_into
from typing import Final

BSP_EIP: Final = 0xFFFFFFF0
"""Where the first processor begins: the reset vector."""

_PAGE: Final = 4096
_PAT: Final = 0x0007040600070406
_PAT_GCE: Final = 0x00070106


class Vmm(StrEnum):
    """Hypervisors whose launch is known."""

    QEMU = "qemu"
    EC2 = "ec2"
    GCE = "gce"


@dataclass(frozen=True, slots=True)
class _Shape:
    cs: int
    ss: int
    tr: int
    edx: int
    pat: int
    mxcsr: int
    fcw: int


def vmsa_page(vmm: Vmm, eip: int, cpu_signature: int, guest_features: int) -> bytes:
    """The save area of a vCPU that begins at ``eip``, 4096 bytes.

    ``cpu_signature`` (CPUID Fn0000_0001 EAX) is in EDX under QEMU and without effect elsewhere;
    ``guest_features`` is SEV_FEATURES, of which bit 0 says SNP.
    """
    shape = _shape(vmm, eip, cpu_signature)
    page = bytearray(_PAGE)
    # selector, attributes, limit, base
    segments: Mapping[int, tuple[int, int, int, int]] = {
        0x000: (0, 0x93, 0xFFFF, 0),  # ES
        0x010: (0xF000, shape.cs, 0xFFFF, eip & 0xFFFF0000),  # CS
        0x020: (0, shape.ss, 0xFFFF, 0),  # SS
        0x030: (0, 0x93, 0xFFFF, 0),  # DS
        0x040: (0, 0x93, 0xFFFF, 0),  # FS
        0x050: (0, 0x93, 0xFFFF, 0),  # GS
        0x060: (0, 0, 0xFFFF, 0),  # GDTR
        0x070: (0, 0x82, 0xFFFF, 0),  # LDTR
        0x080: (0, 0, 0xFFFF, 0),  # IDTR
        0x090: (0, shape.tr, 0xFFFF, 0),  # TR
    }
    for at, segment in segments.items():
        pack_into("<HHIQ", page, at, *segment)
    registers = {
        0x0D0: 0x1000,  # EFER: SVME, which KVM sets
        0x148: 0x40,  # CR4: MCE, which KVM sets
        0x158: 0x10,  # CR0: ET
        0x160: 0x400,  # DR7
        0x168: 0xFFFF0FF0,  # DR6
        0x170: 0x2,  # RFLAGS
        0x178: eip & 0xFFFF,  # RIP
        0x268: shape.pat,  # G_PAT
        0x310: shape.edx,  # RDX
        0x3B0: guest_features,  # SEV_FEATURES
        0x3E8: 0x1,  # XCR0
    }
    for at, value in registers.items():
        pack_into("<Q", page, at, value)
    pack_into("<I", page, 0x408, shape.mxcsr)
    pack_into("<H", page, 0x410, shape.fcw)
    return bytes(page)


def _shape(vmm: Vmm, eip: int, cpu_signature: int) -> _Shape:
    if vmm is Vmm.QEMU:
        return _Shape(0x9B, 0x93, 0x8B, cpu_signature, _PAT, 0x1F80, 0x37F)
    if vmm is Vmm.EC2:
        return _Shape(0x9A if eip == BSP_EIP else 0x9B, 0x92, 0x83, 0x600, _PAT, 0, 0)
    return _Shape(0x9B, 0x93, 0x8B, 0x600, _PAT_GCE, 0, 0)
