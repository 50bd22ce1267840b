"""SEV-SNP launch digests, predicted page by page (AMD 56860 §8.17, SNP_LAUNCH_UPDATE).

LD = 0^48, and for each page LD = SHA-384(LD ‖ SHA-384(page) ‖ PAGE_INFO). Order: the firmware up to 4 GiB,
the sections of its metadata, the first state of each vCPU.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from struct import Struct
from typing import Final
from uuid import UUID

from .firmware import PAGE, Firmware, SevSectionType
from .record import Event, LaunchRecord, malformed
from .vmsa import BSP_EIP, Vmm, vmsa_page

REGISTER: Final = "launch_digest"
MAX_VCPUS: Final = 4096
MAX_SECTION: Final = 1 << 28

_NORMAL, _VMSA, _ZERO, _UNMEASURED, _SECRETS, _CPUID = range(1, 7)
_KINDS: Final = {
    _NORMAL: "normal page",
    _VMSA: "vCPU state",
    _ZERO: "zero page",
    _UNMEASURED: "unmeasured page",
    _SECRETS: "secrets page",
    _CPUID: "CPUID page",
}
_TYPES: Final = {text: number for number, text in _KINDS.items()}
_PAGE_TEXT: Final = re.compile(r"(.{1,40}): ([A-Za-z ]+) at 0x([0-9a-f]{1,16})\Z")
_PAGE_INFO: Final = Struct("<48s48sHBBBBBBQ")
_ZEROS: Final = bytes(48)
_VMSA_GPA: Final = 0xFFFFFFFFF000
"""The highest page: what the RMP records for a vCPU's state."""

_HASH_TABLE: Final = UUID("9438d606-4f22-4cc9-b479-a793d411fd21").bytes_le
_CMDLINE_ENTRY: Final = UUID("97d02dd8-bd20-4c94-aa78-e7714d36ab2a").bytes_le
_INITRD_ENTRY: Final = UUID("44baf731-3a2f-4bd7-9af1-41e29169781d").bytes_le
_KERNEL_ENTRY: Final = UUID("4de79437-abd2-427f-b835-d5b172d2045b").bytes_le
_HASH_ENTRY: Final = Struct("<16sH32s")
_HASH_HEADER: Final = Struct("<16sH")


@dataclass(frozen=True, slots=True)
class DirectBoot:
    """What QEMU's ``-kernel``, ``-initrd`` and ``-append`` name; an absent initrd is measured as empty."""

    kernel: bytes
    initrd: bytes = b""
    cmdline: str = ""


@dataclass(frozen=True, slots=True)
class SnpLaunch:
    """All inputs of an SEV-SNP launch digest.

    ``cpu_signature`` counts under QEMU alone. ``guest_features`` is SEV_FEATURES. ``firmware_digest``, where
    given, stands for the launch digest after the firmware's pages, so that the metadata at the end of the
    image (``firmware``) suffices.
    """

    firmware: Firmware
    vcpus: int
    cpu_signature: int = 0
    guest_features: int = 1
    vmm: Vmm = Vmm.QEMU
    boot: DirectBoot | None = None
    firmware_digest: bytes | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a launch: what it belongs to, its kind, its address, and the digest that was extended."""

    name: str
    kind: str
    gpa: int
    digest: bytes

    def of_kind(self, kind: str) -> "Page":
        """The same page, launched as another kind."""
        return Page(self.name, kind, self.gpa, self.digest)

    def emptied(self) -> "Page":
        """The same place, launched as a page of zeros."""
        return Page(self.name, _KINDS[_ZERO], self.gpa, _ZEROS)


def read_page(event: Event) -> Page:
    """The page that an event of a launch record tells of. Raises ImageError."""
    found = _PAGE_TEXT.match(event.what)
    if found is None or found[2] not in _TYPES or len(event.digest) != 48:
        raise malformed("an event of the launch record is not of a page")
    return Page(found[1], found[2], int(found[3], 16), event.digest)


def replay_pages(start: bytes, pages: Iterable[Page]) -> bytes:
    """The launch digest after ``pages``, from ``start``."""
    value = start
    for page in pages:
        value = _extended(value, _TYPES[page.kind], page.gpa, page.digest)
    return value


class _Digest:
    def __init__(self, start: bytes = _ZEROS) -> None:
        self.value = start
        self.events: list[Event] = []

    def page(self, type: int, gpa: int, digest: bytes, what: str) -> None:
        self.value = _extended(self.value, type, gpa, digest)
        self.events.append(Event(REGISTER, f"{what}: {_KINDS[type]} at 0x{gpa:x}", digest))

    def pages(self, gpa: int, data: bytes, what: str) -> None:
        for at in range(0, len(data), PAGE):
            self.page(_NORMAL, gpa + at, hashlib.sha384(data[at : at + PAGE]).digest(), what)

    def empty(self, type: int, gpa: int, size: int, what: str) -> None:
        if size > MAX_SECTION:
            raise malformed(f"a section of the SEV-SNP metadata has more than {MAX_SECTION} bytes")
        for at in range(0, size, PAGE):
            self.page(type, gpa + at, _ZEROS, what)


def predict_snp(launch: SnpLaunch) -> LaunchRecord:
    """The launch digest of an SEV-SNP guest, with every page that went into it. Raises ImageError."""
    if not 1 <= launch.vcpus <= MAX_VCPUS:
        raise malformed(f"1 to {MAX_VCPUS} vCPUs")
    if not 0 <= launch.cpu_signature < 1 << 32 or not 0 <= launch.guest_features < 1 << 64:
        raise malformed("a CPU signature has 32 bits, guest features have 64")
    if launch.firmware_digest is not None:
        if len(launch.firmware_digest) != 48:
            raise malformed("the digest of the firmware's pages has 48 bytes")
        digest = _Digest(launch.firmware_digest)
    else:
        digest = _Digest()
        digest.pages(launch.firmware.gpa, launch.firmware.data, "firmware")
    _sections(digest, launch)
    _vcpus(digest, launch)
    inputs: dict[str, str | int] = {
        "vmm": launch.vmm.value,
        "vcpus": launch.vcpus,
        "cpu_signature": launch.cpu_signature,
        "guest_features": launch.guest_features,
        "firmware_sha384": hashlib.sha384(launch.firmware.data).hexdigest(),
        "ap_eip": launch.firmware.ap_reset_eip if launch.firmware.has_ap_reset_eip else 0,
    }
    if launch.firmware_digest is not None:
        inputs["firmware_digest"] = launch.firmware_digest.hex()
    if launch.boot is not None:
        inputs["kernel_sha256"] = hashlib.sha256(launch.boot.kernel).hexdigest()
        inputs["initrd_sha256"] = hashlib.sha256(launch.boot.initrd).hexdigest()
        inputs["cmdline"] = launch.boot.cmdline
    return LaunchRecord("sev-snp", {REGISTER: digest.value}, tuple(digest.events), inputs)


def kernel_hash_page(boot: DirectBoot, offset: int) -> bytes:
    """The page of SHA-256 hashes that OVMF checks a directly booted kernel against, table at ``offset``."""
    try:
        cmdline = boot.cmdline.encode() + b"\0"
    except UnicodeEncodeError:
        raise malformed("the command line cannot be written as UTF-8") from None
    entries = b"".join(
        _HASH_ENTRY.pack(guid, _HASH_ENTRY.size, hashlib.sha256(data).digest())
        for guid, data in (
            (_CMDLINE_ENTRY, cmdline),
            (_INITRD_ENTRY, boot.initrd),
            (_KERNEL_ENTRY, boot.kernel),
        )
    )
    table = _HASH_HEADER.pack(_HASH_TABLE, _HASH_HEADER.size + len(entries)) + entries
    if offset + len(table) > PAGE:
        raise malformed("the firmware's place for kernel hashes crosses a page")
    return (bytes(offset) + table).ljust(PAGE, b"\0")


def _extended(value: bytes, type: int, gpa: int, digest: bytes) -> bytes:
    info = _PAGE_INFO.pack(value, digest, _PAGE_INFO.size, type, 0, 0, 0, 0, 0, gpa)
    return hashlib.sha384(info).digest()


def _sections(digest: _Digest, launch: SnpLaunch) -> None:
    sections = launch.firmware.sev_sections()
    if launch.boot is not None and not any(s.type is SevSectionType.KERNEL_HASHES for s in sections):
        raise malformed("firmware has no section for kernel hashes, so it cannot boot a kernel directly")
    # EC2's hypervisor puts the CPUID page last; Google's does not measure the early memory.
    ordered = sections
    if launch.vmm is Vmm.EC2:
        ordered = tuple(sorted(sections, key=lambda section: section.type is SevSectionType.CPUID))
    for section in ordered:
        name = section.type.name.lower()
        if section.type is SevSectionType.SECRETS:
            digest.page(_SECRETS, section.gpa, _ZEROS, name)
        elif section.type is SevSectionType.CPUID:
            digest.page(_CPUID, section.gpa, _ZEROS, name)
        elif section.type is SevSectionType.SEC_MEM and launch.vmm is Vmm.GCE:
            digest.empty(_UNMEASURED, section.gpa, section.size, name)
        elif section.type is SevSectionType.KERNEL_HASHES and launch.boot is not None:
            if section.size != PAGE:
                raise malformed("the firmware's section for kernel hashes is not one page")
            page = kernel_hash_page(launch.boot, launch.firmware.kernel_hashes_gpa % PAGE)
            digest.pages(section.gpa, page, name)
        else:
            digest.empty(_ZERO, section.gpa, section.size, name)


def _vcpus(digest: _Digest, launch: SnpLaunch) -> None:
    for number in range(launch.vcpus):
        if number < 2:
            eip = launch.firmware.ap_reset_eip if number else BSP_EIP
            page = vmsa_page(launch.vmm, eip, launch.cpu_signature, launch.guest_features)
            state = hashlib.sha384(page).digest()
        digest.page(_VMSA, _VMSA_GPA, state, f"vCPU {number}")
