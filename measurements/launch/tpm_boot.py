"""PCRs 4, 9, 11, 12 and 13 of a unified kernel image that OVMF starts: by QEMU's ``-kernel``, or from a boot partition.

- PCR 4: each program that firmware starts, by its Authenticode hash (the image, then the kernel inside), the action
  "Calling EFI Application from Boot Option" and the separator. Under ``-kernel`` the image is loaded before the
  action and the separator, from a partition behind them.
- PCR 9: Linux's EFI stub measures its command line (UTF-16 with its terminating zero) and its initial RAM disk.
- PCR 11: systemd-stub measures the image's sections (:mod:`.uki`).
- PCR 12: systemd-stub measures a command line that replaces the embedded one, and credentials: nothing of it here.
- PCR 13: system extensions: none.

(TCG PC Client Platform Firmware Profile §3.3.4; Linux drivers/firmware/efi/libstub; systemd-stub(7).) Since stubs let
a host replace the embedded command line without a trace in PCRs 4 and 11, 9 and 12 have to be judged with them.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Final

from .portable_executable import Image
from .record import Event, LaunchRecord, malformed
from .uki import BANKS, predict_pcr11, read_uki

PREDICTED: Final = (4, 9, 11, 12, 13)
"""The PCRs that are predicted, by number."""

_ACTION: Final = b"Calling EFI Application from Boot Option"
_SEPARATOR: Final = bytes(4)
_STUB: Final = re.compile(rb"systemd-stub ([0-9]{1,4})")
_OLD_STUB: Final = 252
# Stubs up to 252 measure none of these, not even the .sbat that they have themselves.
_LATER_SECTIONS: Final = frozenset({"uname", "sbat", "ucode", "profile", "dtbauto", "hwids", "efifw"})


def predict_uki_boot(
    image: bytes, *, from_partition: bool = False, banks: Sequence[str] = ("sha256",)
) -> LaunchRecord:
    """The registers ``pcr<n>.<bank>`` of an image before any userspace phase. Raises ImageError."""
    if unknown := sorted(set(banks) - set(BANKS)):
        raise malformed(f"unknown bank {unknown[0]!r}")
    sections = read_uki(image)
    if not {"linux", "initrd", "cmdline"} <= set(sections):
        raise malformed("the image lacks .linux, .initrd or .cmdline")
    try:
        options = sections["cmdline"].decode().rstrip("\0").encode("utf-16-le") + b"\0\0"
    except UnicodeDecodeError:
        raise malformed("the command line is not UTF-8") from None
    parsed, kernel = Image.parse(image), Image.parse(sections["linux"])
    if _stub_version(parsed) <= _OLD_STUB:
        sections = {name: data for name, data in sections.items() if name not in _LATER_SECTIONS}
    eleven = predict_pcr11(sections, phases=(), banks=banks)
    registers, events = dict(eleven.registers), []
    for bank in banks:

        def digest(data: bytes, bank: str = bank) -> bytes:
            return hashlib.new(bank, data).digest()

        whole = ("the unified kernel image", parsed.authenticode(bank))
        closing = [("action: calling the boot option", digest(_ACTION)), ("separator", digest(_SEPARATOR))]
        four = [*closing, whole] if from_partition else [whole, *closing]
        four.append(("the kernel inside", kernel.authenticode(bank)))
        nine = [("command line", digest(options)), ("initial RAM disk", digest(sections["initrd"]))]
        for number, extended in ((4, four), (9, nine), (12, []), (13, [])):
            name, value = f"pcr{number}.{bank}", bytes(hashlib.new(bank).digest_size)
            for what, measured in extended:
                value = hashlib.new(bank, value + measured).digest()
                events.append(Event(name, what, measured))
            registers[name] = value
    return LaunchRecord("uki", registers, (*events, *eleven.events), eleven.inputs)


def _stub_version(image: Image) -> int:
    """The version that systemd's stub says it has; one beyond the old ones where it says nothing."""
    for section in image.sections:
        if section.name == ".sdmagic" and (found := _STUB.search(image.content(section))):
            return int(found[1])
    return _OLD_STUB + 1
