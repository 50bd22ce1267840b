"""The seal: what a node gives up before it listens, and proof that it is gone.

It closes in two steps, because Landlock binds one thread and the model needs several:

1. :func:`confine`, first thing in the process: Landlock, no new privileges, no capabilities, no core file,
   not dumpable, no memory that becomes executable, no inherited descriptors and no environment.
2. :func:`seal`, last thing before listening: seccomp for all threads, no file may grow, standard streams to
   ``/dev/null``, no tracebacks and no logging.

Each piece is a row of the :class:`SealReport`. A piece that the kernel lacks ends the node, unless the
measured configuration names it as tolerated; the row then says so. After the filter is in force
:func:`seal` tries a few forbidden calls itself, and a seal that does not hold when tried ends the node.
"""

import ctypes
import enum
import faulthandler
import fcntl
import logging
import mmap
import os
import resource
import socket
import stat
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from enclave_runtime import kernel_calls, landlock, seccomp
from enclave_runtime.errors import ConfinementError
from enclave_runtime.exit_codes import ExitCode
from enclave_runtime.syscalls import ARCHITECTURES


class Piece(enum.StrEnum):
    """One thing that the seal takes away; the value is the row's stable id and the name a configuration
    tolerates.
    """

    LANDLOCK_FILES = "landlock.files"
    LANDLOCK_NETWORK = "landlock.network"
    LANDLOCK_SCOPE = "landlock.scope"
    NO_NEW_PRIVILEGES = "no_new_privileges"
    CAPABILITIES = "capabilities"
    NO_CORE_FILE = "no_core_file"
    NOT_DUMPABLE = "not_dumpable"
    NO_EXECUTABLE_GAIN = "memory.no_executable_gain"
    DESCRIPTORS = "descriptors"
    ENVIRONMENT = "environment"
    NO_FILE_GROWTH = "no_file_growth"
    SECCOMP = "seccomp"
    STREAMS = "streams"
    SILENCE = "silence"


#: Pieces that depend on the kernel, and that a configuration may therefore tolerate missing.
TOLERABLE = frozenset(
    {Piece.LANDLOCK_FILES, Piece.LANDLOCK_NETWORK, Piece.LANDLOCK_SCOPE, Piece.NO_EXECUTABLE_GAIN}
)


#: The most descriptors a node may hold: room for some four thousand connections.
DESCRIPTOR_LIMIT = 4096


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
    bind_port: int,
    keep_descriptors: Collection[int] = (),
    tolerate: Collection[Piece] = (),
) -> SealReport:
    """Step 1, before any thread exists: leave only reading beneath ``read`` and binding ``bind_port``.

    ``keep_descriptors`` are inherited file descriptors to keep besides 0, 1 and 2; all others are closed.
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
    locked = landlock.restrict(read=read, read_write_files=(Path(os.devnull),), bind_ports=(bind_port,))
    version = f"Landlock {locked.abi}"
    rows.check(
        Piece.LANDLOCK_FILES, locked.file_system, f"{version}: read beneath {len(read)} paths, write nothing"
    )
    rows.check(Piece.LANDLOCK_NETWORK, locked.network, f"{version}: bind port {bind_port}, connect nowhere")
    rows.check(
        Piece.LANDLOCK_SCOPE, locked.scope, f"{version}: no signal and no abstract socket to the outside"
    )
    _drop_capabilities()
    rows.add(Piece.CAPABILITIES, "no capability permitted, effective, inheritable or ambient")
    return SealReport(tuple(rows.rows))


def seal(
    confined: SealReport, *, keep_streams: Collection[int] = (), tolerate: Collection[Piece] = ()
) -> SealReport:
    """Step 2, with every thread running that will ever run: close the rest, try the seal, and report all
    pieces.

    ``keep_streams`` are pipes or terminals that stay open besides the standard streams, which always go.
    Raises ConfinementError when a file is open for writing, when a piece is missing, or when a forbidden
    call succeeds.
    """
    architecture = kernel_calls.machine()
    if architecture not in ARCHITECTURES:
        raise ConfinementError("architecture", f"no filter for {architecture}", ExitCode.KERNEL)
    rows = _Rows(tolerate, confined.rows)
    _refuse_open_doors(set(keep_streams))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    rows.add(Piece.NO_FILE_GROWTH, "RLIMIT_FSIZE 0, no regular file open for writing")
    _silence()
    rows.add(Piece.SILENCE, "tracebacks, fault reports, warnings and logging off")
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for stream in (0, 1, 2):
        os.dup2(null, stream, inheritable=False)
    os.close(null)
    rows.add(Piece.STREAMS, "0, 1 and 2 are /dev/null")
    program = seccomp.assemble(seccomp.policy(os.getpid()), architecture)
    seccomp.install(program)
    _try_the_seal()
    rows.add(
        Piece.SECCOMP,
        f"{len(program) // 8} instructions on {threading.active_count()} or more threads, tried",
    )
    return SealReport(tuple(rows.rows))


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
            self.rows.append(SealRow(piece, State.MISSING, "the kernel does not offer it"))
        else:
            raise ConfinementError("piece_missing", f"{piece}: the kernel does not offer it", ExitCode.KERNEL)


def _refuse_executable_gain() -> bool:
    try:
        kernel_calls.prctl(kernel_calls.PR_SET_MDWE, kernel_calls.PR_MDWE_REFUSE_EXEC_GAIN)
        return kernel_calls.prctl(kernel_calls.PR_GET_MDWE) & kernel_calls.PR_MDWE_REFUSE_EXEC_GAIN != 0
    except OSError:
        return False


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def _drop_capabilities() -> None:
    kernel_calls.prctl(kernel_calls.PR_CAP_AMBIENT, kernel_calls.PR_CAP_AMBIENT_CLEAR_ALL)
    header = _CapabilityHeader(version=0x2008_0522, pid=0)  # _LINUX_CAPABILITY_VERSION_3: two 32-bit triples
    none = (ctypes.c_uint32 * 6)()
    kernel_calls.syscall(
        kernel_calls.SYS_CAPSET[kernel_calls.machine()],
        kernel_calls.pointer(header),
        kernel_calls.pointer(none),
    )


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


def _refuse_open_doors(kept: Collection[int]) -> None:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    for descriptor in _open_descriptors(range(limit)):
        if descriptor in {0, 1, 2} or descriptor in kept:
            continue
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISFIFO(mode):
            raise ConfinementError("descriptor", f"descriptor {descriptor} is a pipe that leads out")
        if stat.S_ISREG(mode) or stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
            flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
            if flags & os.O_ACCMODE != os.O_RDONLY:
                raise ConfinementError("descriptor", f"descriptor {descriptor} is open for writing")


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
    _must_be_refused("memfd", lambda: os.close(os.memfd_create("x")))
    _must_be_refused(
        "executable memory",
        lambda: mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_EXEC).close(),
    )


def _must_be_refused(what: str, attempt: Callable[[], object]) -> None:
    try:
        attempt()
    except OSError:
        return
    raise ConfinementError("seal_open", f"{what} succeeded behind the seal")
