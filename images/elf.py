"""What an ELF file says of itself: whether it is a program, which libraries it needs, what a kernel module needs.

64-bit little-endian only (System V ABI, ``elf(5)``); read from the file's own tables, nothing is run.
"""

from collections.abc import Iterator
from struct import Struct, error

from images.errors import InputError

MAGIC = b"\x7fELF"
_IDENT = b"\x7fELF\x02\x01"
_HEADER = Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = Struct("<IIQQQQQQ")
_SECTION = Struct("<IIQQQQIIQQ")
_DYNAMIC = Struct("<qQ")
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NULL, _DT_NEEDED, _DT_STRTAB, _DT_SONAME = 0, 1, 5, 14
_MAX_ENTRIES = 100_000


def is_elf(data: bytes) -> bool:
    """Whether this is an ELF file of any kind."""
    return data[:4] == MAGIC


def needed(data: bytes) -> tuple[str, ...]:
    """The names of the libraries that a program or library needs (DT_NEEDED). Raises InputError."""
    return _dynamic_names(data, _DT_NEEDED)


def soname(data: bytes) -> str | None:
    """The name under which others need this library (DT_SONAME), where it has one. Raises InputError."""
    names = _dynamic_names(data, _DT_SONAME)
    return names[0] if names else None


def interpreter(data: bytes) -> str | None:
    """The dynamic loader that a program asks for; None for libraries and static programs. Raises InputError."""
    try:
        for kind, offset, _, size in _segments(data):
            if kind == _PT_INTERP:
                return data[offset : offset + size].rstrip(b"\0").decode()
    except (error, UnicodeDecodeError) as problem:
        raise _malformed() from problem
    return None


def module_information(data: bytes) -> dict[str, tuple[str, ...]]:
    """A kernel module's ``.modinfo``: every key with its values, such as ``depends``. Raises InputError."""
    try:
        header = _header(data)
        offset, size, count, names_index = header[6], header[11], header[12], header[13]
        if count > _MAX_ENTRIES:
            raise _malformed()
        sections = [_SECTION.unpack_from(data, offset + index * size) for index in range(count)]
        names = sections[names_index]
        for section in sections:
            if _text(data, names[4] + section[0]) == ".modinfo":
                found: dict[str, list[str]] = {}
                for item in data[section[4] : section[4] + section[5]].split(b"\0"):
                    key, mark, value = item.decode("utf-8", "replace").partition("=")
                    if mark:
                        found.setdefault(key, []).append(value)
                return {key: tuple(values) for key, values in found.items()}
    except (error, IndexError, ValueError) as problem:
        raise _malformed() from problem
    raise InputError("elf_malformed", "a kernel module without .modinfo")


def _dynamic_names(data: bytes, wanted: int) -> tuple[str, ...]:
    try:
        segments = list(_segments(data))
        entries: list[tuple[int, int]] = []
        for kind, offset, _, size in segments:
            if kind == _PT_DYNAMIC:
                for at in range(offset, offset + size, _DYNAMIC.size):
                    tag, value = _DYNAMIC.unpack_from(data, at)
                    if tag == _DT_NULL:
                        break
                    entries.append((tag, value))
        tables = [value for tag, value in entries if tag == _DT_STRTAB]
        if not tables:
            return ()
        strings = _file_offset(segments, tables[0])
        return tuple(_text(data, strings + value) for tag, value in entries if tag == wanted)
    except (error, ValueError) as problem:
        raise _malformed() from problem


def _segments(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Each program header's type, file offset, address and file size."""
    header = _header(data)
    offset, size, count = header[5], header[9], header[10]
    if count > _MAX_ENTRIES:
        raise _malformed()
    for index in range(count):
        kind, _, start, address, _, length, _, _ = _SEGMENT.unpack_from(data, offset + index * size)
        yield kind, start, address, length


def _header(data: bytes) -> tuple[int, ...]:
    if data[:6] != _IDENT:
        raise InputError("elf_malformed", "not a 64-bit little-endian ELF file")
    return _HEADER.unpack_from(data)


def _file_offset(segments: list[tuple[int, int, int, int]], address: int) -> int:
    for kind, offset, start, size in segments:
        if kind == _PT_LOAD and start <= address < start + size:
            return offset + address - start
    raise ValueError("an address in no segment")


def _text(data: bytes, at: int) -> str:
    end = data.find(b"\0", at)
    if not 0 <= at < len(data) or end < 0:
        raise ValueError("a string outside the file")
    return data[at:end].decode()


def _malformed() -> InputError:
    return InputError("elf_malformed", "an ELF file whose tables cannot be read")
