"""Portable executables (Microsoft PE/COFF): their sections, and the hash by which firmware measures them.

The Authenticode hash leaves out the checksum, the entry of the certificate table and the certificates.
"""

import hashlib
from dataclasses import dataclass
from struct import Struct
from typing import Final

from .record import malformed

MAX_IMAGE: Final = 1 << 30

_MAX_SECTIONS: Final = 96
_COFF: Final = Struct("<HHIIIHH")
_SECTION: Final = Struct("<8sIIII12xI")
_U16: Final = Struct("<H")
_U32: Final = Struct("<I")
_U32_PAIR: Final = Struct("<II")
_PE32, _PE32_PLUS = 0x10B, 0x20B
_CERTIFICATES: Final = 4


@dataclass(frozen=True, slots=True)
class Section:
    """A section: its name, its size in memory, and where its bytes lie in the file."""

    name: str
    virtual_size: int
    raw_offset: int
    raw_size: int


@dataclass(frozen=True, slots=True)
class Image:
    """A parsed image. ``checksum`` and ``certificate_entry`` are offsets of fields left out of its hash."""

    data: bytes
    sections: tuple[Section, ...]
    headers_size: int
    checksum: int
    certificate_entry: int | None
    certificates_size: int

    @classmethod
    def parse(cls, data: bytes) -> "Image":
        """Read a PE32 or PE32+ image. Raises ImageError."""
        if len(data) > MAX_IMAGE:
            raise malformed(f"an executable has at most {MAX_IMAGE} bytes")
        if len(data) < 0x40 or data[:2] != b"MZ":
            raise malformed("not a portable executable")
        header = int(_U32.unpack_from(data, 0x3C)[0])
        optional = header + 4 + _COFF.size
        if optional + 2 > len(data) or data[header : header + 4] != b"PE\0\0":
            raise malformed("not a portable executable")
        _machine, count, _time, _symbols, _number, optional_size, _flags = _COFF.unpack_from(data, header + 4)
        table = optional + optional_size
        if not 1 <= count <= _MAX_SECTIONS or table + count * 40 > len(data):
            raise malformed("the section table lies outside the executable")
        magic = _U16.unpack_from(data, optional)[0]
        if magic not in (_PE32, _PE32_PLUS):
            raise malformed("an executable of an unknown kind")
        directories = optional + (92 if magic == _PE32 else 108)
        if directories + 4 > table:
            raise malformed("the optional header is too short")
        entry: int | None = directories + 4 + 8 * _CERTIFICATES
        certificates = 0
        if (
            _U32.unpack_from(data, directories)[0] > _CERTIFICATES
            and entry is not None
            and entry + 8 <= table
        ):
            place, certificates = _U32_PAIR.unpack_from(data, entry)
            if certificates and place + certificates != len(data):
                raise malformed("the certificates do not stand at the end of the executable")
        else:
            entry = None
        return cls(
            data=bytes(data),
            sections=tuple(_section(data, table + 40 * number) for number in range(count)),
            headers_size=_U32.unpack_from(data, optional + 60)[0],
            checksum=optional + 64,
            certificate_entry=entry,
            certificates_size=certificates,
        )

    def content(self, section: Section) -> bytes:
        """A section's bytes as they lie in memory: zeros where the file has fewer. Raises ImageError."""
        if section.virtual_size > MAX_IMAGE:
            raise malformed(f"the section {section.name} has more than {MAX_IMAGE} bytes")
        size = min(section.virtual_size, section.raw_size)
        return self.data[section.raw_offset : section.raw_offset + size].ljust(section.virtual_size, b"\0")

    def authenticode(self, hash: str = "sha384") -> bytes:
        """The hash by which UEFI measures this image (Windows Authenticode PE format). Raises ImageError."""
        digest = hashlib.new(hash)
        headers = self.headers_size
        if not self.checksum + 4 <= headers <= len(self.data):
            raise malformed("the executable's headers have an impossible size")
        digest.update(self.data[: self.checksum])
        if self.certificate_entry is None:
            digest.update(self.data[self.checksum + 4 : headers])
        else:
            if self.certificate_entry + 8 > headers:
                raise malformed("the executable's headers have an impossible size")
            digest.update(self.data[self.checksum + 4 : self.certificate_entry])
            digest.update(self.data[self.certificate_entry + 8 : headers])
        hashed = headers
        for section in sorted(self.sections, key=lambda section: section.raw_offset):
            if section.raw_size:
                digest.update(self.data[section.raw_offset : section.raw_offset + section.raw_size])
                hashed += section.raw_size
        end = len(self.data) - self.certificates_size
        if hashed > len(self.data):
            raise malformed("the executable's sections overlap")
        digest.update(self.data[hashed:end])
        return digest.digest()


def _section(data: bytes, at: int) -> Section:
    name, virtual_size, _address, raw_size, raw_offset, _flags = _SECTION.unpack_from(data, at)
    if raw_size and raw_offset + raw_size > len(data):
        raise malformed("a section lies outside the executable")
    try:
        text = name.rstrip(b"\0").decode("ascii")
    except UnicodeDecodeError:
        raise malformed("a section's name is not ASCII") from None
    return Section(text, virtual_size, raw_offset, raw_size)
