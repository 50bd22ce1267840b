"""Kinds of boot events, and of which the digest is defined over the event's own data.

TCG PC Client Platform Firmware Profile §10.4.1 (types) and §10.2 (data).
"""

from dataclasses import dataclass
from typing import Final

from ..errors import EvidenceMalformed

NO_ACTION: Final = 0x3
SEPARATOR: Final = 0x4
ACTION: Final = 0x5
OMIT_BOOT_DEVICE_EVENTS: Final = 0x12
EFI_VARIABLE_DRIVER_CONFIG: Final = 0x80000001
EFI_VARIABLE_BOOT: Final = 0x80000002
EFI_GPT_EVENT: Final = 0x80000006
EFI_ACTION: Final = 0x80000007
EFI_VARIABLE_BOOT2: Final = 0x8000000C
EFI_VARIABLE_AUTHORITY: Final = 0x800000E0

_NAMES: Final = {
    0x1: "EV_POST_CODE",
    NO_ACTION: "EV_NO_ACTION",
    SEPARATOR: "EV_SEPARATOR",
    ACTION: "EV_ACTION",
    0x6: "EV_EVENT_TAG",
    0x7: "EV_S_CRTM_CONTENTS",
    0x8: "EV_S_CRTM_VERSION",
    0x9: "EV_CPU_MICROCODE",
    0xA: "EV_PLATFORM_CONFIG_FLAGS",
    0xB: "EV_TABLE_OF_DEVICES",
    0xC: "EV_COMPACT_HASH",
    0xD: "EV_IPL",
    0x11: "EV_NONHOST_INFO",
    OMIT_BOOT_DEVICE_EVENTS: "EV_OMIT_BOOT_DEVICE_EVENTS",
    EFI_VARIABLE_DRIVER_CONFIG: "EV_EFI_VARIABLE_DRIVER_CONFIG",
    EFI_VARIABLE_BOOT: "EV_EFI_VARIABLE_BOOT",
    0x80000003: "EV_EFI_BOOT_SERVICES_APPLICATION",
    0x80000004: "EV_EFI_BOOT_SERVICES_DRIVER",
    0x80000005: "EV_EFI_RUNTIME_SERVICES_DRIVER",
    EFI_GPT_EVENT: "EV_EFI_GPT_EVENT",
    EFI_ACTION: "EV_EFI_ACTION",
    0x80000008: "EV_EFI_PLATFORM_FIRMWARE_BLOB",
    0x80000009: "EV_EFI_HANDOFF_TABLES",
    0x8000000A: "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
    0x8000000B: "EV_EFI_HANDOFF_TABLES2",
    EFI_VARIABLE_BOOT2: "EV_EFI_VARIABLE_BOOT2",
    0x80000010: "EV_EFI_HCRTM_EVENT",
    EFI_VARIABLE_AUTHORITY: "EV_EFI_VARIABLE_AUTHORITY",
    0x800000E1: "EV_EFI_SPDM_FIRMWARE_BLOB",
    0x800000E2: "EV_EFI_SPDM_FIRMWARE_CONFIG",
}
_WHOLE: Final = frozenset(
    {
        SEPARATOR,
        ACTION,
        OMIT_BOOT_DEVICE_EVENTS,
        EFI_VARIABLE_DRIVER_CONFIG,
        EFI_GPT_EVENT,
        EFI_ACTION,
        EFI_VARIABLE_BOOT2,
    }
)
_GLOBAL_VARIABLE: Final = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")
_HEADER: Final = 32


@dataclass(frozen=True, slots=True)
class EfiVariable:
    """UEFI_VARIABLE_DATA: a variable's vendor (GUID as stored), its name in UTF-16, and its value."""

    vendor: bytes
    name: bytes
    data: bytes

    @property
    def length(self) -> int:
        """Bytes of the whole structure."""
        return _HEADER + len(self.name) + len(self.data)

    @property
    def is_secure_boot(self) -> bool:
        """Whether this is the variable by which firmware says that Secure Boot is on."""
        return self.vendor == _GLOBAL_VARIABLE and self.name == "SecureBoot".encode("utf-16-le")


def type_name(kind: int) -> str:
    """A type's name in the specification, or its number."""
    return _NAMES.get(kind, f"{kind:#x}")


def read_variable(data: bytes) -> EfiVariable:
    """Read UEFI_VARIABLE_DATA (§10.2.6). Raises EvidenceMalformed (``eventlog_malformed``)."""
    name_length = 2 * int.from_bytes(data[16:24], "little")
    length = int.from_bytes(data[24:32], "little")
    if len(data) < _HEADER or len(data) < _HEADER + name_length + length:
        raise EvidenceMalformed(code="eventlog_malformed", stage="eventlog", detail="truncated variable")
    start = _HEADER + name_length
    return EfiVariable(data[:16], data[_HEADER:start], data[start : start + length])


def measured_data(kind: int, data: bytes) -> tuple[bytes, ...]:
    """The bytes whose digest an event of this kind has, any one of them; none where that is not in the log.

    Raises EvidenceMalformed (``eventlog_malformed``).
    """
    if kind in _WHOLE:
        return (data,)
    if kind == EFI_VARIABLE_BOOT:
        # The variable alone, as the specification says; early firmware took the structure around it.
        return (read_variable(data).data, data)
    if kind == EFI_VARIABLE_AUTHORITY:
        # A boot loader in wide use logged bytes after the variable, and measured all of them but the last.
        return (data, data[:-1]) if len(data) > read_variable(data).length else (data,)
    return ()
