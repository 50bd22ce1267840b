"""Measured-boot event logs: what firmware extended into PCRs or RTMRs, parsed, recomputed and replayed.

Two forms, of TCG PC Client Platform Firmware Profile §10: the crypto-agile log, whose first event is the
Spec-ID header, and the older log of SHA-1 alone. A CCEL of a confidential guest is a crypto-agile log that
counts measurement registers: 1 to 4 are RTMR0 to RTMR3 (UEFI specification §38.4.1).

A log proves nothing by itself. It explains registers that something else signs, once ``check_digests`` has
found its digests to be those of its data, and ``replay`` has given the registers' values.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ..errors import BindingMismatch, EvidenceMalformed
from .event_types import (
    EFI_VARIABLE_DRIVER_CONFIG,
    NO_ACTION,
    SEPARATOR,
    EfiVariable,
    measured_data,
    read_variable,
    type_name,
)
from .pcr import extend, reset_value
from .structures import DIGEST_LENGTHS, HASH_NAMES, PCR_COUNT, SHA1, SHA384

MAX_EVENT_LOG: Final = 2 * 1024 * 1024
"""Bytes of a log at most."""

MAX_EVENTS: Final = 8192

FIRMWARE_PCRS: Final = frozenset(range(8))
"""PCRs that firmware alone extends before the system starts; a log tells of all that is in them."""

SECURE_BOOT_PCR: Final = 7

_MALFORMED: Final = "eventlog_malformed"
_SPEC_ID: Final = b"Spec ID Event03\0"
_STARTUP_LOCALITY: Final = b"StartupLocality\0"
_LOCALITIES: Final = (0, 3, 4)
_RTMRS: Final = range(1, 5)
_SEPARATORS: Final = (b"\0\0\0\0", b"\xff\xff\xff\xff")
_SEPARATOR_DIGESTS: Final = {
    bank: frozenset(hashlib.new(bank, value).digest() for value in _SEPARATORS) for bank in DIGEST_LENGTHS
}
_MAX_ALGORITHMS: Final = 8
_MAX_DIGEST: Final = 64


@dataclass(frozen=True, slots=True)
class Event:
    """One event. ``register`` is a PCR's index, or a measurement register's in a CCEL; ``digests`` by bank."""

    number: int
    register: int
    type: int
    digests: Mapping[str, bytes]
    data: bytes

    def __str__(self) -> str:
        return f"event {self.number}, {type_name(self.type)}, register {self.register}"


@dataclass(frozen=True, slots=True)
class EventLog:
    """A parsed log. ``banks``: those whose digests every event has, in the header's order."""

    banks: tuple[str, ...]
    events: tuple[Event, ...]
    crypto_agile: bool
    startup_locality: int | None

    def replay(self, bank: str) -> dict[int, bytes]:
        """What each register that the log speaks of holds after all events. EV_NO_ACTION extends nothing.

        Raises BindingMismatch (``eventlog_replay_mismatch``) for a bank that the log has no digests of.
        """
        if bank not in self.banks:
            raise BindingMismatch(
                code="eventlog_replay_mismatch",
                stage="eventlog",
                expected=bank,
                found=", ".join(self.banks),
                detail="the log has no digests of this bank",
            )
        values: dict[int, bytes] = {}
        if self.startup_locality is not None:
            # Whoever started the TPM from another locality is told by the last byte of PCR 0's first value.
            length = DIGEST_LENGTHS[bank]
            values[0] = bytes(length - 1) + bytes([self.startup_locality])
        for event in self.events:
            if event.type != NO_ACTION:
                before = values.get(event.register, reset_value(bank, event.register))
                values[event.register] = extend(bank, before, event.digests[bank])
        return values

    def check_digests(self) -> None:
        """Recompute every digest that the specification defines over the event's own data.

        An event's type is not part of what is measured. So a separator's digest under another type is
        refused: else whoever writes the log could move the end of firmware's own events. Digests over what
        is not in the log, such as a program's, are left: of those only replay tells. Raises
        BindingMismatch (``eventlog_digest_mismatch``) or EvidenceMalformed (``eventlog_malformed``).
        """
        for event in self.events:
            _check_separator(event)
            candidates = measured_data(event.type, event.data)
            if not candidates:
                continue
            for bank, digest in event.digests.items():
                if all(hashlib.new(bank, data).digest() != digest for data in candidates):
                    raise BindingMismatch(
                        code="eventlog_digest_mismatch",
                        stage="eventlog",
                        expected=hashlib.new(bank, candidates[0]).digest(),
                        found=digest,
                        detail=f"{event}: its text is not what was measured",
                    )

    def secure_boot(self, register: int = SECURE_BOOT_PCR) -> bool:
        """Whether firmware measured Secure Boot as on; ``check_digests`` and replay must have passed.

        What comes after the register's separator is no longer firmware's word and is not read. Raises
        EvidenceMalformed (``eventlog_malformed``) where the log does not say it exactly once.
        """
        found: list[EfiVariable] = []
        separators = 0
        for event in self.events:
            if event.register == register and event.type == SEPARATOR:
                separators += 1
            elif event.register == register and event.type == EFI_VARIABLE_DRIVER_CONFIG and not separators:
                variable = read_variable(event.data)
                if variable.is_secure_boot:
                    found.append(variable)
        if separators != 1:
            raise _malformed(f"register {register} has {separators} separators")
        if len(found) != 1 or len(found[0].data) > 1:
            raise _malformed("Secure Boot is not measured exactly once, as one byte")
        return found[0].data == b"\1"


def parse_event_log(data: bytes) -> EventLog:
    """Read a TPM's event log of either form. Raises EvidenceMalformed (``eventlog_malformed``)."""
    return _parse(data, confidential=False)


def parse_ccel(data: bytes) -> EventLog:
    """Read a confidential guest's log; padding at its end is left. Raises EvidenceMalformed."""
    return _parse(data, confidential=True)


def rtmrs(log: EventLog) -> dict[int, bytes]:
    """RTMR0 to RTMR3, by number, as a CCEL says them; those without an event are absent."""
    return {register - 1: value for register, value in log.replay(SHA384).items()}


def _parse(data: bytes, *, confidential: bool) -> EventLog:
    if len(data) > MAX_EVENT_LOG:
        raise _malformed(f"more than {MAX_EVENT_LOG} bytes")
    reader = _LittleReader(data)
    first = _legacy_event(reader, 0)
    lengths: dict[int, int] | None = None
    if first.type == NO_ACTION and first.data.startswith(_SPEC_ID):
        lengths = _read_spec_id(first.data)
    elif confidential:
        raise _malformed("no Spec-ID header")
    events = [first]
    while reader.left and not reader.only_padding():
        if len(events) == MAX_EVENTS:
            raise _malformed(f"more than {MAX_EVENTS} events")
        number = len(events)
        events.append(
            _legacy_event(reader, number) if lengths is None else _agile_event(reader, number, lengths)
        )
    for event in events:
        _check_register(event, confidential=confidential)
    banks = (SHA1,) if lengths is None else tuple(HASH_NAMES[a] for a in lengths if a in HASH_NAMES)
    locality = None if confidential else _startup_locality(events)
    return EventLog(banks, tuple(events), lengths is not None, locality)


def _legacy_event(reader: "_LittleReader", number: int) -> Event:
    register, kind = reader.number(4), reader.number(4)
    digest = reader.take(DIGEST_LENGTHS[SHA1])
    return Event(number, register, kind, {SHA1: digest}, reader.take(reader.number(4)))


def _agile_event(reader: "_LittleReader", number: int, lengths: Mapping[int, int]) -> Event:
    register, kind, count = (reader.number(4) for _ in range(3))
    if count != len(lengths):
        raise _malformed(f"event {number} has {count} digests, the header names {len(lengths)}")
    found: dict[int, bytes] = {}
    for _ in range(count):
        algorithm = reader.number(2)
        if algorithm not in lengths or algorithm in found:
            raise _malformed(f"event {number} has a digest that the header does not name, or one twice")
        found[algorithm] = reader.take(lengths[algorithm])
    digests = {HASH_NAMES[a]: digest for a, digest in found.items() if a in HASH_NAMES}
    return Event(number, register, kind, digests, reader.take(reader.number(4)))


def _read_spec_id(data: bytes) -> dict[int, int]:
    """Length of the digests that every event has, by algorithm (TCG_EfiSpecIDEvent, §10.4.5.1)."""
    reader = _LittleReader(data)
    reader.take(len(_SPEC_ID) + 8)  # platform class, version, errata, size of UINTN
    count = reader.number(4)
    if not 1 <= count <= _MAX_ALGORITHMS:
        raise _malformed(f"the header names {count} algorithms")
    lengths: dict[int, int] = {}
    for _ in range(count):
        algorithm, length = reader.number(2), reader.number(2)
        known = HASH_NAMES.get(algorithm)
        if algorithm in lengths or not 1 <= length <= _MAX_DIGEST:
            raise _malformed("the header names an algorithm twice, or with an odd length")
        if known is not None and DIGEST_LENGTHS[known] != length:
            raise _malformed(f"the header gives {known} a length of {length}")
        lengths[algorithm] = length
    reader.take(reader.number(1))
    if reader.left:
        raise _malformed("the header is too long")
    if not lengths.keys() & HASH_NAMES.keys():
        raise _malformed("the header names no algorithm that is known")
    return lengths


def _check_register(event: Event, *, confidential: bool) -> None:
    if event.type != NO_ACTION and event.register not in (_RTMRS if confidential else range(PCR_COUNT)):
        raise _malformed(f"{event}: no such register")


def _check_separator(event: Event) -> None:
    if event.register not in FIRMWARE_PCRS:
        return  # an operating system separates by values of its own
    if event.type == SEPARATOR:
        if event.data not in _SEPARATORS:
            raise _malformed(f"{event}: firmware reports an error, or separates by an unknown value")
    elif event.type != NO_ACTION and any(
        digest in _SEPARATOR_DIGESTS[bank] for bank, digest in event.digests.items()
    ):
        raise BindingMismatch(
            code="eventlog_digest_mismatch", stage="eventlog", detail=f"{event}: a separator by another name"
        )


def _startup_locality(events: list[Event]) -> int | None:
    found: int | None = None
    extended = False
    for event in events:
        if event.type == NO_ACTION and event.register == 0 and event.data.startswith(_STARTUP_LOCALITY):
            rest = event.data[len(_STARTUP_LOCALITY) :]
            if found is not None or extended or len(rest) != 1 or rest[0] not in _LOCALITIES:
                raise _malformed(f"{event}: startup locality is told twice, late, or wrongly")
            found = rest[0]
        elif event.type != NO_ACTION and event.register == 0:
            extended = True
    return found


def _malformed(detail: str) -> EvidenceMalformed:
    return EvidenceMalformed(code=_MALFORMED, stage="eventlog", detail=detail)


class _LittleReader:
    """Little-endian fields, one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._filler = len(data) - len(data.rstrip(data[-1:])) if data[-1:] in (b"\0", b"\xff") else 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def only_padding(self) -> bool:
        """Whether the rest is the filler of the buffer that firmware keeps its log in."""
        return self.left <= self._filler

    def take(self, length: int) -> bytes:
        if length > self.left:
            raise _malformed(f"truncated at byte {self._at}")
        start, self._at = self._at, self._at + length
        return self._data[start : self._at]

    def number(self, length: int) -> int:
        return int.from_bytes(self.take(length), "little")
