"""PCR 11 of a unified kernel image: what systemd-stub and systemd measure into it, and what it must become.

Per section that the image has, in the stub's order, the stub extends the digest of the section's name with a
zero byte, and the digest of its content; then each boot phase extends the digest of its word
(systemd-stub(7), systemd-measure(1)).
"""

import hashlib
from collections.abc import Mapping
from typing import Final

from ..errors import PolicyMalformed
from .pcr import extend, reset_value

UKI_PCR: Final = 11
EMPTY_PCRS: Final = (12, 13)
"""PCRs of what is added to an image at boot: command line and credentials (12), system extensions (13)."""

SECTIONS: Final = (
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
)
"""Measured sections, in the stub's order; section names have a dot before these words."""

PHASES: Final = ("enter-initrd", "leave-initrd", "sysinit", "ready", "shutdown", "final")


def pcr11(section_digests: Mapping[str, bytes], bank: str, phases: str = "") -> bytes:
    """PCR 11 of ``bank`` for an image with these sections after these boot phases.

    ``section_digests``: digest of each section's content by the bank's hash, by name without the dot.
    ``phases``: words with colons between, such as ``enter-initrd:leave-initrd``; none before the first.
    Raises PolicyMalformed (``policy_invalid``) for a section that the stub does not measure.
    """
    unknown = sorted(section_digests.keys() - set(SECTIONS))
    if unknown or "linux" not in section_digests:
        raise PolicyMalformed(
            code="policy_invalid",
            expected=f"linux, and sections out of {', '.join(SECTIONS)}",
            found=unknown[0] if unknown else "no linux",
        )
    value = reset_value(bank, UKI_PCR)
    for name in SECTIONS:
        if name in section_digests:
            value = extend(bank, value, hashlib.new(bank, f".{name}\0".encode()).digest())
            value = extend(bank, value, section_digests[name])
    return extend_phases(value, bank, phases)


def extend_phases(value: bytes, bank: str, phases: str) -> bytes:
    """A PCR after systemd has extended these boot phases into it."""
    for word in phases.split(":") if phases else ():
        value = extend(bank, value, hashlib.new(bank, word.encode()).digest())
    return value
