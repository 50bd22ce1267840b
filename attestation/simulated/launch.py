"""What the simulated platform measures at launch: the command line, and every file of every volume.

LD starts as 48 zero bytes; for each part, LD = SHA-384(LD ‖ SHA-384(part)), where a part is
"cloister/sim-launch/v1\\0" ‖ u32 length ‖ name ‖ u32 length ‖ path ‖ u8 executable ‖ SHA-256(content).

The command line comes first (name ``cmdline``, no path, not executable), then the volumes by name
(``volume:<name>``) and their files by path, both in the order of their bytes. A volume that is a single file
has that file's name as its one path. Lengths are big-endian.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from struct import Struct
from typing import Final

from attestation.errors import PlatformFault

LAUNCH_DIGEST_LENGTH: Final = 48
"""Bytes of a launch digest."""

_LABEL: Final = b"cloister/sim-launch/v1\0"
_LENGTH: Final = Struct(">I")
_THREADS: Final = 4
_MAX_FILES: Final = 100_000

START_FILE: Final = "start.json"
_MAX_START: Final = 64 * 1024


def measure_launch(cmdline: bytes, volumes: Mapping[str, Path]) -> bytes:
    """The launch digest, 48 bytes, of a command line and the files below each volume's folder.

    Raises PlatformFault (``launch_not_measurable``) for a symbolic link, a special file or a file that cannot
    be read, so that nothing a volume holds goes unmeasured. "Executable" is the owner's execute bit.
    """
    parts = [("cmdline", b"", False, hashlib.sha256(cmdline).digest())]
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="measure") as threads:
        for name in sorted(volumes, key=os.fsencode):
            files = sorted(_files(volumes[name]))
            measured = threads.map(_measure_file, [path for _, path in files])
            for (relative, _), (executable, digest) in zip(files, measured, strict=True):
                parts.append((f"volume:{name}", relative, executable, digest))
    launch = bytes(LAUNCH_DIGEST_LENGTH)
    for part, relative, executable, digest in parts:
        launch = extend(launch, part, relative, executable=executable, sha256=digest)
    return launch


def start_command(volumes: Mapping[str, Path]) -> list[str]:
    """What ``start.json`` of the volume ``image`` says to start. Raises PlatformFault (``launch_not_startable``)."""
    try:
        root = volumes["image"]
        with (root / START_FILE).open("rb") as file:
            parts = _strings(file.read(_MAX_START + 1))
    except (KeyError, OSError, ValueError, RecursionError) as error:
        raise PlatformFault(
            code="launch_not_startable", detail=f"no {START_FILE} in the image volume"
        ) from error
    place = str(root.resolve())
    return [part.replace("{root}", place) for part in parts]


def extend(launch: bytes, part: str, path: bytes, *, executable: bool, sha256: bytes) -> bytes:
    """The launch digest after one more part."""
    name = os.fsencode(part)
    described = b"".join(
        (_LABEL, _LENGTH.pack(len(name)), name, _LENGTH.pack(len(path)), path, bytes([executable]), sha256)
    )
    return hashlib.sha384(launch + hashlib.sha384(described).digest()).digest()


def _strings(data: bytes) -> list[str]:
    parts = json.loads(data) if len(data) <= _MAX_START else None
    if not isinstance(parts, list) or not parts or not all(isinstance(part, str) for part in parts):
        raise ValueError
    return parts


def _files(root: Path) -> Iterator[tuple[bytes, Path]]:
    kind = _kind(root)
    if stat.S_ISREG(kind):
        yield os.fsencode(root.name), root
        return
    if not stat.S_ISDIR(kind):
        raise _not_measurable(root, "is neither a folder nor a regular file")
    count, pending = 0, [(root, b"")]
    while pending:
        folder, prefix = pending.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            raise _not_measurable(folder, error.strerror or "cannot be read") from None
        for entry in entries:
            path = Path(entry.path)
            relative = prefix + os.fsencode(entry.name)
            if entry.is_symlink():
                raise _not_measurable(path, "is a symbolic link")
            if entry.is_dir(follow_symlinks=False):
                pending.append((path, relative + b"/"))
            elif entry.is_file(follow_symlinks=False):
                yield relative, path
            else:
                raise _not_measurable(path, "is a special file")
            count += 1
            if count > _MAX_FILES:
                raise _not_measurable(root, "has too many files")


def _measure_file(path: Path) -> tuple[bool, bytes]:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise _not_measurable(path, "is not a regular file")
            return bool(mode & stat.S_IXUSR), hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise _not_measurable(path, error.strerror or "cannot be read") from None


def _kind(path: Path) -> int:
    try:
        return path.lstat().st_mode
    except OSError as error:
        raise _not_measurable(path, error.strerror or "cannot be read") from None


def _not_measurable(path: Path, why: str) -> PlatformFault:
    return PlatformFault(code="launch_not_measurable", detail=f"{path} {why}")
