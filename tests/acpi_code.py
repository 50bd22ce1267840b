"""An ACPI table with code, as a host may hand one to any machine: it replaces bytes in memory.

(ACPI 6.5, chapter 20: DefMethod, DefOpRegion, DefField, DefIfElse, DefStore, DefBuffer, PkgLength.) The calls are the
table's own, outside of any method, so the kernel runs them as it loads the table: before it unpacks the initial RAM
disk.
"""

import struct
from collections.abc import Sequence
from pathlib import Path

_ARG0 = b"\x68"
_HEADER = struct.Struct("<4sIBB6s8sI4sI")


def table_that_replaces(places: Sequence[int], old: bytes, new: bytes) -> bytes:
    """An SSDT whose code replaces ``old`` by as many bytes ``new`` (up to 255) at those of the places that hold it."""
    assert len(old) == len(new) <= 255
    region = b"\x5b\x80ZZRG\x00" + _ARG0 + b"\x0a" + bytes([len(new)])
    fields = b"ZZRG\x01ZZFD" + _length(8 * len(new), counts_itself=False)
    field = b"\x5b\x81" + _length(len(fields)) + fields
    replace = b"\x93ZZFD" + _buffer(old) + b"\x70" + _buffer(new) + b"ZZFD"
    body = b"ZZTR\x09" + region + field + b"\xa0" + _length(len(replace)) + replace
    calls = (b"ZZTR\x0e" + struct.pack("<Q", place) for place in places)
    code = b"\x14" + _length(len(body)) + body + b"".join(calls)
    head = [b"SSDT", _HEADER.size + len(code), 2, 0, b"HOST  ", b"WRITES  ", 1, b"HOST", 1]
    head[3] = -sum(_HEADER.pack(*head) + code) & 0xFF
    return _HEADER.pack(*head) + code


def where_the_disk_may_lie(image_dir: Path, memory_mib: int) -> range:
    """Where QEMU's firmware may have loaded the initial RAM disk of an image: pages, from the highest down.

    It goes as high as it can below what the firmware keeps for itself, which depends on the tables' size.
    """
    from measurements.launch.tdx_rtmr import patched_kernel

    size = (image_dir / "initrd").stat().st_size
    header = patched_kernel((image_dir / "vmlinuz").read_bytes(), size, memory_mib << 20)
    highest = int.from_bytes(header[0x218:0x21C], "little") + 0x10000
    return range(highest, highest - 0x40000, -0x1000)


def _buffer(data: bytes) -> bytes:
    content = b"\x0a" + bytes([len(data)]) + data
    return b"\x11" + _length(len(content)) + content


def _length(size: int, *, counts_itself: bool = True) -> bytes:
    """PkgLength: of what follows, with or without its own bytes."""
    for count in range(4):
        total = size + (1 + count if counts_itself else 0)
        if count == 0 and total < 0x40:
            return bytes([total])
        if count and total < 1 << (4 + 8 * count):
            return bytes([count << 6 | total & 0xF]) + (total >> 4).to_bytes(count, "little")
    raise ValueError("too long")
