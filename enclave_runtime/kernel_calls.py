"""The few Linux calls that Python's library does not offer, through libc's ``syscall`` and ``prctl``."""

import ctypes
import os
import platform

SYS_CAPSET = {"x86_64": 126, "aarch64": 91}
SYS_SECCOMP = {"x86_64": 317, "aarch64": 277}
SYS_LANDLOCK_CREATE_RULESET = 444
SYS_LANDLOCK_ADD_RULE = 445
SYS_LANDLOCK_RESTRICT_SELF = 446

PR_SET_PDEATHSIG = 1
PR_GET_DUMPABLE = 3
PR_SET_DUMPABLE = 4
PR_GET_SECCOMP = 21
PR_SET_NO_NEW_PRIVS = 38
PR_GET_NO_NEW_PRIVS = 39
PR_CAPBSET_DROP = 24
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
PR_SET_MDWE = 65
PR_GET_MDWE = 66
PR_MDWE_REFUSE_EXEC_GAIN = 1

MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.prctl.restype = ctypes.c_int


def machine() -> str:
    """The processor architecture as the kernel names it: ``x86_64`` or ``aarch64``."""
    return platform.machine()


def syscall(number: int, *arguments: int | ctypes.c_void_p | None) -> int:
    """Make one raw system call. Raises OSError with the kernel's error number."""
    widened = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    ctypes.set_errno(0)
    result = int(_libc.syscall(ctypes.c_long(number), *widened))
    if result == -1 and (error := ctypes.get_errno()):
        raise OSError(error, os.strerror(error))
    return result


def prctl(option: int, argument2: int = 0, argument3: int = 0, argument4: int = 0, argument5: int = 0) -> int:
    """``prctl(2)``. Raises OSError with the kernel's error number."""
    arguments = (ctypes.c_ulong(a) for a in (argument2, argument3, argument4, argument5))
    result = int(_libc.prctl(ctypes.c_int(option), *arguments))
    if result == -1:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def mlockall(flags: int) -> None:
    """``mlockall(2)``. Raises OSError with the kernel's error number."""
    if int(_libc.mlockall(ctypes.c_int(flags))) == -1:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def pointer(structure: ctypes.Structure | ctypes.Array) -> ctypes.c_void_p:  # type: ignore[type-arg]
    """The address of a C structure, to hand to :func:`syscall`; the caller keeps the structure alive."""
    return ctypes.cast(ctypes.byref(structure), ctypes.c_void_p)
