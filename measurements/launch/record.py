"""What a launch is predicted to measure: registers, and in order every event that made them.

A record is written by ``cloister measure`` and read by ``cloister measure explain``, so that a digest which
does not match can be followed down to the page or the event that differs.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ..errors import Code, ImageError

MAX_RECORD: Final = 64 * 1024 * 1024
MAX_EVENTS: Final = 1 << 20

_HEX: Final = re.compile(r"(?:[0-9a-f]{2}){1,64}\Z")
_NAME: Final = re.compile(r"[A-Za-z0-9_.:/-]{1,64}\Z")
_KINDS: Final = frozenset({"sev-snp", "tdx", "uki"})


@dataclass(frozen=True, slots=True)
class Event:
    """One extension of a register: the register's name, what was measured, and the digest that went in."""

    register: str
    what: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class LaunchRecord:
    """Predicted registers by name, and the events behind them; ``inputs`` tells what they were made from.

    ``kind`` is ``sev-snp`` (register ``launch_digest``), ``tdx`` (``mrtd``, ``rtmr0``, …) or ``uki``
    (``pcr11.<bank>``).
    """

    kind: str
    registers: Mapping[str, bytes]
    events: tuple[Event, ...]
    inputs: Mapping[str, str | int] = field(default_factory=dict)

    def of(self, register: str) -> tuple[Event, ...]:
        """The events of one register, in order."""
        return tuple(event for event in self.events if event.register == register)

    def encode(self) -> bytes:
        """The record as JSON."""
        document = {
            "v": 1,
            "kind": self.kind,
            "registers": {name: value.hex() for name, value in self.registers.items()},
            "inputs": dict(self.inputs),
            "events": [[event.register, event.what, event.digest.hex()] for event in self.events],
        }
        return (json.dumps(document, indent=1) + "\n").encode()

    @classmethod
    def parse(cls, data: bytes) -> "LaunchRecord":
        """Read a record. Raises ImageError (IMAGE_MALFORMED)."""
        if len(data) > MAX_RECORD:
            raise malformed(f"a launch record has at most {MAX_RECORD} bytes")
        try:
            document = json.loads(data.decode("utf-8"), object_pairs_hook=_distinct)
        except (ValueError, RecursionError):
            raise malformed("not a launch record: not strict JSON") from None
        if not isinstance(document, dict) or set(document) != {"v", "kind", "registers", "inputs", "events"}:
            raise malformed("not a launch record: other members than v, kind, registers, inputs, events")
        if type(document["v"]) is not int or document["v"] != 1 or not _is_kind(document["kind"]):
            raise malformed("not a launch record of a known version and kind")
        return cls(
            document["kind"],
            _registers(document["registers"]),
            _events(document["events"]),
            _inputs(document["inputs"]),
        )


def malformed(detail: str) -> ImageError:
    """The error for an input of a prediction that cannot be used."""
    return ImageError(Code.IMAGE_MALFORMED, detail, stage="measure")


def _is_kind(value: object) -> bool:
    return isinstance(value, str) and value in _KINDS


def _registers(value: object) -> dict[str, bytes]:
    if not isinstance(value, dict) or len(value) > 64:
        raise malformed("launch record: registers is not an object of at most 64 members")
    return {_name(name): _digest(text) for name, text in value.items()}


def _inputs(value: object) -> dict[str, str | int]:
    if not isinstance(value, dict) or len(value) > 64:
        raise malformed("launch record: inputs is not an object of at most 64 members")
    for name, given in value.items():
        if type(given) not in (int, str):
            raise malformed(f"launch record: input {name[:40]!r} is neither text nor a whole number")
    return value


def _events(value: object) -> tuple[Event, ...]:
    if not isinstance(value, list) or len(value) > MAX_EVENTS:
        raise malformed(f"launch record: events is not a list of at most {MAX_EVENTS}")
    events = []
    for entry in value:
        if not isinstance(entry, list) or len(entry) != 3 or not isinstance(entry[1], str):
            raise malformed("launch record: an event is not [register, what, digest]")
        events.append(Event(_name(entry[0]), entry[1], _digest(entry[2])))
    return tuple(events)


def _name(value: object) -> str:
    if not isinstance(value, str) or not _NAME.match(value):
        raise malformed("launch record: a register has an odd name")
    return value


def _digest(value: object) -> bytes:
    if not isinstance(value, str) or not _HEX.match(value):
        raise malformed("launch record: a digest is not lower-case hexadecimal")
    return bytes.fromhex(value)


def _distinct(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise ValueError(name)
        members[name] = value
    return members
