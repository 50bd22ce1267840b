"""Event logs of firmware: TCG PC Client logs of a TPM, and the CC event log of a TDX guest (CCEL).

A log is a claim: only a replay that ends at registers which evidence vouches for makes it worth reading.
Here it serves to say which event differs from a prediction. (TCG PC Client Platform Firmware Profile §10;
UEFI 2.10 §38, whose CC logs have the same form with measurement register numbers, RTMR0 being number 1.)
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from struct import Struct
from typing import Any, Final

from .record import malformed

MAX_LOG: Final = 16 * 1024 * 1024
MAX_LOGGED: Final = 100_000

EV_NO_ACTION: Final = 0x00000003
EVENT_TYPES: Final[Mapping[int, str]] = {
    0x00000001: "EV_POST_CODE",
    0x00000003: "EV_NO_ACTION",
    0x00000004: "EV_SEPARATOR",
    0x00000005: "EV_ACTION",
    0x00000006: "EV_EVENT_TAG",
    0x00000007: "EV_S_CRTM_CONTENTS",
    0x00000008: "EV_S_CRTM_VERSION",
    0x0000000A: "EV_PLATFORM_CONFIG_FLAGS",
    0x0000000B: "EV_TABLE_OF_DEVICES",
    0x0000000C: "EV_COMPACT_HASH",
    0x0000000D: "EV_IPL",
    0x00000011: "EV_NONHOST_INFO",
    0x80000001: "EV_EFI_VARIABLE_DRIVER_CONFIG",
    0x80000002: "EV_EFI_VARIABLE_BOOT",
    0x80000003: "EV_EFI_BOOT_SERVICES_APPLICATION",
    0x80000004: "EV_EFI_BOOT_SERVICES_DRIVER",
    0x80000006: "EV_EFI_GPT_EVENT",
    0x80000007: "EV_EFI_ACTION",
    0x80000008: "EV_EFI_PLATFORM_FIRMWARE_BLOB",
    0x80000009: "EV_EFI_HANDOFF_TABLES",
    0x8000000A: "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
    0x8000000B: "EV_EFI_HANDOFF_TABLES2",
    0x800000E0: "EV_EFI_VARIABLE_AUTHORITY",
}

_ALGORITHMS: Final = {0x0004: "sha1", 0x000B: "sha256", 0x000C: "sha384", 0x000D: "sha512"}
_FIRST: Final = Struct("<II20sI")
_HEAD: Final = Struct("<III")
_U16: Final = Struct("<H")
_U32: Final = Struct("<I")
_ALGORITHM: Final = Struct("<HH")
_SPEC_ID: Final = b"Spec ID Event03\0"
_LOCALITY: Final = b"StartupLocality\0"
_PADDING: Final = b"\xff" * 8
"""What fills a CC log's area behind its last event; a register number of all ones alone may be an event's."""


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """One event: the register's number as logged, the type, a digest for each bank, and the event's data."""

    index: int
    type: int
    digests: Mapping[str, bytes]
    data: bytes

    @property
    def name(self) -> str:
        """The type's name."""
        return EVENT_TYPES.get(self.type, f"0x{self.type:08x}")

    @property
    def extends(self) -> bool:
        """Whether the event extends a register; EV_NO_ACTION never does."""
        return self.type != EV_NO_ACTION


def parse_event_log(data: bytes) -> tuple[LoggedEvent, ...]:
    """Read a log of either age; padding behind the last event is left out. Raises ImageError."""
    if len(data) > MAX_LOG:
        raise malformed(f"an event log has at most {MAX_LOG} bytes")
    cursor = _Cursor(data)
    index, kind, sha1, size = cursor.unpack(_FIRST)
    content = cursor.take(size)
    first = LoggedEvent(index, kind, {"sha1": sha1}, content)
    sizes = _spec_id(content) if kind == EV_NO_ACTION and content.startswith(_SPEC_ID) else None
    events = [first]
    while cursor.more:
        if cursor.ahead(_PADDING):
            break
        events.append(_legacy(cursor) if sizes is None else _agile(cursor, sizes))
        if len(events) > MAX_LOGGED:
            raise malformed(f"an event log has at most {MAX_LOGGED} events")
    return tuple(events)


def replay(events: tuple[LoggedEvent, ...], bank: str) -> dict[int, bytes]:
    """The value of each register that ``events`` extend, by its number as logged."""
    values: dict[int, bytes] = {}
    size = hashlib.new(bank).digest_size
    for event in events:
        if not event.extends:
            # The locality of TPM2_Startup is PCR 0's first value (TCG PC Client Platform TPM Profile §3.3).
            if event.data.startswith(_LOCALITY) and len(event.data) == len(_LOCALITY) + 1 and 0 not in values:
                values[0] = event.data[-1].to_bytes(size, "big")
            continue
        digest = event.digests.get(bank)
        if digest is not None:
            values[event.index] = hashlib.new(bank, values.get(event.index, bytes(size)) + digest).digest()
    return values


class _Cursor:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def more(self) -> bool:
        return self._at < len(self._data)

    def ahead(self, mark: bytes) -> bool:
        return self._data[self._at : self._at + len(mark)] == mark

    def take(self, size: int) -> bytes:
        if len(self._data) - self._at < size:
            raise malformed("the event log is cut off")
        self._at += size
        return bytes(self._data[self._at - size : self._at])

    def unpack(self, form: Struct) -> tuple[Any, ...]:
        return form.unpack(self.take(form.size))

    def word(self) -> int:
        return int(_U32.unpack(self.take(4))[0])


def _legacy(cursor: _Cursor) -> LoggedEvent:
    index, kind, sha1, size = cursor.unpack(_FIRST)
    return LoggedEvent(index, kind, {"sha1": sha1}, cursor.take(size))


def _agile(cursor: _Cursor, sizes: Mapping[int, int]) -> LoggedEvent:
    index, kind, count = _HEAD.unpack(cursor.take(_HEAD.size))
    if count > len(sizes):
        raise malformed("an event has more digests than the log has banks")
    digests: dict[str, bytes] = {}
    for _ in range(count):
        algorithm = int(_U16.unpack(cursor.take(2))[0])
        if algorithm not in sizes:
            raise malformed("an event has a digest of a bank that the log does not declare")
        value = cursor.take(sizes[algorithm])
        name = _ALGORITHMS.get(algorithm, f"0x{algorithm:04x}")
        if name in digests:
            raise malformed("an event has two digests of one bank")
        digests[name] = value
    return LoggedEvent(index, kind, digests, cursor.take(cursor.word()))


def _spec_id(data: bytes) -> dict[int, int]:
    cursor = _Cursor(data)
    cursor.take(len(_SPEC_ID) + 8)
    count = cursor.word()
    if not 1 <= count <= 16:
        raise malformed("the event log declares an impossible number of banks")
    sizes: dict[int, int] = {}
    for _ in range(count):
        algorithm, size = _ALGORITHM.unpack(cursor.take(_ALGORITHM.size))
        name = _ALGORITHMS.get(algorithm)
        if algorithm in sizes or size > 64 or (name and hashlib.new(name).digest_size != size):
            raise malformed("the event log declares a bank wrongly")
        sizes[algorithm] = size
    return sizes
