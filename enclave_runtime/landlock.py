"""Landlock: what a process may open, bind and reach, decided once and never taken back.

Interface facts from the kernel's ``Documentation/userspace-api/landlock.rst`` and
``include/uapi/linux/landlock.h``. A ruleset binds the calling thread and what it starts, so
:func:`restrict` insists on being called before any thread exists. Rights that a ruleset handles and no rule
grants are refused: write, create, remove, truncate, rename, execute, TCP connect, and signals or abstract sockets to
the outside are never granted here, and device ioctl only for device files that are named.
"""

import ctypes
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from enclave_runtime import kernel_calls
from enclave_runtime.errors import ConfinementError
from enclave_runtime.exit_codes import ExitCode

_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_RULE_NET_PORT = 2

_FS_WRITE_FILE = 1 << 1
_FS_READ_FILE = 1 << 2
_FS_READ_DIR = 1 << 3
_FS_IOCTL_DEV = 1 << 15
_IOCTL_SINCE = 5
# Number of file-system rights that each version of the interface knows; they fill the mask from bit 0.
_FS_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_NET_BIND_TCP = 1 << 0
_NET_CONNECT_TCP = 1 << 1
_NET_SINCE = 4
_SCOPE_ABSTRACT_UNIX_SOCKET = 1 << 0
_SCOPE_SIGNAL = 1 << 1
_SCOPE_SINCE = 6


class _RulesetAttr(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneathAttr(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


class _NetPortAttr(ctypes.Structure):
    _fields_ = (("allowed_access", ctypes.c_uint64), ("port", ctypes.c_uint64))


@dataclass(frozen=True, slots=True)
class Landlocked:
    """Which levels of abstraction a ruleset now covers, under which version of the interface."""

    abi: int
    file_system: bool
    device_control: bool
    network: bool
    scope: bool


def abi_version() -> int:
    """The version of Landlock that the running kernel offers; 0 where it offers none."""
    try:
        return kernel_calls.syscall(
            kernel_calls.SYS_LANDLOCK_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION
        )
    except OSError:
        return 0


def restrict(
    *,
    read: Sequence[Path],
    read_write_files: Sequence[Path] = (),
    device_files: Sequence[Path] = (),
    bind_ports: Sequence[int] = (),
) -> Landlocked:
    """Leave this process only reading beneath ``read``, and binding TCP ports ``bind_ports`` (0: an
    ephemeral one).

    ``read_write_files`` are single existing files, such as ``/dev/null``; ``device_files`` may besides be controlled
    (ioctl), which from version 5 on goes for no other device that is opened from now on. Paths that do not exist grant
    nothing. Raises ConfinementError when another thread exists, or when the kernel refuses a ruleset it
    said it knows.
    """
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise ConfinementError(
            "landlock_threads", f"{threads} threads exist, Landlock binds only one of them"
        )
    abi = abi_version()
    if abi == 0:
        return Landlocked(abi=0, file_system=False, device_control=False, network=False, scope=False)
    network, scope, control = abi >= _NET_SINCE, abi >= _SCOPE_SINCE, abi >= _IOCTL_SINCE
    handled = (1 << _FS_RIGHTS[min(abi, max(_FS_RIGHTS))]) - 1
    attr = _RulesetAttr(
        handled_access_fs=handled,
        handled_access_net=(_NET_BIND_TCP | _NET_CONNECT_TCP) if network else 0,
        scoped=(_SCOPE_ABSTRACT_UNIX_SOCKET | _SCOPE_SIGNAL) if scope else 0,
    )
    size = 24 if scope else 16 if network else 8
    try:
        ruleset = kernel_calls.syscall(
            kernel_calls.SYS_LANDLOCK_CREATE_RULESET, kernel_calls.pointer(attr), size, 0
        )
        try:
            for path in read:
                _grant(ruleset, path, _FS_READ_FILE, _FS_READ_DIR)
            for path in read_write_files:
                _grant(ruleset, path, _FS_READ_FILE | _FS_WRITE_FILE, 0)
            for path in device_files:
                rights = _FS_READ_FILE | _FS_WRITE_FILE | (_FS_IOCTL_DEV if control else 0)
                _grant(ruleset, path, rights, 0)
            if network:
                for port in bind_ports:
                    rule = _NetPortAttr(allowed_access=_NET_BIND_TCP, port=port)
                    _add_rule(ruleset, _RULE_NET_PORT, rule)
            kernel_calls.prctl(kernel_calls.PR_SET_NO_NEW_PRIVS, 1)
            kernel_calls.syscall(kernel_calls.SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0)
        finally:
            os.close(ruleset)
    except OSError as error:
        detail = f"the kernel offers Landlock {abi} but refused it: {error.strerror}"
        raise ConfinementError("landlock_refused", detail, ExitCode.KERNEL) from error
    return Landlocked(abi=abi, file_system=True, device_control=control, network=network, scope=scope)


def _grant(ruleset: int, path: Path, file_rights: int, folder_rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        rights = file_rights | folder_rights if folder else file_rights
        _add_rule(ruleset, _RULE_PATH_BENEATH, _PathBeneathAttr(allowed_access=rights, parent_fd=descriptor))
    finally:
        os.close(descriptor)


def _add_rule(ruleset: int, kind: int, rule: ctypes.Structure) -> None:
    kernel_calls.syscall(kernel_calls.SYS_LANDLOCK_ADD_RULE, ruleset, kind, kernel_calls.pointer(rule), 0)
