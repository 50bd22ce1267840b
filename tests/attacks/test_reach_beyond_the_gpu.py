"""Attempts of a sealed process that computes on a GPU to use its device files for more, or to reach other devices.

The profile is the one of a node with `decoder = {"kernels": "cuda"}`; only the device files are others, since no GPU is
needed to show what the kernel lets through: /dev/zero, which can be mapped, and a terminal, which answers requests.
What stands in the terminal's place answers ENOTTY to a request it does not know: that request came through.
"""

import errno
import os
import pty
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from enclave_runtime.wiped_memory import SETTINGS

REPOSITORY = Path(__file__).resolve().parent.parent.parent

PREAMBLE = """
import ctypes, errno, fcntl, mmap, os, sys, termios
report, terminal, other = int(sys.argv[1]), sys.argv[2], sys.argv[3]
sys.path.insert(0, sys.argv[4])
from pathlib import Path
from enclave_runtime.gpu_access import REQUESTS, GpuAccess
from enclave_runtime.seal import Piece, confine, seal
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
LOCK = (Piece.MEMORY_LOCKED,)
gpu = GpuAccess((Path("/dev/zero"), Path(terminal)))
read = [Path(path) for path in (sys.prefix, sys.base_prefix, "/usr", "/lib", "/lib64", "/dev/urandom")]
def ask(descriptor, request):
    fcntl.ioctl(descriptor, request, bytes(256))
def mapped(descriptor, protection):
    at = libc.mmap(None, ctypes.c_size_t(4096), protection, 1, descriptor, ctypes.c_long(0))
    if at == ctypes.c_void_p(-1).value: raise OSError(ctypes.get_errno(), "")
    return at
"""

CONFINE = """
confined = confine(read=read, bind_ports=(0,), keep_descriptors=(report,), tolerate=LOCK, gpu=gpu)
"""

OPEN = """
zero, tty = os.open("/dev/zero", os.O_RDWR), os.open(terminal, os.O_RDWR | os.O_NOCTTY)
"""

SEAL = """
seal(confined, keep_streams=(report,), tolerate=LOCK, gpu=gpu)
"""

ATTEMPT = """
def attempt():
<body>
try:
    attempt()
    outcome = "succeeded"
except OSError as error:
    outcome = errno.errorcode.get(error.errno, str(error.errno))
os.write(report, f"<name>: {outcome}\\n".encode())
"""


@dataclass(frozen=True)
class Layers:
    """What stands between a process and its attempt."""

    confined: bool
    sealed: bool


def outcomes(attempts: dict[str, str], layers: Layers) -> dict[str, str]:
    """Make ``attempts`` in one child process and collect what became of each."""
    source = PREAMBLE + (CONFINE if layers.confined else "") + OPEN + (SEAL if layers.sealed else "")
    for name, body in attempts.items():
        indented = textwrap.indent(textwrap.dedent(body), "    ")
        source += ATTEMPT.replace("<body>", indented).replace("<name>", name)
    read_end, write_end = os.pipe()
    _, ours = pty.openpty()
    _, others = pty.openpty()
    arguments = [str(write_end), os.ttyname(ours), os.ttyname(others), str(REPOSITORY)]
    command = [sys.executable, "-B", "-c", source, *arguments]
    with open(read_end, "rb") as reports:
        done = subprocess.run(
            command,
            pass_fds=(write_end,),
            capture_output=True,
            timeout=60,
            check=False,
            env={**os.environ, **SETTINGS},
        )
        os.close(write_end)
        assert (done.returncode, done.stderr) == (0, b"")
        return dict(line.split(": ", 1) for line in reports.read().decode().splitlines())


BEHIND_THE_SEAL = {
    "make a request of another family": "ask(tty, termios.TIOCGWINSZ)",
    "push a character into a terminal": "fcntl.ioctl(tty, termios.TCFLSH, 2)",
    "open another device file": "os.open(other, os.O_RDWR | os.O_NOCTTY)",
    "open the device file again": "os.open('/dev/zero', os.O_RDWR)",
    "map a device file as code": "mapped(zero, mmap.PROT_READ | mmap.PROT_EXEC)",
    "map a device file as code that can be written": "mapped(zero, 7)",
    "make a mapped device file executable": """
        at = mapped(zero, mmap.PROT_READ | mmap.PROT_WRITE)
        if libc.mprotect(ctypes.c_void_p(at), ctypes.c_size_t(4096), 5): raise OSError(ctypes.get_errno(), "")
    """,
}

BEFORE_THE_SEAL = {
    "open another device file": "os.open(other, os.O_RDWR | os.O_NOCTTY)",
    "control a device that may only be read": "ask(os.open('/dev/urandom', os.O_RDONLY), 0x8004_5200)",
    "make a device file": "os.mkfifo('/dev/shm/cloister-attempt')",
}

SEALED, CONFINED, NEITHER = Layers(True, True), Layers(True, False), Layers(False, False)


@pytest.fixture(scope="module")
def sealed() -> dict[str, str]:
    return outcomes(BEHIND_THE_SEAL, SEALED)


@pytest.fixture(scope="module")
def unsealed() -> dict[str, str]:
    return outcomes(BEHIND_THE_SEAL, NEITHER)


@pytest.mark.parametrize("name", BEHIND_THE_SEAL)
def test_the_process_is_refused_when_it_tries_to(name, sealed):
    assert sealed[name] == errno.errorcode[errno.EPERM]


@pytest.mark.parametrize("name", BEHIND_THE_SEAL)
def test_control_without_the_seal_it_may(name, unsealed):
    assert unsealed[name] == "succeeded"


@pytest.mark.parametrize("name", BEFORE_THE_SEAL)
def test_the_first_layer_holds_alone_against_an_attempt_to(name):
    assert outcomes({name: BEFORE_THE_SEAL[name]}, CONFINED)[name] == errno.errorcode[errno.EACCES]


@pytest.mark.parametrize("name", BEFORE_THE_SEAL)
def test_control_without_the_first_layer_it_may(name):
    try:
        assert outcomes({name: BEFORE_THE_SEAL[name]}, NEITHER)[name] == "succeeded"
    finally:
        Path("/dev/shm/cloister-attempt").unlink(missing_ok=True)


WORK = {
    "control its device before the seal": (CONFINED, "ask(tty, termios.TIOCGWINSZ)", "succeeded"),
    "make a driver's request": (SEALED, "ask(tty, REQUESTS['NV_ESC_RM_CONTROL'])", "ENOTTY"),
    "make a request of managed memory": (SEALED, "ask(tty, REQUESTS['UVM_FREE'])", "ENOTTY"),
    "map a device file for data": (
        SEALED,
        "at = mapped(zero, mmap.PROT_READ | mmap.PROT_WRITE)\nctypes.c_char.from_address(at).value = b'x'",
        "succeeded",
    ),
}


@pytest.mark.parametrize("name", WORK)
def test_its_work_is_not_in_the_way(name):
    """What a GPU's driver needs comes through: a seal that refuses everything would pass the tests above."""
    layers, body, expected = WORK[name]
    assert outcomes({name: body}, layers)[name] == expected
