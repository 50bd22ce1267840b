"""A machine started as a host would start it, with changes of the host's own, up to the point where PID 1 runs.

PID 1 is handed inputs without a staple, so it says so on the console and powers the machine off: that a machine got
as far as that is what a boot "works" means here.
"""

import contextlib
import fcntl
import shutil
import socket
import subprocess
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from images import hypervisor, verity, vm_manifest
from images.hypervisor import Machine

REACHED = "init: KeyError: 'staple'"
PATIENCE_S = 240.0


def unchanged(machine: Machine, _: Path) -> Machine:
    return machine


def console_of(
    image_dir: Path, change: Callable[[Machine, Path], Machine] = unchanged, patience_s: float = PATIENCE_S
) -> str:
    """Everything that the machine said on its console until it ended, or until ``patience_s`` were over."""
    with started(image_dir, change) as machine:
        deadline = time.monotonic() + patience_s
        while machine.runs() and time.monotonic() < deadline and REACHED not in said(machine.folder):
            time.sleep(0.1)
        machine.process.kill()
        machine.process.wait()
        # An attempt that QEMU itself turned down would have tried nothing.
        assert (machine.folder / "serial").exists(), (machine.folder / "qemu").read_text()
        return said(machine.folder)


def reaches_its_first_program(
    image_dir: Path, change: Callable[[Machine, Path], Machine] = unchanged, patience_s: float = PATIENCE_S
) -> bool:
    """Whether PID 1 runs and takes the host's inputs: something to see of a machine that has no console.

    It gets half of them and waits for the rest, so a machine that took them and one that ended are told apart.
    """
    with started(image_dir, change, inputs=b"{") as machine:
        deadline = time.monotonic() + patience_s
        while machine.runs() and machine.untaken() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1)
        assert (machine.folder / "serial").exists(), (machine.folder / "qemu").read_text()
        return machine.runs() and machine.untaken() == 0


@dataclass(frozen=True)
class Started:
    """A machine, the folder with its console, and the host's end of the port for inputs."""

    process: "subprocess.Popen[bytes]"
    folder: Path
    host: socket.socket

    def runs(self) -> bool:
        return self.process.poll() is None

    def untaken(self) -> int:
        """Bytes of the host's inputs that nobody has read: a port takes none before a program opens it."""
        return int.from_bytes(fcntl.ioctl(self.host, termios.TIOCOUTQ, bytes(4)), "little")


@contextlib.contextmanager
def started(
    image_dir: Path, change: Callable[[Machine, Path], Machine], inputs: bytes = b"{}"
) -> Iterator[Started]:
    network = vm_manifest.read(image_dir).policy["network"]
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as open_things:
        folder = Path(scratch)
        listener = open_things.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listener.bind(str(folder / "host"))
        listener.listen()
        listener.settimeout(30)
        basic = Machine("tcg", 1024, 1, free_port(), folder / "host", folder / "serial")
        words = hypervisor.command(image_dir, network, change(basic, folder))
        with (folder / "qemu").open("wb") as log:
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            host = open_things.enter_context(listener.accept()[0])
            host.sendall((2).to_bytes(4, "big") + inputs)
            yield Started(process, folder, host)
        finally:
            process.kill()
            process.wait()


def said(folder: Path) -> str:
    serial = folder / "serial"
    return serial.read_bytes().decode("utf-8", "replace") if serial.exists() else ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def flipped(path: Path, offset: int) -> Iterator[None]:
    """One bit of a file the other way round, for a while."""
    turn(path, offset)
    try:
        yield
    finally:
        turn(path, offset)


def turn(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def copy_with_other_volume(image_dir: Path, folder: Path, name: str, volume: Path) -> Path:
    """The image with another volume ``name``; everything else is linked, nothing is adapted to it."""
    folder.mkdir()
    for entry in image_dir.iterdir():
        if entry.name != f"{name}.img":
            (folder / entry.name).symlink_to(entry)
    shutil.move(volume, folder / f"{name}.img")
    return folder


def copy_with_other_disk(image_dir: Path, folder: Path, disk: bytes) -> Path:
    """The image with other bytes as its initial RAM disk."""
    folder.mkdir()
    for entry in image_dir.iterdir():
        (folder / entry.name).symlink_to(entry)
    (folder / "initrd").unlink()
    (folder / "initrd").write_bytes(disk)
    return folder


def adapt_policy(image_dir: Path, name: str) -> bytes:
    """What only a host that controls the measured disk can do: make the policy name the volume that is there.

    The hash tree of ``name``.img is written anew and the initial RAM disk gets a policy with its root; returns the
    new policy.
    """
    import rfc8785

    from images import cpio, ram_disk

    volume = image_dir / f"{name}.img"
    manifest = vm_manifest.read(image_dir)
    policy = dict(manifest.policy)
    entries = []
    for entry in policy["volumes"]:
        if entry["name"] == name:
            with volume.open("r+b") as file:
                file.truncate(entry["data_blocks"] * verity.BLOCK)
            made = verity.append_tree(volume, bytes.fromhex(entry["salt"]))
            entry = {**entry, "root_hash": made.root.hex()}
        entries.append(entry)
    policy["volumes"] = entries
    data = rfc8785.dumps(policy)
    initrd = (image_dir / "initrd").read_bytes()
    (image_dir / "initrd").unlink()
    # A later archive replaces earlier files of the same name.
    more = cpio.encode([cpio.CpioEntry(ram_disk.POLICY, 0o100444, data)])
    (image_dir / "initrd").write_bytes(initrd + more)
    return data


def with_hashes(image_dir: Path, cmdline: str) -> Callable[[Machine, Path], Machine]:
    """A machine whose SEV firmware holds the hashes of this image with this command line."""
    from images import snp_boot

    def change(machine: Machine, scratch: Path) -> Machine:
        firmware = image_dir / "firmware" / "OVMF.amdsev.fd"
        address, table = snp_boot.hash_table(image_dir, cmdline, firmware.read_bytes(), machine.memory)
        (scratch / "hashes").write_bytes(table)
        return replace(machine, firmware=firmware, loaded=(address, scratch / "hashes"), model=snp_boot.MODEL)

    return change
