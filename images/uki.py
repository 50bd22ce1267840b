"""Unified kernel images: systemd's stub with kernel, initial RAM disk and command line as sections of one program.

(UAPI group's Unified Kernel Image specification; Microsoft PE/COFF.) The stub's headers are kept; sections are
added behind the last one, in memory and in the file, in a fixed order.
"""

from collections.abc import Mapping
from struct import Struct, pack_into, unpack_from
from struct import error as struct_error

from images.errors import InputError

ORDER = ("osrel", "cmdline", "initrd", "linux")
"""Sections in the order in which they lie in the file; the stub measures in an order of its own.

Only those that stubs of every age measure: `.uname`, for one, is measured by newer ones alone.
"""

_SECTION = Struct("<8sIIIIIIHHI")
_MAX_STEP = 1 << 20
_READ_DATA = 0x40000040  # IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ


def assemble(stub: bytes, sections: Mapping[str, bytes]) -> bytes:
    """The image of ``sections`` (names of :data:`ORDER`, each given once). Raises InputError."""
    if set(sections) - set(ORDER):
        raise InputError(
            "uki_section", "a section of another name", found=sorted(set(sections) - set(ORDER))[0]
        )
    image = bytearray(stub)
    try:
        header = unpack_from("<I", image, 0x3C)[0]
        if image[header : header + 4] != b"PE\0\0" or unpack_from("<H", image, header + 24)[0] != 0x20B:
            raise InputError("uki_stub", "the stub is not a 64-bit portable executable")
        count, optional = unpack_from("<H", image, header + 6)[0], unpack_from("<H", image, header + 20)[0]
        section_step, file_step = unpack_from("<II", image, header + 24 + 32)
        headers_size = unpack_from("<I", image, header + 24 + 60)[0]
        table = header + 24 + optional
        present = [_SECTION.unpack_from(image, table + index * _SECTION.size) for index in range(count)]
    except (struct_error, OverflowError) as error:
        raise InputError("uki_stub", "the stub's headers cannot be read") from error
    if not 0 < file_step <= section_step <= _MAX_STEP or section_step % file_step:
        raise InputError("uki_stub", "the stub's alignments are impossible")
    named = [name for name in ORDER if name in sections]
    end_of_table = table + (count + len(named)) * _SECTION.size
    if end_of_table > min([headers_size, *(section[4] for section in present if section[4])]):
        raise InputError("uki_stub", "the stub has no room for more sections")
    address = max(section[2] + section[1] for section in present)
    image += bytes(-len(image) % file_step)
    initialised = unpack_from("<I", image, header + 24 + 8)[0]
    for index, name in enumerate(named, count):
        data = sections[name]
        address = -(-address // section_step) * section_step
        raw = -(-len(data) // file_step) * file_step
        place = table + index * _SECTION.size
        words = (f".{name}".encode(), len(data), address, raw, len(image), 0, 0, 0, 0, _READ_DATA)
        _SECTION.pack_into(image, place, *words)
        image += data.ljust(raw, b"\0")
        address += len(data)
        initialised += raw
    if address >= 2**32 or len(image) >= 2**32:
        raise InputError("uki_size", "a unified kernel image has less than 4 GiB")
    pack_into("<H", image, header + 6, count + len(named))
    pack_into("<I", image, header + 24 + 8, initialised & 0xFFFFFFFF)
    pack_into("<I", image, header + 24 + 56, -(-address // section_step) * section_step)
    return bytes(image)
