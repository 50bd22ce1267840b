"""RTMR0 to RTMR3 of a TDX guest that QEMU boots directly: what OVMF and Linux extend, in order.

RTMR0 holds the machine (hand-off block, variables, ACPI tables), RTMR1 the kernel, RTMR2 command line and
initial RAM disk, RTMR3 whatever the guest adds while it runs. A register is predicted only where all of its
inputs are known: hand-off block and ACPI tables depend on memory, processors and devices, so their digests
are taken from a machine of the same shape. (TCG PC Client Platform Firmware Profile; edk2 SecurityPkg.)
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from struct import Struct, pack_into, unpack_from
from typing import Final
from uuid import UUID

from .event_log import LoggedEvent
from .firmware import Firmware
from .portable_executable import Image
from .record import Event, LaunchRecord, malformed

GLOBAL_VARIABLE: Final = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
IMAGE_SECURITY: Final = UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")

_VARIABLE: Final = Struct("<16sQQ")
_CFV: Final = 1
_SEPARATOR: Final = bytes(4)
_CALLING: Final = b"Calling EFI Application from Boot Option"
_EXITS: Final = (b"Exit Boot Services Invocation", b"Exit Boot Services Returned with Success")
_MIN_KERNEL: Final = 0x1000
_ACPI_RESERVE: Final = 0x28000
_RTMR0: Final = 1
_VARIABLE_BOOT, _HANDOFF_TABLES2, _PLATFORM_CONFIG = 0x80000002, 0x8000000B, 0x0000000A
MAX_KERNEL: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Variable:
    """A UEFI variable as the firmware measures it. ``data`` is empty where the variable does not exist."""

    vendor: UUID
    name: str
    data: bytes = b""

    def measured(self) -> bytes:
        """UEFI_VARIABLE_DATA: what is hashed for a variable that configures Secure Boot."""
        name = self.name.encode("utf-16-le")
        return _VARIABLE.pack(self.vendor.bytes_le, len(name) // 2, len(self.data)) + name + self.data


NO_SECURE_BOOT: Final = (
    Variable(GLOBAL_VARIABLE, "SecureBoot"),
    Variable(GLOBAL_VARIABLE, "PK"),
    Variable(GLOBAL_VARIABLE, "KEK"),
    Variable(IMAGE_SECURITY, "db"),
    Variable(IMAGE_SECURITY, "dbx"),
)
"""The variables of a guest without Secure Boot: none exists, and that is measured."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The shape of a machine: SHA-384 of the TD hand-off block, and of each ACPI blob in order.

    ``boot_order`` and ``boot_options`` are the data of BootOrder, and of the options in the order they are
    looked up.
    """

    hand_off: bytes
    acpi: tuple[bytes, ...]
    boot_order: bytes = bytes(2)
    boot_options: tuple[bytes, ...] = ()

    @classmethod
    def of_log(cls, log: tuple[LoggedEvent, ...]) -> "Machine":
        """The shape that a guest's CC event log tells: take it from a machine that one trusts.

        Raises ImageError where the log tells none.
        """
        rtmr0 = [event for event in log if event.index == _RTMR0 and "sha384" in event.digests]
        hand_off = [event.digests["sha384"] for event in rtmr0 if event.type == _HANDOFF_TABLES2]
        boot = [event.data for event in rtmr0 if event.type == _VARIABLE_BOOT]
        if len(hand_off) != 1 or not boot:
            raise malformed("the event log tells of no hand-off block, or of no boot option")
        order, *options = (_variable_data(data) for data in boot)
        acpi = tuple(event.digests["sha384"] for event in rtmr0 if event.type == _PLATFORM_CONFIG)
        return cls(hand_off[0], acpi, order, tuple(options))


@dataclass(frozen=True, slots=True)
class TdxBoot:
    """Inputs of the runtime registers.

    ``memory`` is the guest's in bytes, for the kernel header that QEMU fills in. ``runtime`` are SHA-384
    digests that the guest extends into RTMR3.
    """

    kernel: bytes
    initrd: bytes
    cmdline: str
    memory: int
    machine: Machine | None = None
    variables: tuple[Variable, ...] = NO_SECURE_BOOT
    runtime: tuple[bytes, ...] = ()


def predict_rtmrs(boot: TdxBoot, firmware: Firmware) -> LaunchRecord:
    """RTMR1 to RTMR3, and RTMR0 where ``machine`` is known. Raises ImageError."""
    kernel = Image.parse(patched_kernel(boot.kernel, len(boot.initrd), boot.memory)).authenticode("sha384")
    try:
        options = (boot.cmdline + "\0").encode("utf-16-le")
    except UnicodeEncodeError:
        raise malformed("the command line cannot be written as UTF-16") from None
    events = []
    if boot.machine is not None:
        volume = hashlib.sha384(_volume(firmware)).digest()
        events = machine_events(boot.machine, volume, boot.variables)
    events += [*kernel_events(kernel), _event("rtmr2", "command line", options)]
    if boot.initrd:
        events.append(_event("rtmr2", "initial RAM disk", boot.initrd))
    events += [Event("rtmr3", f"runtime event {at}", digest) for at, digest in enumerate(boot.runtime)]
    names = ("rtmr0", "rtmr1", "rtmr2", "rtmr3") if boot.machine else ("rtmr1", "rtmr2", "rtmr3")
    registers = {name: extend(event.digest for event in events if event.register == name) for name in names}
    inputs: dict[str, str | int] = {"cmdline": boot.cmdline, "memory": boot.memory}
    return LaunchRecord("tdx", registers, tuple(events), inputs)


def machine_events(machine: Machine, volume: bytes, variables: Iterable[Variable]) -> list[Event]:
    """What goes into RTMR0; ``volume`` is SHA-384 of the firmware's volume of variables."""
    return [
        Event("rtmr0", "TD hand-off block", machine.hand_off),
        Event("rtmr0", "volume of variables", volume),
        *(_event("rtmr0", f"variable {v.name}", v.measured()) for v in variables),
        _event("rtmr0", "separator", _SEPARATOR),
        *(Event("rtmr0", f"ACPI data {at}", digest) for at, digest in enumerate(machine.acpi)),
        _event("rtmr0", "variable BootOrder", machine.boot_order),
        *(_event("rtmr0", f"boot option {at}", data) for at, data in enumerate(machine.boot_options)),
    ]


def kernel_events(kernel: bytes) -> list[Event]:
    """What goes into RTMR1; ``kernel`` is the kernel's Authenticode SHA-384."""
    return [
        Event("rtmr1", "kernel", kernel),
        _event("rtmr1", "action: calling the boot option", _CALLING),
        _event("rtmr1", "separator", _SEPARATOR),
        *(_event("rtmr1", f"action: {text.decode().lower()}", text) for text in _EXITS),
    ]


def extend(digests: Iterable[bytes]) -> bytes:
    """The register after these SHA-384 digests: R = SHA-384(R ‖ digest), from zero."""
    value = bytes(48)
    for digest in digests:
        if len(digest) != 48:
            raise malformed("a runtime register is extended with SHA-384 digests")
        value = hashlib.sha384(value + digest).digest()
    return value


def patched_kernel(kernel: bytes, initrd_size: int, memory: int) -> bytes:
    """A Linux image with the setup header as QEMU fills it before the firmware measures it.

    Linux/x86 boot protocol, Documentation/arch/x86/boot.rst; QEMU hw/i386/x86-common.c. Raises ImageError.
    """
    if not _MIN_KERNEL <= len(kernel) <= MAX_KERNEL or kernel[0x202:0x206] != b"HdrS":
        raise malformed("not a Linux kernel image")
    data = bytearray(kernel)
    (protocol,) = unpack_from("<H", data, 0x206)
    if protocol < 0x202 or not data[0x211] & 0x01:
        raise malformed("a kernel that is loaded low, or of a boot protocol older than 2.02")
    real, cmdline = 0x10000, 0x20000
    data[0x210] = 0xB0  # type_of_loader: QEMU
    data[0x211] |= 0x80  # loadflags: CAN_USE_HEAP
    pack_into("<H", data, 0x224, cmdline - real - 0x200)  # heap_end_ptr
    pack_into("<I", data, 0x228, cmdline)  # cmd_line_ptr
    if initrd_size:
        address = _initrd_address(data, protocol, initrd_size, memory)
        pack_into("<II", data, 0x218, address, initrd_size)
    return bytes(data)


def _initrd_address(data: bytearray, protocol: int, size: int, memory: int) -> int:
    highest = 0x37FFFFFF
    if (
        protocol >= 0x20C and unpack_from("<H", data, 0x236)[0] & 0x02
    ):  # xloadflags: XLF_CAN_BE_LOADED_ABOVE_4G
        highest = 0xFFFFFFFF
    elif protocol >= 0x203:
        highest = unpack_from("<I", data, 0x22C)[0] or highest
    below_4g = min(memory, 0xB0000000 if memory < 0xB0000000 else 0x80000000)
    if below_4g <= _ACPI_RESERVE:
        raise malformed("the guest has too little memory")
    highest = min(highest, below_4g - _ACPI_RESERVE - 1)
    if size >= highest:
        raise malformed("the initial RAM disk does not fit the guest's memory")
    return int((highest - size) & ~0xFFF)


def _volume(firmware: Firmware) -> bytes:
    volumes = [section for section in firmware.tdx_sections() if section.type == _CFV]
    if len(volumes) != 1:
        raise malformed("firmware has not exactly one volume of variables")
    return firmware.data[volumes[0].data_offset : volumes[0].data_offset + volumes[0].raw_size]


def _variable_data(measured: bytes) -> bytes:
    if len(measured) < _VARIABLE.size:
        raise malformed("a boot variable of the event log is cut off")
    _vendor, name, size = _VARIABLE.unpack_from(measured)
    data = measured[_VARIABLE.size + 2 * name :]
    if 2 * name > len(measured) or len(data) != size:
        raise malformed("a boot variable of the event log has another length than it says")
    return data


def _event(register: str, what: str, data: bytes) -> Event:
    return Event(register, what, hashlib.sha384(data).digest())
