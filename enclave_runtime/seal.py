"""The seal: what a node gives up before it listens, and proof that it is gone.

It closes in two steps, because Landlock binds one thread and the model needs several:

1. :func:`confine`, first thing in the process: Landlock, no new privileges, no capabilities, no core file,
   not dumpable, memory that is wiped when freed, stays out of swap and never becomes executable, no inherited
   descriptors and no environment. The device files of GPUs may be opened after that, where the measured
   configuration computes on them, and no other device.
2. :func:`seal`, last thing before listening: seccomp for all threads, every descriptor accounted for, no file may
   grow, standard streams to ``/dev/null``, no tracebacks, no logging, no imports.

Each piece is a row of the :class:`SealReport`. A piece that the kernel lacks ends the node, unless the
measured configuration names it as tolerated; the row then says so. After the filter is in force
:func:`seal` tries a few forbidden calls itself, and a seal that does not hold when tried ends the node.
"""

import ctypes
import enum
import errno
import faulthandler
import fcntl
import logging
import mmap
import os
import resource
import socket
import stat
import sys
import termios
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import Struct

from enclave_runtime import closed_interpreter, kernel_calls, landlock, seccomp, wiped_memory
from enclave_runtime.errors import ConfinementError
from enclave_runtime.exit_codes import ExitCode
from enclave_runtime.gpu_access import REQUESTS, GpuAccess
from enclave_runtime.syscalls import ARCHITECTURES


class Piece(enum.StrEnum):
    """One thing that the seal takes away; the value is the row's stable id and the name a configuration
    tolerates.
    """

    LANDLOCK_FILES = "landlock.files"
    LANDLOCK_DEVICES = "landlock.devices"
    LANDLOCK_NETWORK = "landlock.network"
    LANDLOCK_SCOPE = "landlock.scope"
    NO_NEW_PRIVILEGES = "no_new_privileges"
    CAPABILITIES = "capabilities"
    NO_CORE_FILE = "no_core_file"
    NOT_DUMPABLE = "not_dumpable"
    NO_EXECUTABLE_GAIN = "memory.no_executable_gain"
    MEMORY_WIPED = "memory.wiped_on_free"
    MEMORY_LOCKED = "memory.locked"
    DESCRIPTORS = "descriptors"
    ENVIRONMENT = "environment"
    DESCRIPTORS_AUDITED = "descriptors.audited"
    NO_FILE_GROWTH = "no_file_growth"
    SECCOMP = "seccomp"
    STREAMS = "streams"
    SILENCE = "silence"
    INTERPRETER_CLOSED = "interpreter.closed"


#: Pieces that depend on the kernel, on its limits or on the C library, and that a configuration may therefore
#: tolerate missing.
TOLERABLE = frozenset(
    {
        *(Piece.LANDLOCK_FILES, Piece.LANDLOCK_DEVICES, Piece.LANDLOCK_NETWORK, Piece.LANDLOCK_SCOPE),
        *(Piece.NO_EXECUTABLE_GAIN, Piece.MEMORY_WIPED, Piece.MEMORY_LOCKED),
    }
)


#: The most descriptors a node may hold: room for some four thousand connections.
DESCRIPTOR_LIMIT = 4096


_PEER = Struct("iII")
"""``struct ucred``: process, user and group of a Unix socket's other end."""


class State(enum.StrEnum):
    """Whether a piece is in force."""

    IN_FORCE = "in force"
    MISSING = "missing, tolerated"


@dataclass(frozen=True, slots=True)
class SealRow:
    """One piece, its state, and what exactly was done."""

    piece: Piece
    state: State
    detail: str


@dataclass(frozen=True, slots=True)
class SealReport:
    """Every piece in the order in which it was put in force."""

    rows: tuple[SealRow, ...]

    def as_json(self) -> list[dict[str, str]]:
        """The rows as plain values for a JSON document."""
        return [{"piece": r.piece, "state": r.state, "detail": r.detail} for r in self.rows]


def confine(
    *,
    read: Sequence[Path],
    bind_ports: Sequence[int],
    keep_descriptors: Collection[int] = (),
    tolerate: Collection[Piece] = (),
    gpu: GpuAccess | None = None,
) -> SealReport:
    """Step 1, before any thread exists: leave only reading beneath ``read`` and binding ``bind_ports``.

    ``keep_descriptors`` are inherited file descriptors to keep besides 0, 1 and 2; all others are closed. Where there
    is a ``gpu``, its device files may be opened and controlled too; the piece ``landlock.devices`` says so.
    Raises ConfinementError when a piece is missing that ``tolerate`` does not name.
    """
    rows = _Rows(tolerate)
    closed = _close_descriptors_except({0, 1, 2, *keep_descriptors})
    _limit_descriptors()
    rows.add(Piece.DESCRIPTORS, f"{closed} inherited descriptors closed, at most {DESCRIPTOR_LIMIT} open")
    names = len(os.environ)
    os.environ.clear()
    rows.add(Piece.ENVIRONMENT, f"{names} variables removed")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    rows.add(Piece.NO_CORE_FILE, "RLIMIT_CORE 0")
    kernel_calls.prctl(kernel_calls.PR_SET_DUMPABLE, 0)
    rows.check(Piece.NOT_DUMPABLE, kernel_calls.prctl(kernel_calls.PR_GET_DUMPABLE) == 0, "PR_SET_DUMPABLE 0")
    kernel_calls.prctl(kernel_calls.PR_SET_NO_NEW_PRIVS, 1)
    held = kernel_calls.prctl(kernel_calls.PR_GET_NO_NEW_PRIVS) == 1
    rows.check(Piece.NO_NEW_PRIVILEGES, held, "PR_SET_NO_NEW_PRIVS")
    rows.check(Piece.NO_EXECUTABLE_GAIN, _refuse_executable_gain(), "PR_SET_MDWE")
    wiped = wiped_memory.freed_memory_is_wiped()
    rows.check(Piece.MEMORY_WIPED, wiped, "the allocator overwrites every block it gets back, tried")
    rows.check(Piece.MEMORY_LOCKED, _lock_memory(), "mlockall: present and future pages stay out of swap")
    locked = landlock.restrict(
        read=(*read, *(gpu.facts if gpu else ())),
        read_write_files=(Path(os.devnull),),
        device_files=gpu.files if gpu else (),
        bind_ports=tuple(bind_ports),
    )
    version = f"Landlock {locked.abi}"
    rows.check(
        Piece.LANDLOCK_FILES, locked.file_system, f"{version}: read beneath {len(read)} paths, write nothing"
    )
    if gpu:
        opened = f"{version}: besides, open and control {_devices(gpu)}, and control no other device"
        rows.check(Piece.LANDLOCK_DEVICES, locked.device_control, opened)
    rows.check(
        Piece.LANDLOCK_NETWORK, locked.network, f"{version}: bind {_ports(bind_ports)}, connect nowhere"
    )
    rows.check(
        Piece.LANDLOCK_SCOPE, locked.scope, f"{version}: no signal and no abstract socket to the outside"
    )
    _drop_capabilities()
    rows.add(
        Piece.CAPABILITIES, "no capability permitted, effective, inheritable, ambient or in the bounding set"
    )
    return SealReport(tuple(rows.rows))


def seal(
    confined: SealReport,
    *,
    keep_streams: Collection[int] = (),
    tolerate: Collection[Piece] = (),
    gpu: GpuAccess | None = None,
) -> SealReport:
    """Step 2, with every thread running that will ever run: close the rest, try the seal, and report all
    pieces.

    ``keep_streams`` are the pipes, terminals and connected sockets that stay open besides the standard streams,
    which always go; listening sockets and pairs within this process may stay. Where there is a ``gpu``, its device
    files and pipes with both ends here may stay too, and `gpu_access.REQUESTS` may be made.

    Raises ConfinementError when anything else is open that leads out, when a piece is missing, or when a forbidden call
    succeeds.
    """
    architecture = kernel_calls.machine()
    if architecture not in ARCHITECTURES:
        raise ConfinementError("architecture", f"no filter for {architecture}", ExitCode.KERNEL)
    rows = _Rows(tolerate, confined.rows)
    # A process that was forked since has inherited all of the confinement but this.
    held = {row.piece for row in confined.rows if row.state is State.IN_FORCE}
    if Piece.MEMORY_LOCKED in held and not _lock_memory():
        raise ConfinementError("piece_missing", f"{Piece.MEMORY_LOCKED}: not again", ExitCode.KERNEL)
    rows.add(Piece.DESCRIPTORS_AUDITED, _refuse_open_doors(set(keep_streams), gpu))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    rows.add(Piece.NO_FILE_GROWTH, "RLIMIT_FSIZE 0, no regular file open for writing")
    _silence()
    rows.add(Piece.SILENCE, "tracebacks, fault reports, warnings and logging off")
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for stream in (0, 1, 2):
        os.dup2(null, stream, inheritable=False)
    os.close(null)
    rows.add(Piece.STREAMS, "0, 1 and 2 are /dev/null")
    closed_interpreter.close()
    rows.add(
        Piece.INTERPRETER_CLOSED,
        f"no import, no library; {len(closed_interpreter.REFUSED_EVENTS)} audit events refused",
    )
    requests = tuple(REQUESTS.values()) if gpu else ()
    program = seccomp.assemble(seccomp.policy(os.getpid(), requests), architecture)
    seccomp.install(program)
    _try_the_seal()
    left = f", {len(requests)} requests to the GPU's driver left" if gpu else ""
    rows.add(
        Piece.SECCOMP,
        f"{len(program) // 8} instructions on {threading.active_count()} or more threads, tried{left}",
    )
    return SealReport(tuple(rows.rows))


def _devices(gpu: GpuAccess) -> str:
    absent = [str(file) for file in gpu.files if not file.exists()]
    return " ".join(map(str, gpu.files)) + (f" (not here: {' '.join(absent)})" if absent else "")


def _ports(ports: Sequence[int]) -> str:
    return "port " + " and ".join(str(port) if port else "any free one" for port in sorted(set(ports)))


class _Rows:
    def __init__(self, tolerate: Collection[Piece], rows: Sequence[SealRow] = ()) -> None:
        self.rows = list(rows)
        self._tolerate = frozenset(tolerate) & TOLERABLE

    def add(self, piece: Piece, detail: str) -> None:
        self.rows.append(SealRow(piece, State.IN_FORCE, detail))

    def check(self, piece: Piece, in_force: bool, detail: str) -> None:
        if in_force:
            self.add(piece, detail)
        elif piece in self._tolerate:
            self.rows.append(SealRow(piece, State.MISSING, "not offered here"))
        else:
            raise ConfinementError("piece_missing", f"{piece}: not offered here", ExitCode.KERNEL)


def _refuse_executable_gain() -> bool:
    try:
        kernel_calls.prctl(kernel_calls.PR_SET_MDWE, kernel_calls.PR_MDWE_REFUSE_EXEC_GAIN)
        return kernel_calls.prctl(kernel_calls.PR_GET_MDWE) & kernel_calls.PR_MDWE_REFUSE_EXEC_GAIN != 0
    except OSError:
        return False


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def _lock_memory() -> bool:
    """Lock present and future pages as they are touched, where no limit could stand in the way later on."""
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        kernel_calls.mlockall(kernel_calls.MCL_CURRENT | kernel_calls.MCL_FUTURE | kernel_calls.MCL_ONFAULT)
    except (OSError, ValueError):
        return False
    return True


def _drop_capabilities() -> None:
    _empty_bounding_set()
    kernel_calls.prctl(kernel_calls.PR_CAP_AMBIENT, kernel_calls.PR_CAP_AMBIENT_CLEAR_ALL)
    header = _CapabilityHeader(version=0x2008_0522, pid=0)  # _LINUX_CAPABILITY_VERSION_3: two 32-bit triples
    none = (ctypes.c_uint32 * 6)()
    kernel_calls.syscall(
        kernel_calls.SYS_CAPSET[kernel_calls.machine()],
        kernel_calls.pointer(header),
        kernel_calls.pointer(none),
    )


def _empty_bounding_set() -> None:
    """Where the process may: whoever has no CAP_SETPCAP has no capability to regain either."""
    for capability in range(64):
        try:
            kernel_calls.prctl(kernel_calls.PR_CAPBSET_DROP, capability)
        except OSError:
            return


def _open_descriptors(candidates: Iterable[int]) -> Iterator[int]:
    for descriptor in candidates:
        try:
            os.fstat(descriptor)
        except OSError:
            continue
        yield descriptor


def _close_descriptors_except(kept: Collection[int]) -> int:
    listed = [int(name) for name in os.listdir("/proc/self/fd")]
    surplus = [descriptor for descriptor in _open_descriptors(listed) if descriptor not in kept]
    for descriptor in surplus:
        os.close(descriptor)
    return len(surplus)


def _limit_descriptors() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = DESCRIPTOR_LIMIT if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTOR_LIMIT)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))


def _refuse_open_doors(kept: Collection[int], gpu: GpuAccess | None) -> str:
    """Look at every open descriptor; what is there, in words."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    found: Counter[str] = Counter()
    looked_at = [descriptor for descriptor in _open_descriptors(range(limit)) if descriptor not in {0, 1, 2}]
    devices = {os.stat(file).st_rdev for file in gpu.files if file.exists()} if gpu else set()
    inner = _pipes_within(looked_at) if gpu else frozenset()
    for descriptor in looked_at:
        if descriptor in kept:
            found["named by the node"] += 1
            continue
        status = os.fstat(descriptor)
        mode = status.st_mode
        if stat.S_ISCHR(mode) and status.st_rdev in devices:
            found["of the GPU's driver"] += 1
        elif stat.S_ISFIFO(mode) and descriptor in inner:
            found["pipe within the process"] += 1
        elif stat.S_ISFIFO(mode):
            raise ConfinementError("descriptor", f"descriptor {descriptor} is a pipe that leads out")
        elif stat.S_ISSOCK(mode):
            found[_harmless_socket(descriptor)] += 1
        elif stat.S_ISREG(mode) or stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
            flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
            if flags & os.O_ACCMODE != os.O_RDONLY:
                raise ConfinementError("descriptor", f"descriptor {descriptor} is open for writing")
            found["only readable"] += 1
        elif stat.S_ISDIR(mode):
            raise ConfinementError("descriptor", f"descriptor {descriptor} is a folder")
        else:
            found["of the event loop"] += 1
    return ", ".join(f"{count} {kind}" for kind, count in sorted(found.items())) or "none besides the streams"


def _pipes_within(descriptors: Iterable[int]) -> frozenset[int]:
    """Pipes of which both ends are open here. The process has closed what it inherited and started nothing that holds
    one since, so nobody else is at either end.
    """
    ends: dict[int, dict[int, int]] = {}
    for descriptor in descriptors:
        status = os.fstat(descriptor)
        if stat.S_ISFIFO(status.st_mode):
            side = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
            ends.setdefault(status.st_ino, {})[descriptor] = side
    whole = (sides for sides in ends.values() if {os.O_RDONLY, os.O_WRONLY} <= set(sides.values()))
    return frozenset(descriptor for sides in whole for descriptor in sides)


def _harmless_socket(descriptor: int) -> str:
    """What kind of socket that may stay it is. Raises ConfinementError for one that leads elsewhere."""
    with socket.socket(fileno=os.dup(descriptor)) as end:
        if end.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return "listening"
        if end.family == socket.AF_UNIX:
            peer = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
            if _PEER.unpack(peer)[0] == os.getpid():
                return "within the process"
    raise ConfinementError("descriptor", f"descriptor {descriptor} is a socket that leads out")


def _silence() -> None:
    faulthandler.disable()
    logging.disable(logging.CRITICAL)
    logging.raiseExceptions = False
    sys.tracebacklimit = 0
    sys.excepthook = lambda *_: None
    sys.unraisablehook = lambda *_: None
    threading.excepthook = lambda *_: None


def _try_the_seal() -> None:
    _must_be_refused("open", lambda: os.close(os.open("/", os.O_RDONLY)))
    _must_be_refused("socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).close())
    _must_be_refused("device control", _control_a_device)
    _must_be_refused("memfd", lambda: os.close(os.memfd_create("x")))
    _must_be_refused(
        "executable memory",
        lambda: mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_EXEC).close(),
    )


def _control_a_device() -> None:
    try:
        fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8))
    except OSError as error:
        if error.errno == errno.EPERM:
            raise
        # Otherwise the request got to the device, which knows nothing of it.


def _must_be_refused(what: str, attempt: Callable[[], object]) -> None:
    try:
        attempt()
    except OSError:
        return
    raise ConfinementError("seal_open", f"{what} succeeded behind the seal")
