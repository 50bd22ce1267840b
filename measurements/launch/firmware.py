"""OVMF firmware images: the table at their end, and what it says about launch under SEV-SNP and TDX.

The image ends at 4 GiB. 32 bytes before its end stands a table that is read backwards (edk2,
OvmfPkg/ResetVector): entries of data, u16 length, GUID. GUIDs are in Microsoft's byte order.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from struct import Struct
from typing import Any, Final
from uuid import UUID

from .record import malformed

PAGE: Final = 4096
FOUR_GIB: Final = 1 << 32
MAX_FIRMWARE: Final = 64 * 1024 * 1024

_TABLE_END: Final = 32
_FOOTER: Final = UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
_RESET_EIP: Final = UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e").bytes_le
_SEV_METADATA: Final = UUID("dc886566-984a-4798-a75e-5585a7bf67cc").bytes_le
_KERNEL_HASHES: Final = UUID("7255371f-3a3b-4b04-927b-1da6efa8d454").bytes_le
_TDX_METADATA: Final = UUID("e47a6535-984a-4798-865e-4685a7bf8ec2").bytes_le
_ENTRY: Final = Struct("<H16s")
_U32: Final = Struct("<I")
_U32_PAIR: Final = Struct("<II")
_SEV_HEADER: Final = Struct("<4sIII")
_SEV_SECTION: Final = Struct("<III")
_TDX_HEADER: Final = Struct("<4sIII")
_TDX_SECTION: Final = Struct("<IIQQII")
_MAX_SECTIONS: Final = 256


class SevSectionType(IntEnum):
    """What a section of the SEV metadata is for (edk2, OvmfSevMetadata.asm)."""

    SEC_MEM = 1
    SECRETS = 2
    CPUID = 3
    SVSM_CAA = 4
    KERNEL_HASHES = 0x10


class TdxAttribute(IntFlag):
    """Attributes of a TDVF section (Intel TDX Virtual Firmware Design Guide §11.2)."""

    MR_EXTEND = 1
    PAGE_AUG = 2


@dataclass(frozen=True, slots=True)
class SevSection:
    """Guest memory that the hypervisor prepares before launch: address and size in bytes."""

    type: SevSectionType
    gpa: int
    size: int


@dataclass(frozen=True, slots=True)
class TdxSection:
    """A TDVF section: where its bytes lie in the file, and where they go in the guest."""

    data_offset: int
    raw_size: int
    gpa: int
    memory_size: int
    type: int
    attributes: TdxAttribute


@dataclass(frozen=True, slots=True)
class Firmware:
    """A firmware image of whole pages and its footer table (GUID → data)."""

    data: bytes
    table: Mapping[bytes, bytes]

    @classmethod
    def parse(cls, data: bytes) -> "Firmware":
        """Read an OVMF image. Raises ImageError; an image without a table has an empty one."""
        if not PAGE <= len(data) <= MAX_FIRMWARE or len(data) % PAGE:
            raise malformed(f"firmware is not of whole pages up to {MAX_FIRMWARE} bytes")
        return cls(bytes(data), _table(data))

    @property
    def gpa(self) -> int:
        """Where the image begins in the guest: it ends at 4 GiB."""
        return FOUR_GIB - len(self.data)

    @property
    def has_ap_reset_eip(self) -> bool:
        """Whether the firmware says where processors but the first begin: without, there can be only one."""
        return _RESET_EIP in self.table

    @property
    def ap_reset_eip(self) -> int:
        """Where processors but the first begin. Raises ImageError where the firmware does not say."""
        return int(_U32.unpack(self._entry(_RESET_EIP, _U32.size, "SEV-ES reset address"))[0])

    @property
    def kernel_hashes_gpa(self) -> int:
        """Where the table of hashes of a directly booted kernel lies. Raises ImageError."""
        gpa, _ = _U32_PAIR.unpack(self._entry(_KERNEL_HASHES, _U32_PAIR.size, "SEV kernel hash table"))
        if not gpa:
            raise malformed("firmware has no room for the hashes of a kernel")
        return int(gpa)

    def sev_sections(self) -> tuple[SevSection, ...]:
        """Sections of the SEV-SNP metadata, in order. Raises ImageError."""
        at = self._metadata_offset(_SEV_METADATA, "SEV-SNP metadata")
        magic, _size, version, count = self._unpack(_SEV_HEADER, at)
        if magic != b"ASEV" or version != 1 or count > _MAX_SECTIONS:
            raise malformed("firmware's SEV-SNP metadata is of an unknown form")
        sections = []
        for index in range(count):
            gpa, size, kind = self._unpack(_SEV_SECTION, at + _SEV_HEADER.size + index * _SEV_SECTION.size)
            try:
                type = SevSectionType(kind)
            except ValueError:
                raise malformed(f"firmware's SEV-SNP metadata has a section of unknown type {kind}") from None
            if gpa % PAGE or size % PAGE or not size or gpa + size > FOUR_GIB:
                raise malformed("a section of the SEV-SNP metadata is not of whole pages below 4 GiB")
            sections.append(SevSection(type, gpa, size))
        return tuple(sections)

    def tdx_sections(self) -> tuple[TdxSection, ...]:
        """Sections of the TDX metadata, in order. Raises ImageError."""
        at = self._metadata_offset(_TDX_METADATA, "TDX metadata")
        magic, _size, version, count = self._unpack(_TDX_HEADER, at)
        if magic != b"TDVF" or version != 1 or count > _MAX_SECTIONS:
            raise malformed("firmware's TDX metadata is of an unknown form")
        sections = []
        for index in range(count):
            offset, raw, gpa, size, kind, attributes = self._unpack(
                _TDX_SECTION, at + _TDX_HEADER.size + index * _TDX_SECTION.size
            )
            if gpa % PAGE or size % PAGE or raw > size or size > FOUR_GIB or offset + raw > len(self.data):
                raise malformed("a section of the TDX metadata does not fit its file or its pages")
            sections.append(TdxSection(offset, raw, gpa, size, kind, TdxAttribute(attributes & 3)))
            if attributes & ~3:
                raise malformed("a section of the TDX metadata has unknown attributes")
        return tuple(sections)

    def _entry(self, guid: bytes, size: int, what: str) -> bytes:
        data = self.table.get(guid)
        if data is None:
            raise malformed(f"firmware has no {what}")
        if len(data) != size:
            raise malformed(f"firmware's entry for the {what} has another size")
        return data

    def _metadata_offset(self, guid: bytes, what: str) -> int:
        from_end = int(_U32.unpack(self._entry(guid, _U32.size, what))[0])
        if not 0 < from_end <= len(self.data):
            raise malformed(f"firmware's {what} lies outside the image")
        return len(self.data) - from_end

    def _unpack(self, form: Struct, at: int) -> tuple[Any, ...]:
        if at + form.size > len(self.data):
            raise malformed("firmware's metadata runs over the end of the image")
        return form.unpack_from(self.data, at)


def _table(data: bytes) -> dict[bytes, bytes]:
    end = len(data) - _TABLE_END
    size, guid = _ENTRY.unpack_from(data, end - _ENTRY.size)
    if guid != _FOOTER:
        return {}
    if not _ENTRY.size <= size <= end:
        raise malformed("firmware's footer table lies outside the image")
    start, at = end - size, end - _ENTRY.size
    entries: dict[bytes, bytes] = {}
    while at > start:
        if at - start < _ENTRY.size:
            raise malformed("firmware's footer table is cut off")
        length, guid = _ENTRY.unpack_from(data, at - _ENTRY.size)
        if not _ENTRY.size <= length <= at - start:
            raise malformed("an entry of firmware's footer table has an impossible length")
        if guid in entries:
            raise malformed("firmware's footer table has an entry twice")
        entries[guid] = bytes(data[at - length : at - _ENTRY.size])
        at -= length
    return entries
