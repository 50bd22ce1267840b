"""How QEMU is asked to run an image: its command line, and whether this machine's KVM is any use.

The machine has two disks, one network card, a serial bus with two ports, and nothing else: no video, no USB, no
monitor. The network reaches no further than the forwarded port.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from images.errors import MachineError

QEMU = "qemu-system-x86_64"
KVM_PROBE_S = 5.0
Accelerator = Literal["kvm", "tcg"]


@dataclass(frozen=True, slots=True)
class Machine:
    """What the host decides: memory in MiB, processors, the forwarded port, where its sockets lie.

    ``tpm`` and ``platform`` are Unix sockets of a virtual TPM and of a platform; ``firmware`` an OVMF image for
    ``-bios``; ``flash`` code and variables instead; ``unified`` boots image.efi; ``append`` replaces the image's
    command line; ``loaded`` is a file that is in memory at an address before the first instruction; ``extra`` goes
    to QEMU as it is. ``metrics_port`` is forwarded to the node's metrics; 0: not at all.
    """

    accelerator: Accelerator
    memory: int
    cpus: int
    port: int
    host_socket: Path
    serial: Path
    platform: Path | None = None
    tpm: Path | None = None
    firmware: Path | None = None
    flash: tuple[Path, Path] | None = None
    unified: bool = False
    append: str | None = None
    loaded: tuple[int, Path] | None = None
    model: str = "q35"
    extra: tuple[str, ...] = ()
    metrics_port: int = 0


def command(image_dir: Path, network: Mapping[str, Any], machine: Machine) -> list[str]:
    """QEMU's command line for an image that listens where ``network`` of its policy says."""
    words = [qemu(), "-machine", f"{machine.model},accel={machine.accelerator}", "-cpu", "max", "-nodefaults"]
    words += ["-no-reboot", "-m", str(machine.memory), "-smp", str(machine.cpus)]
    words += ["-display", "none", "-monitor", "none", "-serial", f"file:{_plain(machine.serial)}"]
    words += _boot(image_dir, machine)
    for name in ("root", "model"):
        drive = f"file={_plain(image_dir / f'{name}.img')},format=raw,if=none,readonly=on,id={name}"
        words += ["-drive", drive, "-device", f"virtio-blk-pci,drive={name},serial={name}"]
    ports = [(machine.port, network["port"]), (machine.metrics_port, network["metrics_port"])]
    forward = ",".join(
        f"hostfwd=tcp:127.0.0.1:{here}-{network['address']}:{there}" for here, there in ports if here
    )
    words += [
        "-netdev",
        f"user,id=net,restrict=on,{forward}",
        "-device",
        "virtio-net-pci,netdev=net,romfile=",
    ]
    words += ["-device", "virtio-serial-pci", *_port("host", machine.host_socket)]
    if machine.platform is not None:
        words += _port("platform", machine.platform)
    if machine.tpm is not None:
        chardev = f"socket,id=tpm,path={_plain(machine.tpm)}"
        words += ["-chardev", chardev, "-tpmdev", "emulator,id=tpm,chardev=tpm"]
        words += ["-device", "tpm-crb,tpmdev=tpm"]
    return [*words, *machine.extra]


def _boot(image_dir: Path, machine: Machine) -> list[str]:
    if machine.unified:
        words = ["-kernel", str(image_dir / "image.efi")]
        if machine.append is not None:
            words += ["-append", machine.append]
    else:
        words = ["-kernel", str(image_dir / "vmlinuz"), "-initrd", str(image_dir / "initrd")]
        line = machine.append if machine.append is not None else (image_dir / "cmdline").read_text()
        words += ["-append", line]
    if machine.firmware is not None:
        words += ["-bios", str(machine.firmware)]
    if machine.flash is not None:
        code, variables = map(_plain, machine.flash)
        words += ["-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={code}"]
        words += ["-drive", f"if=pflash,format=raw,unit=1,file={variables}"]
    if machine.loaded is not None:
        address, path = machine.loaded
        words += ["-device", f"loader,addr={address:#x},file={_plain(path)},force-raw=on"]
    return words


def qemu() -> str:
    """QEMU's program. Raises MachineError (``qemu_missing``)."""
    found = shutil.which(QEMU)
    if found is None:
        raise MachineError("qemu_missing", f"{QEMU} is not installed (Debian package qemu-system-x86)")
    return found


def kvm_works(kernel: Path) -> bool:
    """Whether a kernel comes up under KVM within five seconds.

    A device that opens says little: some machines have one that no guest can use. So a kernel is started without
    a root; where it gets as far as missing one, it ends by itself.
    """
    if not Path("/dev/kvm").exists():
        return False
    with tempfile.TemporaryDirectory() as scratch:
        serial = Path(scratch, "serial")
        words = [qemu(), "-machine", "q35,accel=kvm", "-cpu", "max", "-nodefaults", "-no-reboot", "-m", "512"]
        words += ["-display", "none", "-monitor", "none", "-serial", f"file:{serial}", "-kernel", str(kernel)]
        try:
            done = subprocess.run(
                [*words, "-append", "console=ttyS0 panic=-1"],
                capture_output=True,
                check=False,
                timeout=KVM_PROBE_S,
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0 and serial.is_file() and b"Kernel panic" in serial.read_bytes()


def _port(name: str, path: Path) -> list[str]:
    chardev = f"socket,id={name},path={_plain(path)}"
    return ["-chardev", chardev, "-device", f"virtserialport,chardev={name},name=org.cloister.{name}"]


def _plain(path: Path) -> str:
    """A path as it stands in an option of QEMU, where a comma is doubled."""
    return str(path).replace(",", ",,")
