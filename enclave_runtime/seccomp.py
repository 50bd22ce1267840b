"""The seccomp filter of a sealed node: which system calls are left, as a classic BPF program of our own
assembly.

The policy is an allow-list. A call that a sealed node needs is allowed, where it matters only with harmless
arguments. Everything else is answered in one of two ways:

- ``EPERM`` by default. Libraries open files, create sockets and start threads lazily; the refusal reaches
  them as an ordinary error, and the node stays up.
- the process is killed for calls that no library makes by accident: running or forking a program, tracing,
  reaching into another process, mounting, loading code into the kernel. Whoever makes one has taken the
  process over, and what it holds is better gone.

``clone3`` gets ``ENOSYS``, because the filter cannot read its arguments in memory: the C library then falls
back to ``clone``, whose flags it can read. System call interface of ``linux/seccomp.h`` and
``linux/bpf_common.h``.
"""

import ctypes
import errno
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from enclave_runtime import kernel_calls
from enclave_runtime.errors import ConfinementError
from enclave_runtime.exit_codes import ExitCode
from enclave_runtime.syscalls import ARCHITECTURES, number

KILL_PROCESS = 0x8000_0000
ALLOW = 0x7FFF_0000
_RET_ERRNO = 0x0005_0000
EPERM = _RET_ERRNO | errno.EPERM
ENOSYS = _RET_ERRNO | errno.ENOSYS

_X32_BIT = 0x4000_0000
_PROT_EXEC = 4
_CLONE_THREAD = 0x0001_0000
_FIONBIO = 0x5421
_F_GETFD, _F_GETFL, _F_SETFL = 1, 3, 4
_SOL_SOCKET, _SO_REUSEADDR, _SO_KEEPALIVE = 1, 2, 9
_IPPROTO_TCP, _TCP_NODELAY = 6, 1


@dataclass(frozen=True, slots=True)
class OneOf:
    """The low 32 bits of argument ``index`` equal one of ``values`` (for arguments that the kernel takes as
    int).
    """

    index: int
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Clear:
    """No bit of ``mask`` is set in the low 32 bits of argument ``index``."""

    index: int
    mask: int


@dataclass(frozen=True, slots=True)
class AnySet:
    """At least one bit of ``mask`` is set in the low 32 bits of argument ``index``."""

    index: int
    mask: int


@dataclass(frozen=True, slots=True)
class Null:
    """All 64 bits of argument ``index`` are zero."""

    index: int


Condition = OneOf | Clear | AnySet | Null


@dataclass(frozen=True, slots=True)
class Rule:
    """Call ``name`` gets ``action`` when every condition holds; several rules for one call are tried in
    order.
    """

    name: str
    action: int
    conditions: tuple[Condition, ...] = ()


def policy(own_process_id: int, requests: Sequence[int] = ()) -> tuple[Rule, ...]:
    """The rules of a sealed node, most frequent calls first; a signal may go to ``own_process_id`` only.

    ``requests`` are ioctl requests that are left besides the one that sockets need: those of a GPU's driver.
    """
    no_execute = (Clear(2, _PROT_EXEC),)
    allowed = [
        *(Rule(name, ALLOW) for name in _FREE),
        Rule("sendto", ALLOW, (Null(4),)),
        *(Rule(name, ALLOW, no_execute) for name in ("mmap", "mprotect")),
        Rule("ioctl", ALLOW, (OneOf(1, (_FIONBIO, *requests)),)),
        Rule("fcntl", ALLOW, (OneOf(1, (_F_GETFD, _F_GETFL, _F_SETFL)),)),
        Rule("setsockopt", ALLOW, (OneOf(1, (_IPPROTO_TCP,)), OneOf(2, (_TCP_NODELAY,)))),
        Rule("setsockopt", ALLOW, (OneOf(1, (_SOL_SOCKET,)), OneOf(2, (_SO_REUSEADDR, _SO_KEEPALIVE)))),
        Rule("tgkill", ALLOW, (OneOf(0, (own_process_id,)),)),
    ]
    refused = [
        Rule("clone3", ENOSYS),
        Rule("clone", EPERM, (AnySet(0, _CLONE_THREAD),)),
        Rule("clone", KILL_PROCESS),
        *(Rule(name, KILL_PROCESS) for name in _FATAL),
    ]
    return (*allowed, *refused)


def describe() -> dict[str, object]:
    """The policy in words for a report: names of calls by what becomes of them."""
    rules = policy(0)
    return {
        "allowed": sorted({r.name for r in rules if r.action == ALLOW and not r.conditions}),
        "allowed_with_conditions": sorted({r.name for r in rules if r.action == ALLOW and r.conditions}),
        "killed": sorted({r.name for r in rules if r.action == KILL_PROCESS}),
        "default": "EPERM",
    }


def assemble(rules: Sequence[Rule], architecture: str, default: int = EPERM) -> bytes:
    """The BPF program for ``rules``: an array of ``struct sock_filter``, 8 bytes an instruction.

    A call from another instruction set, or (on x86-64) of the x32 interface, kills the process: its numbers
    would mean other calls. Raises KeyError for a call or an architecture that the tables do not know.
    """
    by_call: dict[int, list[Rule]] = {}
    for rule in rules:
        if (call := number(rule.name, architecture)) is not None:
            by_call.setdefault(call, []).append(rule)
    program = _Program()
    program.load(_OFFSET_ARCH)
    program.jump(_JEQ, ARCHITECTURES[architecture][0], then="native")
    program.give(KILL_PROCESS)
    program.label("native")
    program.load(_OFFSET_NR)
    if architecture == "x86_64":
        program.jump(_JGE, _X32_BIT, unless="64 bit")
        program.give(KILL_PROCESS)
        program.label("64 bit")
    for call, alternatives in by_call.items():
        after = f"after {call}"
        program.jump(_JEQ, call, unless=after)
        _choose(program, call, alternatives, default)
        program.label(after)
    program.give(default)
    return program.encode()


def install(program: bytes) -> None:
    """Put ``program`` in force for every thread of this process, for good.

    ``no_new_privs`` must be set. Raises ConfinementError when the kernel refuses, or when a thread cannot
    be brought under the filter.
    """
    count = len(program) // 8
    filters = (ctypes.c_uint64 * count).from_buffer_copy(program)
    described = _SockFprog(count, ctypes.addressof(filters))
    try:
        stray = kernel_calls.syscall(
            kernel_calls.SYS_SECCOMP[kernel_calls.machine()],
            _SET_MODE_FILTER,
            _FILTER_FLAG_TSYNC,
            kernel_calls.pointer(described),
        )
    except OSError as error:
        raise ConfinementError("seccomp_refused", error.strerror or "", ExitCode.KERNEL) from error
    if stray:
        raise ConfinementError("seccomp_thread", "a thread could not be brought under the filter")


_SET_MODE_FILTER = 1
_FILTER_FLAG_TSYNC = 1

_FREE = (
    *(
        "futex",
        "read",
        "write",
        "recvfrom",
        "epoll_wait",
        "epoll_pwait",
        "epoll_ctl",
        "sched_yield",
        "clock_gettime",
    ),
    *(
        "clock_nanosleep",
        "nanosleep",
        "accept4",
        "accept",
        "close",
        "shutdown",
        "listen",
        "sendmsg",
        "writev",
        "readv",
    ),
    *("getsockopt", "getsockname", "getpeername", "munmap", "madvise", "mremap", "brk", "getrandom"),
    *("poll", "ppoll", "rt_sigprocmask", "rt_sigaction", "rt_sigreturn", "sigaltstack", "restart_syscall"),
    *("getpid", "gettid", "getppid", "getuid", "geteuid", "getgid", "getegid", "getcpu", "getrusage"),
    *("sched_getaffinity", "clock_getres", "gettimeofday", "fstat", "lseek", "exit", "exit_group"),
)

_FATAL = (
    *(
        "execve",
        "execveat",
        "fork",
        "vfork",
        "ptrace",
        "process_vm_readv",
        "process_vm_writev",
        "process_madvise",
    ),
    *("pidfd_open", "pidfd_getfd", "kcmp", "kill", "unshare", "setns", "chroot", "pivot_root"),
    *(
        "mount",
        "umount2",
        "move_mount",
        "open_tree",
        "fsopen",
        "fsconfig",
        "fsmount",
        "fspick",
        "mount_setattr",
    ),
    *("name_to_handle_at", "open_by_handle_at", "bpf", "perf_event_open", "userfaultfd", "personality"),
    *(
        "init_module",
        "finit_module",
        "delete_module",
        "kexec_load",
        "kexec_file_load",
        "reboot",
        "acct",
        "quotactl",
    ),
    *("io_uring_setup", "io_uring_enter", "io_uring_register", "add_key", "request_key", "keyctl", "syslog"),
    *("swapon", "swapoff", "iopl", "ioperm", "modify_ldt"),
    *("settimeofday", "clock_settime", "clock_adjtime", "adjtimex"),
)

_LD_ABS, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_OFFSET_NR, _OFFSET_ARCH, _OFFSET_ARGUMENTS = 0, 4, 16


class _SockFprog(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _choose(program: "_Program", call: int, alternatives: Sequence[Rule], default: int) -> None:
    for position, rule in enumerate(alternatives):
        otherwise = f"else {call} {position}"
        for condition in rule.conditions:
            _test(program, condition, otherwise)
        program.give(rule.action)
        program.label(otherwise)
        if not rule.conditions:
            return
    program.give(default)


def _test(program: "_Program", condition: Condition, otherwise: str) -> None:
    low = _OFFSET_ARGUMENTS + 8 * condition.index
    program.load(low)
    match condition:
        case OneOf(values=values):
            held = program.fresh_label()
            for value in values[:-1]:
                program.jump(_JEQ, value & 0xFFFF_FFFF, then=held)
            program.jump(_JEQ, values[-1] & 0xFFFF_FFFF, unless=otherwise)
            program.label(held)
        case Clear(mask=mask):
            program.jump(_JSET, mask, then=otherwise)
        case AnySet(mask=mask):
            program.jump(_JSET, mask, unless=otherwise)
        case Null():
            program.jump(_JEQ, 0, unless=otherwise)
            program.load(low + 4)
            program.jump(_JEQ, 0, unless=otherwise)


@dataclass(slots=True)
class _Program:
    """BPF instructions with symbolic jump targets; jumps go forward only, by at most 255 instructions."""

    _code: list[tuple[int, str | None, str | None, int]] = field(default_factory=list)
    _labels: dict[str, int] = field(default_factory=dict)

    def load(self, offset: int) -> None:
        self._code.append((_LD_ABS, None, None, offset))

    def jump(
        self, comparison: int, value: int, *, then: str | None = None, unless: str | None = None
    ) -> None:
        self._code.append((comparison, then, unless, value))

    def give(self, action: int) -> None:
        self._code.append((_RET, None, None, action))

    def label(self, name: str) -> None:
        self._labels[name] = len(self._code)

    def fresh_label(self) -> str:
        return f"held {len(self._code)}"

    def encode(self) -> bytes:
        return b"".join(self._encoded(self._labels))

    def _encoded(self, labels: Mapping[str, int]) -> Iterator[bytes]:
        for position, (code, then, unless, value) in enumerate(self._code):
            distances = [0 if name is None else labels[name] - position - 1 for name in (then, unless)]
            if not all(0 <= distance <= 255 for distance in distances):
                raise ValueError("a jump of the filter is out of reach")
            yield struct.pack("=HBBI", code, distances[0], distances[1], value)
