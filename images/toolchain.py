"""A compiler out of locked Debian packages, unpacked into a folder and run with nothing else in sight.

Programs see that folder as their root and the sources at one fixed path, whoever runs them and wherever: what they
write therefore does not depend on the machine. They have no network, no devices but ``/dev/null``, no other user's
files, and an environment that is given in full. No root is needed, only user namespaces (unshare(2), chroot(2)).
Maintainer scripts are not run; the few links that they would have made are made here.
"""

import ctypes
import os
import stat
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from images import deb
from images.errors import ImageError, InputError, InputUnavailable
from images.input_store import InputStore
from images.lock import Lock

BUILD = "build"
"""The folder below the root in which everything is built."""

MERGED = ("bin", "sbin", "lib", "lib64")
"""Folders that are links into ``usr``, as base-files would have it."""

LINKS = {
    "usr/bin/awk": "mawk",
    "usr/bin/sh": "dash",
    "usr/bin/gcc": "gcc-12",
    "usr/bin/ld": "x86_64-linux-gnu-ld",
}
"""What update-alternatives and packages without content of their own would have linked."""

_NEW_USER, _NEW_MOUNTS, _NEW_NETWORK = 0x10000000, 0x00020000, 0x40000000
_BIND = 4096

Progress = Callable[[str, int, int], None]


def unpack(lock: Lock, store: InputStore, root: Path, progress: Progress) -> None:
    """Unpack every package of ``lock`` into the empty folder ``root``. Raises InputError."""
    for folder in (*(f"usr/{name}" for name in MERGED), "dev", "tmp", BUILD):
        (root / folder).mkdir(parents=True)
    for name in MERGED:
        (root / name).symlink_to(f"usr/{name}")
    (root / "dev" / "null").touch()
    for done, package in enumerate(lock.debs, 1):
        for member in deb.read_package(store.path(package)):
            _place(root, member)
        progress("toolchain", done, len(lock.debs))
    for path, target in LINKS.items():
        if not (root / path).is_symlink() and not (root / path).exists():
            (root / path).symlink_to(target)


def run(
    root: Path, words: Sequence[str], environment: Mapping[str, str], folder: str = BUILD
) -> Iterator[str]:
    """Run a program inside ``root``, in the folder ``/FOLDER``; its output line by line.

    Raises ImageError (``toolchain_failed``) with the last words where it does not end well, InputUnavailable where
    this machine gives no user namespace.
    """
    ids = os.getuid(), os.getgid()
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            umask=0o022,
            preexec_fn=lambda: _enter(root, folder, *ids),
        )
    except subprocess.SubprocessError as error:
        raise InputUnavailable(
            "namespace_refused", "this machine gives no user namespace, which compiling takes"
        ) from error
    assert process.stdout is not None
    last: list[str] = []
    for raw in process.stdout:
        line = raw.decode("utf-8", "replace").rstrip()
        last = [*last[-5:], line]
        yield line
    if process.wait():
        raise ImageError(
            "toolchain_failed", f"{words[0]} ended with {process.returncode}: {' | '.join(last)}"
        )


def put(root: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Write files below ``/build``."""
    for path, data in files:
        place = root / BUILD / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)


def _place(root: Path, member: deb.Member) -> None:
    top, _, rest = member.path.partition("/")
    path = root / (f"usr/{top}/{rest}" if top in MERGED else member.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A link among the parents could lead out of the folder.
    if not path.parent.resolve().is_relative_to(root.resolve()):
        raise InputError("deb_malformed", "a path leads out of the toolchain", path=member.path)
    if path.is_symlink() or path.exists():
        path.unlink()
    if member.link:
        path.symlink_to(member.link)
    else:
        path.write_bytes(member.data)
        path.chmod(0o755 if member.mode & stat.S_IXUSR else 0o644)


def _enter(root: Path, folder: str, user: int, group: int) -> None:
    """In the child: a namespace of its own, and ``root`` as its root."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_USER | _NEW_MOUNTS | _NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)
    null = os.fsencode(root / "dev" / "null")
    if libc.mount(b"/dev/null", null, None, ctypes.c_ulong(_BIND), None):
        raise OSError(ctypes.get_errno(), "mount")
    os.chroot(root)
    os.chdir(f"/{folder}")
