"""PID 1 of a virtual machine: bring up the network, start the node as nobody in particular, wait, power off.

It runs from the verified root volume and reads the policy that was measured with the initial RAM disk. It is the
only program besides the node. It carries bytes between the node's socket and the machine's device for evidence, so
that the node itself needs no right to any device, and hands it fresh staples of the host's, if the policy says so.
"""

import base64
import ctypes
import fcntl
import json
import os
import resource
import socket
import stat
import struct
import sys
import threading
import time
from typing import Any

POLICY = "/run/policy.json"
STAPLE = "/run/staple.json"
COLLATERAL = "/run/collateral"
COLLATERAL_PIECES = {"ak_chain", "ak_crl", "vek", "ask", "ark", "crl"}
PROC = "/proc"
HOST_PORT = "org.cloister.host"
PLATFORM_PORT = "org.cloister.platform"
MAX_HOST_INPUTS = 4 << 20

_SIOCADDRT, _SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK = 0x890B, 0x8914, 0x8916, 0x891C
_UP_RUNNING = 0x41
_ROUTE = struct.Struct("=8x16s16s16sHh4xQQh6xQQQH6x")
_UP_GATEWAY = 0x3
_POWER_OFF = 0x4321FEDC
_SYSCTLS = {
    "kernel/kexec_load_disabled": "1",
    "kernel/sysrq": "0",
    "kernel/dmesg_restrict": "1",
    "kernel/kptr_restrict": "2",
    "kernel/unprivileged_bpf_disabled": "1",
    "kernel/yama/ptrace_scope": "3",
    "kernel/io_uring_disabled": "2",
    "vm/memfd_noexec": "2",
    "user/max_user_namespaces": "0",
}


def main() -> int:
    """Everything in order; the node's exit status."""
    with open(POLICY, "rb") as file:
        policy = json.load(file)
    if not policy["console"]:
        null = os.open("/dev/null", os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
    for name, value in _SYSCTLS.items():
        if name in policy["absent"] and not os.path.exists(f"/proc/sys/{name}"):
            continue
        with open(f"/proc/sys/{name}", "w", encoding="ascii") as file:
            file.write(value)
    network(policy["network"])
    host = open_port(HOST_PORT)
    inputs = host_inputs(host)
    with open(STAPLE, "wb") as file:
        file.write(base64.b64decode(inputs["staple"], validate=True))
    os.mkdir(COLLATERAL)
    for name in sorted(set(inputs) & COLLATERAL_PIECES):
        with open(f"{COLLATERAL}/{name}.bin", "wb") as file:
            file.write(base64.b64decode(inputs[name], validate=True))
    if policy["gpus"]:
        make_gpu_files(policy["user"])
    for device in policy["devices"]:
        if os.path.exists(device):
            os.chown(device, policy["user"], policy["user"])
    simulated = policy["platform"] == "simulated"
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    fresh, feed = os.pipe()
    node = os.fork()
    if node == 0:
        ours.close()
        become_node(policy, theirs if simulated else None, fresh)
    theirs.close()
    os.close(fresh)
    if simulated:
        carry(ours, open_port(PLATFORM_PORT))
    if policy["staples"]["bytes"]:
        threading.Thread(target=hand_over, args=(host, feed, policy["staples"]), daemon=True).start()
    while True:
        process, status = os.wait()
        if process == node:
            return os.waitstatus_to_exitcode(status)


def network(settings: dict[str, Any]) -> None:
    """A fixed address, as the policy says: no DHCP and no names."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        mask = (0xFFFFFFFF << (32 - settings["prefix"])) & 0xFFFFFFFF
        for name, address, bits in (("lo", "127.0.0.1", 0xFF000000), ("eth0", settings["address"], mask)):
            for request, value in (
                (_SIOCSIFADDR, internet(address)),
                (_SIOCSIFNETMASK, internet(socket.inet_ntoa(bits.to_bytes(4, "big")))),
                (_SIOCSIFFLAGS, struct.pack("=H14x", _UP_RUNNING)),
            ):
                fcntl.ioctl(handle, request, struct.pack("=16s16s8x", name.encode(), value))
        if settings["gateway"]:
            anywhere = internet("0.0.0.0")
            words = (anywhere, internet(settings["gateway"]), anywhere, _UP_GATEWAY, 0, 0, 0, 0, 0, 0, 0, 0)
            fcntl.ioctl(handle, _SIOCADDRT, _ROUTE.pack(*words))


def make_gpu_files(user: int) -> None:
    """The device files of NVIDIA's driver, which makes none itself, for the node's user."""
    majors: dict[str, int] = {}
    with open(f"{PROC}/devices", encoding="ascii") as file:
        for line in file:
            number, _, name = line.strip().partition(" ")
            if number.isdigit():
                majors.setdefault(name, int(number))
    control = majors.get("nvidiactl", majors.get("nvidia-frontend", majors.get("nvidia")))
    if control is None or "nvidia-uvm" not in majors:
        raise OSError("the kernel has no driver for the GPUs")
    wanted = {"nvidiactl": (control, 255), "nvidia-uvm": (majors["nvidia-uvm"], 0)}
    folder = f"{PROC}/driver/nvidia/gpus"
    for gpu in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        with open(f"{folder}/{gpu}/information", encoding="utf-8") as file:
            told = dict(line.split(":", 1) for line in file if ":" in line)
        minor = int(told["Device Minor"])
        wanted[f"nvidia{minor}"] = (control, minor)
    for name, numbers in wanted.items():
        os.mknod(f"/dev/{name}", stat.S_IFCHR | 0o600, os.makedev(*numbers))
        os.chown(f"/dev/{name}", user, user)


def internet(address: str) -> bytes:
    """struct sockaddr_in of an address."""
    return struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))


def open_port(name: str) -> int:
    """The virtio port that the host calls ``name``."""
    folder = "/sys/class/virtio-ports"
    for port in sorted(os.listdir(folder)):
        with open(f"{folder}/{port}/name", encoding="ascii") as file:
            if file.read().strip() == name:
                return os.open(f"/dev/{port}", os.O_RDWR | os.O_CLOEXEC)
    raise OSError(f"no port called {name}")


def host_inputs(port: int) -> dict[str, Any]:
    """What the host hands over: a length and one JSON object. It is public, and whoever uses the node checks it."""
    size = int.from_bytes(read_exactly(port, 4), "big")
    if size > MAX_HOST_INPUTS:
        raise ValueError("the host's inputs are too large")
    inputs: dict[str, Any] = json.loads(read_exactly(port, size))
    return inputs


def hand_over(port: int, node: int, limits: dict[str, int]) -> None:
    """Fresh staples after the inputs: one at a time, whole, and with a pause after each, into the node's pipe.

    On both it is a length and the bytes of a staple's file. Whether it is any good is for the node to see. What the
    host leaves unfinished when it hangs up is forgotten; after a length beyond the limit nothing more is read.
    """
    while True:
        try:
            head = read_exactly(port, 4)
            if int.from_bytes(head, "big") > limits["bytes"]:
                return
            staple = head + read_exactly(port, int.from_bytes(head, "big"))
        except OSError:
            staple = b""
        while staple:
            staple = staple[os.write(node, staple) :]
        time.sleep(limits["pause_s"])


def read_exactly(port: int, size: int) -> bytes:
    """So many bytes of a port."""
    data = b""
    while len(data) < size:
        piece = os.read(port, size - len(data))
        if not piece:
            raise OSError("what the host hands over is cut off")
        data += piece
    return data


def become_node(policy: dict[str, Any], platform: socket.socket | None, fresh: int) -> None:
    """In the child: give up being root, and become the node."""
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.setsid()
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    os.setgroups([])
    os.setresgid(policy["user"], policy["user"], policy["user"])
    os.setresuid(policy["user"], policy["user"], policy["user"])
    given = {
        "model": policy["model"],
        "staple": STAPLE,
        "address": "0.0.0.0",
        "port": policy["network"]["port"],
        "collateral": COLLATERAL,
        "gpu_collateral": "",
        "metrics_port": policy["network"]["metrics_port"],
    }
    environment = {"LC_ALL": "C", "CLOISTER_HOST_INPUTS": json.dumps(given)}
    if platform is not None:
        os.set_inheritable(platform.fileno(), True)
        environment["CLOISTER_PLATFORM_FD"] = str(platform.fileno())
    if policy["staples"]["bytes"]:
        os.set_inheritable(fresh, True)
        environment["CLOISTER_STAPLE_FD"] = str(fresh)
    with open("/start.json", "rb") as file:
        command = [word.replace("{root}", "") for word in json.load(file)]
    os.execve(command[0], [*command, policy["node"]], environment)


def carry(node: socket.socket, port: int) -> None:
    """Bytes between the node's socket and a port, both ways, each in a thread of its own."""

    def out() -> None:
        while data := node.recv(65536):
            while data:
                data = data[os.write(port, data) :]

    def back() -> None:
        while data := os.read(port, 65536):
            node.sendall(data)

    for way in (out, back):
        threading.Thread(target=way, daemon=True).start()


def tell(words: str) -> None:
    """Say something on the console, if the kernel has one: else there is no such stream at all."""
    if sys.stderr is not None:
        sys.stderr.write(f"init: {words}\n")
        sys.stderr.flush()


if __name__ == "__main__":
    try:
        status = main()
        tell(f"the node ended with status {status}")
    except BaseException as error:
        tell(f"{type(error).__name__}: {error}")
    os.sync()
    ctypes.CDLL(None).reboot(_POWER_OFF)
