#!/python/bin/python3 -ISB
"""The first program of a virtual machine: open the volumes that the measured policy names, and go on in them.

It lies in the initial RAM disk, beside ``/policy.json``, so both are part of the launch measurement. Everything it
takes to open a volume (root hash, salt, sizes) comes from that policy and nothing from the disk. A block that does
not fit its hash stops the kernel. Any failure ends the machine: there is no shell to fall back to.
"""

import ctypes
import fcntl
import json
import os
import struct
import sys
import time
from typing import Any

LOADER = "/lib/ld-linux-x86-64.so.2"
NEXT = (
    *(LOADER, "--inhibit-cache", "--library-path", "/lib", "/python/bin/python3"),
    *("-I", "-S", "-B", "-X", "utf8", "/app/init.py"),
)
POLICY = "/policy.json"
ROOT = "/sysroot"
DISK_PATIENCE_S = 60.0

_RDONLY, _NOSUID, _NODEV, _NOEXEC, _MOVE = 1, 2, 4, 8, 8192
_SYS_FINIT_MODULE = 313
_DM_CREATE, _DM_SUSPEND, _DM_TABLE_LOAD = 3, 6, 9
_DM_READONLY = 1
# struct dm_ioctl: version, data_size, data_start, target_count, open_count, flags, event_nr, -, dev, name, uuid.
_DM = struct.Struct("=3I7IQ128s129s7x")
_DM_TARGET = struct.Struct("=QQiI16s")
_SECTORS_PER_BLOCK = 8
_POWER_OFF = 0x4321FEDC

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Mount, load modules, open volumes, move over, and never come back."""
    for kind, place in (("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")):
        mount(kind, place, kind, _NOSUID | _NOEXEC | (0 if kind == "devtmpfs" else _NODEV))
    with open(POLICY, "rb") as file:
        text = file.read()
    policy = json.loads(text)
    for name in policy["modules"]:
        load_module(name, tolerated=name in policy["tolerated_modules"])
    if os.path.exists("/proc/sys/kernel/modules_disabled"):  # else the kernel can load none anyway
        write("/proc/sys/kernel/modules_disabled", "1")
    for kind, place in (("securityfs", "/sys/kernel/security"), ("configfs", "/sys/kernel/config")):
        if any(device.startswith(place) for device in policy["devices"]) and os.path.isdir(place):
            mount(kind, place, kind, _NOSUID | _NODEV | _NOEXEC)
    for number, volume in enumerate(policy["volumes"]):
        device = open_volume(number, volume)
        mount(device, ROOT + volume["mount"].rstrip("/"), "erofs", _RDONLY | _NOSUID | _NODEV)
    mount("tmpfs", ROOT + "/run", "tmpfs", _NOSUID | _NODEV | _NOEXEC, "size=16m,mode=0755")
    write(ROOT + "/run/policy.json", text.decode())
    forget_ram_disk()
    for place in ("/proc", "/sys", "/dev"):  # with whatever is mounted below them
        mount(place, ROOT + place, "", _MOVE)
    os.chdir(ROOT)
    mount(".", "/", "", _MOVE)
    os.chroot(".")
    os.chdir("/")
    os.execve(LOADER, NEXT, {"LC_ALL": "C"})


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """mount(2)."""
    words = (source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())
    if _libc.mount(*words):
        raise OSError(ctypes.get_errno(), f"mount {source} on {target}")


def write(path: str, text: str) -> None:
    """Write a whole file."""
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def load_module(name: str, *, tolerated: bool) -> None:
    """finit_module(2) of ``/modules/NAME.ko``; only a device that is not there may be tolerated."""
    with open(f"/modules/{name}.ko", "rb") as file:
        if _libc.syscall(_SYS_FINIT_MODULE, file.fileno(), b"", 0) and not tolerated:
            raise OSError(ctypes.get_errno(), f"module {name}")


def open_volume(number: int, volume: dict[str, Any]) -> str:
    """Set up dm-verity by the policy's own parameters; the path of the verified device."""
    disk = find_disk(volume["name"])
    blocks = volume["data_blocks"]
    words = (
        "1",
        disk,
        disk,
        4096,
        4096,
        blocks,
        blocks,
        "sha256",
        volume["root_hash"],
        volume["salt"] or "-",
    )
    parameters = " ".join(map(str, (*words, 1, "panic_on_corruption"))).encode() + b"\0"
    with open("/dev/mapper/control", "rb", buffering=0) as control:
        answer = device_mapper(control, _DM_CREATE, volume["name"], 0)
        target = parameters.ljust(-(-len(parameters) // 8) * 8, b"\0")
        head = _DM_TARGET.pack(0, blocks * _SECTORS_PER_BLOCK, 0, _DM_TARGET.size + len(target), b"verity")
        device_mapper(control, _DM_TABLE_LOAD, volume["name"], _DM_READONLY, head + target)
        device_mapper(control, _DM_SUSPEND, volume["name"], 0)  # without its flag, this resumes
    device = struct.unpack_from("=Q", answer, 40)[0]
    return f"/dev/dm-{(device & 0xFF) | ((device >> 12) & 0xFFF00)}"


def device_mapper(control: Any, command: int, name: str, flags: int, target: bytes = b"") -> bytearray:
    """One ioctl of the device mapper; its answer."""
    size = _DM.size + len(target)
    head = (4, 0, 0, size, _DM.size, 1 if target else 0, 0, flags, 0, 0, 0, name.encode(), b"")
    buffer = bytearray(_DM.pack(*head) + target)
    fcntl.ioctl(control, (3 << 30) | (_DM.size << 16) | (0xFD << 8) | command, buffer)
    return buffer


def find_disk(name: str) -> str:
    """The disk that the host calls ``name``. Which one it is does not matter: the hash decides."""
    until = time.monotonic() + DISK_PATIENCE_S
    while time.monotonic() < until:
        for disk in sorted(os.listdir("/sys/block")):
            try:
                with open(f"/sys/block/{disk}/serial", encoding="ascii") as file:
                    if file.read().strip("\0\n ") == name:
                        return f"/dev/{disk}"
            except OSError:
                continue
        time.sleep(0.05)
    raise OSError(f"no disk called {name}")


def forget_ram_disk() -> None:
    """Delete the initial RAM disk's files: nothing needs them any more, and nobody shall find them."""
    own = os.stat("/").st_dev
    for folder, folders, names in os.walk("/"):
        folders[:] = [name for name in folders if os.lstat(os.path.join(folder, name)).st_dev == own]
        for name in names:
            os.unlink(os.path.join(folder, name))


if __name__ == "__main__":
    try:
        main()
    except BaseException as error:
        if sys.stderr is not None:  # a kernel without a console gives no such stream
            sys.stderr.write(f"stage 1: {type(error).__name__}: {error}\n")
            sys.stderr.flush()
    _libc.sync()
    _libc.reboot(_POWER_OFF)
