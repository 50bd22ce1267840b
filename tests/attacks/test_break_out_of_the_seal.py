"""Attempts, made by a real sealed process, to run, reach, read, write or map what the seal takes away.

Each attempt is also made by the same process without the seal, where it must succeed: a refusal proves
something only where the attempt works.
"""

import errno
import os
import signal
import socket
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from enclave_runtime.wiped_memory import SETTINGS

REPOSITORY = Path(__file__).resolve().parent.parent.parent

PREAMBLE = """
import ctypes, gc, mmap, os, resource, signal, socket, struct, sys, threading, time
report, scratch, target = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
sys.path.insert(0, sys.argv[4])
from pathlib import Path
from enclave_runtime import kernel_calls
libc = ctypes.CDLL(None, use_errno=True)
existing = os.open(os.path.join(scratch, "readable"), os.O_RDONLY)
"""

CLOSE = "seal(confined, keep_streams=(report,), tolerate=(Piece.MEMORY_LOCKED,))"
SEAL = """
from enclave_runtime.seal import Piece, confine, seal
confined = confine(
    read=[Path(p) for p in (sys.prefix, sys.base_prefix, "/usr", "/lib", "/lib64") ],
    bind_ports=(0,),
    keep_descriptors=(report,),
    tolerate=(Piece.MEMORY_LOCKED,),
)
seal(confined, keep_streams=(report,), tolerate=(Piece.MEMORY_LOCKED,))
"""

ATTEMPT = """
def attempt():
<body>
try:
    attempt()
    outcome = "succeeded"
except OSError as error:
    outcome = f"errno {error.errno}"
except BaseException as error:
    outcome = type(error).__name__
os.write(report, f"<name>: {outcome}\\n".encode())
"""


@dataclass(frozen=True)
class Result:
    outcomes: dict[str, str]
    status: int
    streams: bytes
    files: list[str]


def run(attempts: dict[str, str], folder: Path, *, sealed: bool) -> Result:
    """Make ``attempts`` one after another in one child process and collect what became of each."""
    (folder / "readable").write_text("content")
    source = PREAMBLE + (SEAL if sealed else "") + 'print("printed", flush=True)'
    for name, body in attempts.items():
        indented = textwrap.indent(textwrap.dedent(body), "    ")
        source += ATTEMPT.replace("<body>", indented).replace("<name>", name)
    read_end, write_end = os.pipe()
    with socket.create_server(("127.0.0.1", 0)) as target, open(read_end, "rb") as reports:
        arguments = [str(write_end), str(folder), str(target.getsockname()[1]), str(REPOSITORY)]
        done = subprocess.run(
            [sys.executable, "-B", "-c", source, *arguments],
            pass_fds=(write_end,),
            capture_output=True,
            timeout=60,
            check=False,
            env={**os.environ, **SETTINGS},
        )
        os.close(write_end)
        outcomes = dict(line.split(": ", 1) for line in reports.read().decode().splitlines())
    files = sorted(path.name for path in folder.iterdir())
    return Result(outcomes, done.returncode, done.stdout + done.stderr, files)


KILLED = {
    "execute a program": 'os.execv("/bin/true", ["true"])',
    "fork": "pid = os.fork()\nif pid == 0: os._exit(0)\nos.waitpid(pid, 0)",
    "start a subprocess": 'os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)',
    "trace itself": """
        if libc.ptrace(0, 0, 0, 0) == -1: raise OSError(ctypes.get_errno(), "")
    """,
    "read another process's memory": """
        child = os.getppid()
        buffer = ctypes.create_string_buffer(8)
        iov = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 8)
        if libc.process_vm_readv(os.getpid(), iov, 1, iov, 1, 0) == -1: raise OSError(ctypes.get_errno(), "")
    """,
    "mount": """
        if libc.mount(None, None, None, 0, None) == -1 and ctypes.get_errno() == 1: raise OSError(1, "")
    """,
    "load a module into the kernel": """
        number = 175 if kernel_calls.machine() == "x86_64" else 105
        if libc.syscall(number, 0, 0, 0) == -1 and ctypes.get_errno() == 1: raise OSError(1, "")
    """,
    "load a module from a file": """
        number = 313 if kernel_calls.machine() == "x86_64" else 273
        if libc.syscall(number, existing, 0, 0) == -1 and ctypes.get_errno() == 1: raise OSError(1, "")
    """,
    "load a program into the kernel": """
        number = 321 if kernel_calls.machine() == "x86_64" else 280
        if libc.syscall(number, 0, 0, 0) == -1 and ctypes.get_errno() == 1: raise OSError(1, "")
    """,
    "enter a namespace": """
        if libc.unshare(0) == -1: raise OSError(ctypes.get_errno(), "")
    """,
    "signal another process": "os.kill(os.getpid(), 0)",
    "set up io_uring": """
        parameters = ctypes.create_string_buffer(256)
        ring = libc.syscall(425, 1, parameters)
        if ring == -1 and ctypes.get_errno() == 1: raise OSError(1, "")
    """,
}

REFUSED = {
    "open a file": 'open(os.path.join(scratch, "readable")).close()',
    "open a file by raw call": """
        path = os.path.join(scratch, "readable").encode()
        if libc.syscall(437, -100, path, struct.pack("QQQ", 0, 0, 0), 24) == -1:
            raise OSError(ctypes.get_errno(), "")
    """,
    "read its own memory through proc": 'open("/proc/self/mem", "rb").close()',
    "list a folder": "os.listdir(scratch)",
    "write to disk": 'open(os.path.join(scratch, "leak"), "w").write("prompt")',
    "delete a file": 'os.unlink(os.path.join(scratch, "readable"))',
    "rename a file": 'os.rename(os.path.join(scratch, "leak"), os.path.join(scratch, "moved"))',
    "make a socket": "socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()",
    "connect out": 'socket.create_connection((b"127.0.0.1", target), timeout=2).close()',
    "send a datagram": """
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"prompt", (b"127.0.0.1", target))
    """,
    "make a pair of sockets": "socket.socketpair()",
    "make a pipe": "os.pipe()",
    "make an anonymous file": 'os.memfd_create("x")',
    "map executable memory": "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)",
    "map writable executable memory": """
        mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    """,
    "make written memory executable": """
        area = mmap.mmap(-1, 4096)
        address = ctypes.addressof(ctypes.c_char.from_buffer(area))
        if libc.mprotect(ctypes.c_void_p(address), 4096, 5) == -1: raise OSError(ctypes.get_errno(), "")
    """,
    "map a file as code": """
        libc.mmap.restype = ctypes.c_long
        if libc.mmap(None, 4096, 5, 2, existing, 0) == -1: raise OSError(ctypes.get_errno(), "")
    """,
    "load a shared object": 'ctypes.CDLL("libutil.so.1")',
    "start a thread": "threading.Thread(target=time.time).start()",
    "become dumpable": "kernel_calls.prctl(kernel_calls.PR_SET_DUMPABLE, 1)",
    "raise its file limit": "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))",
    "change folder": "os.chdir(scratch)",
    "import a module": "import xml.dom.minidom",
    "import a built-in module": "import _statistics, _symtable, xxsubtype",
    "run a string as code": "exec('x = 1')",
    "compile a string": "compile('x = 1', 's', 'exec')",
    "make a function of bytes": "attempt.__code__.replace(co_name='other')",
    "trace every function": "sys.settrace(lambda *_: None)",
    "look at every object": "gc.get_objects()",
    "listen to what the interpreter does": """
        heard = []
        sys.addaudithook(lambda event, _: heard.append(event))
        sys.audit("anything")
        if not heard: raise OSError(1, "")
    """,
}

#: What needs a right that only root has, so that only root can show that it works without the seal.
FOR_ROOT = {"load a module into the kernel", "load a module from a file", "load a program into the kernel"}


@pytest.mark.parametrize("name", KILLED)
def test_the_process_is_killed_when_it_tries_to(name, tmp_path):
    sealed = run({name: KILLED[name]}, tmp_path, sealed=True)
    assert sealed.status == -signal.SIGSYS
    assert sealed.outcomes == {}
    assert sealed.streams == b""


@pytest.mark.parametrize("name", KILLED)
def test_control_without_the_seal_it_can(name, tmp_path):
    if name in FOR_ROOT and os.geteuid() != 0:
        pytest.skip("only root could show that this works without the seal")
    control = run({name: KILLED[name]}, tmp_path, sealed=False)
    assert control.status == 0, control.streams
    assert control.outcomes == ({} if name == "execute a program" else {name: "succeeded"})


@pytest.fixture(scope="module")
def sealed(tmp_path_factory) -> Result:
    return run(REFUSED, tmp_path_factory.mktemp("sealed"), sealed=True)


@pytest.fixture(scope="module")
def unsealed(tmp_path_factory) -> Result:
    return run(REFUSED, tmp_path_factory.mktemp("unsealed"), sealed=False)


@pytest.mark.parametrize("name", REFUSED)
def test_the_process_is_refused_when_it_tries_to(name, sealed):
    assert sealed.outcomes[name] in REFUSALS


@pytest.mark.parametrize("name", REFUSED)
def test_control_without_the_seal_it_may(name, unsealed):
    assert unsealed.outcomes[name] == "succeeded"


def test_nothing_of_the_attempts_is_left_on_disk_or_on_a_stream(sealed, unsealed):
    assert (sealed.status, sealed.streams, sealed.files) == (0, b"", ["readable"])
    assert "moved" in unsealed.files
    assert b"printed" in unsealed.streams


#: How a refusal reaches a Python program: EPERM, or the exception that the library makes of it.
REFUSALS = {f"errno {errno.EPERM}", "RuntimeError", "ModuleNotFoundError", "ValueError", "errno None"}


THREAD = """
started, go, done = threading.Event(), threading.Event(), threading.Event()
tried = []
def run_elsewhere():
    started.set()
    go.wait()
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()
        tried.append("succeeded")
    except OSError as error:
        tried.append(f"errno {error.errno}")
    done.set()
elsewhere = threading.Thread(target=run_elsewhere, daemon=True)
"""


@pytest.mark.parametrize("sealed", [True, False])
def test_a_thread_that_ran_before_the_seal_is_sealed_too(sealed, tmp_path):
    (tmp_path / "readable").touch()
    start = "elsewhere.start()\nstarted.wait()\n"
    source = PREAMBLE + THREAD + (SEAL.replace(CLOSE, start + CLOSE) if sealed else start)
    source += "go.set()\ndone.wait()\nos.write(report, tried[0].encode())\n"
    assert _reported(source, tmp_path) == (f"errno {errno.EPERM}" if sealed else "succeeded")


LAYER_ONE = {
    "open a file outside": ('open(os.path.join(scratch, "readable")).close()', errno.EACCES),
    "write to disk": ('open(os.path.join(scratch, "leak"), "w").write("prompt")', errno.EACCES),
    "connect out": ('socket.create_connection((b"127.0.0.1", target), timeout=2).close()', errno.EACCES),
    "bind another port": (
        'socket.create_server((b"127.0.0.1", target + 1 if target < 65535 else 1024))',
        errno.EACCES,
    ),
    "execute a program": ('os.execv("/bin/true", ["true"])', errno.EACCES),
    "regain a capability": ("os.setgroups([1])", errno.EPERM),
    "make written memory executable": (
        "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)",
        errno.EACCES,
    ),
}


@pytest.mark.parametrize("name", LAYER_ONE)
def test_the_first_layer_holds_alone_against_an_attempt_to(name, tmp_path):
    body, expected = LAYER_ONE[name]
    (tmp_path / "readable").touch()
    confine_only = SEAL.replace(CLOSE, "")
    attempt = ATTEMPT.replace("<name>", name).replace("<body>", "    " + body)
    assert _reported(PREAMBLE + confine_only + attempt, tmp_path) == f"{name}: errno {expected}\n"


def _reported(source: str, folder: Path) -> str:
    read_end, write_end = os.pipe()
    with socket.create_server(("127.0.0.1", 0)) as target, open(read_end, "rb") as reports:
        arguments = [str(write_end), str(folder), str(target.getsockname()[1]), str(REPOSITORY)]
        command = [sys.executable, "-B", "-c", source, *arguments]
        environment = {**os.environ, **SETTINGS}
        subprocess.run(command, pass_fds=(write_end,), timeout=60, check=True, env=environment)
        os.close(write_end)
        return reports.read().decode()
