"""MRTD: what a TDX module measures while a guest is built (Intel TDX Module ABI, TDH.MEM.PAGE.ADD, TDH.MR.EXTEND).

For each page of a TDVF section the record "MEM.PAGE.ADD" ‖ gpa, and where the section says MR_EXTEND, for
each 256 bytes of it "MR.EXTEND" ‖ gpa and the bytes. A hypervisor may add all of a section's pages before it
extends any (two passes), or extend each as it is added (one pass): QEMU has done both, so both are predicted.
"""

import hashlib
from typing import Final

from .firmware import PAGE, Firmware, TdxAttribute, TdxSection
from .record import Event, LaunchRecord, malformed

ONE_PASS: Final = "mrtd"  # noqa: S105
TWO_PASS: Final = "mrtd.two-pass"  # noqa: S105

_CHUNK: Final = 256
MAX_MEASURED: Final = 1 << 26
"""Bytes that the sections of one image may cover: more than any firmware, so that a crafted one ends soon."""


def predict_mrtd(firmware: Firmware) -> LaunchRecord:
    """MRTD for both page orders. Raises ImageError (no TDX metadata, or sections without bounds)."""
    sections = firmware.tdx_sections()
    measured = [section for section in sections if _is_measured(section)]
    if sum(section.memory_size for section in measured) > MAX_MEASURED:
        raise malformed(f"the TDX sections cover more than {MAX_MEASURED} bytes")
    one_pass, two_pass = hashlib.sha384(), hashlib.sha384()
    events: list[Event] = []
    for number, section in enumerate(sections):
        if not _is_measured(section):
            continue
        name = f"section {number} (type {section.type})"
        added = [_added(section, at) for at in range(0, section.memory_size, PAGE)]
        extended = [_extended(firmware, section, at) for at in range(0, section.memory_size, PAGE)]
        for at, (add, extend) in enumerate(zip(added, extended, strict=True)):
            one_pass.update(add + extend)
            digest = hashlib.sha384(add + extend).digest()
            events.append(Event(ONE_PASS, f"{name}: page at 0x{section.gpa + at * PAGE:x}", digest))
        two_pass.update(b"".join(added) + b"".join(extended))
    registers = {ONE_PASS: one_pass.digest(), TWO_PASS: two_pass.digest()}
    inputs = {"firmware_sha384": hashlib.sha384(firmware.data).hexdigest()}
    return LaunchRecord("tdx", registers, tuple(events), inputs)


def _is_measured(section: TdxSection) -> bool:
    return TdxAttribute.PAGE_AUG not in section.attributes or TdxAttribute.MR_EXTEND in section.attributes


def _added(section: TdxSection, at: int) -> bytes:
    if TdxAttribute.PAGE_AUG in section.attributes:
        return b""  # added after the guest runs
    return _record(b"MEM.PAGE.ADD", section.gpa + at)


def _extended(firmware: Firmware, section: TdxSection, at: int) -> bytes:
    if TdxAttribute.MR_EXTEND not in section.attributes:
        return b""
    data = firmware.data[section.data_offset : section.data_offset + section.raw_size]
    page = data[at : at + PAGE].ljust(PAGE, b"\0")
    return b"".join(
        _record(b"MR.EXTEND", section.gpa + at + chunk) + page[chunk : chunk + _CHUNK]
        for chunk in range(0, PAGE, _CHUNK)
    )


def _record(name: bytes, gpa: int) -> bytes:
    return (name.ljust(16, b"\0") + gpa.to_bytes(8, "little")).ljust(128, b"\0")
