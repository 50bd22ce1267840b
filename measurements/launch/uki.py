"""PCR 11 of a unified kernel image: its sections as systemd-stub measures them, then the phases of the boot.

For each section that is there, in the stub's order, the PCR is extended with the hash of its name and a zero
byte, then with the hash of its content; systemd-pcrphase extends the name of each phase as it is entered.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

from .portable_executable import Image
from .record import Event, LaunchRecord, malformed

MEASURED_SECTIONS: Final = (
    "linux",
    "osrel",
    "cmdline",
    "initrd",
    "ucode",
    "splash",
    "dtb",
    "uname",
    "sbat",
    "pcrpkey",
    "profile",
    "dtbauto",
    "hwids",
    "efifw",
)
"""Names without the dot, in the order in which they are measured; ``.pcrsig`` never is."""

PHASES: Final = ("enter-initrd", "leave-initrd", "sysinit", "ready")
"""The phases of an undisturbed boot, in order."""

BANKS: Final = ("sha1", "sha256", "sha384", "sha512")


def register(bank: str) -> str:
    """The register's name in a record."""
    return f"pcr11.{bank}"


def predict_pcr11(
    sections: Mapping[str, bytes], phases: Sequence[str] = PHASES, banks: Sequence[str] = ("sha256", "sha384")
) -> LaunchRecord:
    """PCR 11 of a UKI's ``sections`` (name without dot → content) after ``phases``.

    Sections that are not measured are not looked at. Raises ImageError for an unknown bank, or where there
    is no kernel.
    """
    if "linux" not in sections:
        raise malformed("a unified kernel image has a section .linux")
    unknown = sorted(set(banks) - set(BANKS))
    if unknown:
        raise malformed(f"unknown bank {unknown[0]!r}")
    registers, events = {}, []
    for bank in banks:
        value = bytes(hashlib.new(bank).digest_size)
        for what, data in _measured(sections, phases):
            digest = hashlib.new(bank, data).digest()
            value = hashlib.new(bank, value + digest).digest()
            events.append(Event(register(bank), what, digest))
        registers[register(bank)] = value
    return LaunchRecord("uki", registers, tuple(events), {"phases": ":".join(phases)})


def read_uki(data: bytes) -> dict[str, bytes]:
    """The sections of a unified kernel image, names without dot. Raises ImageError."""
    image = Image.parse(data)
    sections: dict[str, bytes] = {}
    for section in image.sections:
        name = section.name.removeprefix(".")
        if name in MEASURED_SECTIONS:
            if name in sections:
                raise malformed(f"the section .{name} occurs twice: an image of several profiles")
            sections[name] = image.content(section)
    return sections


def _measured(sections: Mapping[str, bytes], phases: Sequence[str]) -> list[tuple[str, bytes]]:
    measured = []
    for name in MEASURED_SECTIONS:
        if name in sections:
            measured.append((f"name .{name}", f".{name}".encode() + b"\0"))
            measured.append((f"content of .{name}", sections[name]))
    for phase in phases:
        if not phase.isascii() or not phase.replace("-", "").isalnum():
            raise malformed("a phase is a word of letters, digits and dashes")
        measured.append((f"phase {phase}", phase.encode()))
    return measured
