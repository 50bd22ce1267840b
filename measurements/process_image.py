"""Prediction of a process image's launch digest from file lists alone: nothing is started, nothing trusted.

The simulated platform measures what it launches into one 48-byte register, extended part by part:

    LD = 0^48
    LD = SHA-384(LD ‖ SHA-384("cloister/sim-launch/v1" 00 ‖ u32 len ‖ part ‖ u32 len ‖ path ‖ u8 exec ‖
    SHA-256(content)))

The command line is the part ``cmdline`` with an empty path; then come the volumes by name, part
``volume:<name>``, and in each its files by the bytes of their POSIX path. Lengths are big-endian.
"""

import hashlib
import os
import re
import stat
import struct
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .errors import Code, ImageError, TransparencyError
from .statement import canonical, parse_canonical

LABEL: Final = b"cloister/sim-launch/v1\0"
IMAGE_VOLUME: Final = "image"
MODEL_VOLUME: Final = "model"
MAX_MANIFEST: Final = 16 * 1024 * 1024
MAX_FILES: Final = 100_000
_BLOCK: Final = 1 << 20
_STAGE: Final = "measure"


@dataclass(frozen=True, slots=True)
class MeasuredFile:
    """One regular file: POSIX path below its volume, any execute bit, size in bytes, SHA-256 of its
    content.
    """

    path: str
    executable: bool
    size: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class ImageDescription:
    """What ``image.json`` says: the files of the image volume, and the digest of the description itself."""

    files: tuple[MeasuredFile, ...]
    sha256: bytes


def launch_digest(cmdline: bytes, volumes: Mapping[str, Sequence[MeasuredFile]]) -> bytes:
    """The 48-byte launch digest of a command line and its volumes."""
    digest = _extend(bytes(48), "cmdline", b"", False, hashlib.sha256(cmdline).digest())
    for name in sorted(volumes, key=str.encode):
        for file in sorted(volumes[name], key=lambda entry: entry.path.encode()):
            digest = _extend(digest, f"volume:{name}", file.path.encode(), file.executable, file.sha256)
    return digest


def predict_launch_digest(
    image: Sequence[MeasuredFile], cmdline: bytes, model: Sequence[MeasuredFile] | None = None
) -> bytes:
    """The digest of the image volume, and of the model volume where there is one."""
    volumes: dict[str, Sequence[MeasuredFile]] = {IMAGE_VOLUME: image}
    if model is not None:
        volumes[MODEL_VOLUME] = model
    return launch_digest(cmdline, volumes)


def parse_image(data: bytes) -> ImageDescription:
    """Read the bytes of ``image.json``, version 1. Raises ImageError (IMAGE_MALFORMED).

    Members beside ``v`` and ``files`` describe how to start the image; they are not measured.
    """
    try:
        value = parse_canonical(data, limit=MAX_MANIFEST)
    except TransparencyError as error:
        raise _malformed(f"image.json: {error.detail}") from error
    entries = value.get("files") if isinstance(value, dict) else None
    if not isinstance(value, dict) or type(value.get("v")) is not int or value["v"] != 1:
        raise _malformed("image.json is not of a known version")
    if not isinstance(entries, list) or not 0 < len(entries) <= MAX_FILES:
        raise _malformed(f"image.json lists 1 to {MAX_FILES} files")
    files = tuple(_file(entry) for entry in entries)
    if len({file.path for file in files}) != len(files):
        raise _malformed("image.json lists a file twice")
    return ImageDescription(files, hashlib.sha256(data).digest())


def read_image(image_dir: Path) -> ImageDescription:
    """Read ``IMAGE_DIR/image.json``. Raises ImageError."""
    path = image_dir / "image.json"
    try:
        with path.open("rb") as file:
            return parse_image(file.read(MAX_MANIFEST + 1))
    except OSError as error:
        raise _malformed(f"{path}: {error.strerror}") from error


def hash_volume(path: Path) -> tuple[MeasuredFile, ...]:
    """Hash a folder, or a single file as a volume with that one name.

    Links and special files are refused, as the platform refuses them. Raises ImageError.
    """
    try:
        kind = path.lstat().st_mode
        if stat.S_ISDIR(kind):
            files = _walk(path, "")
        elif stat.S_ISREG(kind):
            files, path = [path.name], path.parent
        else:
            raise _malformed(f"{path}: only regular files and folders can be measured")
        with ThreadPoolExecutor(2) as pool:
            return tuple(pool.map(lambda name: _measure(path, name), sorted(files, key=os.fsencode)))
    except OSError as error:
        raise _malformed(f"{error.filename or path}: {error.strerror}") from error


def volume_digest(files: Sequence[MeasuredFile]) -> bytes:
    """SHA-256 over the canonical list of files: a short name for a volume's whole content."""
    listing: list[dict[str, Any]] = [
        {"path": file.path, "exec": file.executable, "size": file.size, "sha256": file.sha256.hex()}
        for file in sorted(files, key=lambda entry: entry.path.encode())
    ]
    return hashlib.sha256(canonical(listing)).digest()


def _extend(digest: bytes, part: str, path: bytes, executable: bool, content: bytes) -> bytes:
    name = part.encode()
    record = b"".join(
        (
            LABEL,
            struct.pack(">I", len(name)),
            name,
            struct.pack(">I", len(path)),
            path,
            bytes([executable]),
            content,
        )
    )
    return hashlib.sha384(digest + hashlib.sha384(record).digest()).digest()


def _walk(root: Path, below: str) -> list[str]:
    names: list[str] = []
    with os.scandir(root / below) as entries:
        for entry in entries:
            path = f"{below}/{entry.name}" if below else entry.name
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                names += _walk(root, path)
            elif stat.S_ISREG(mode):
                names.append(path)
            else:
                raise _malformed(f"{path}: only regular files and folders can be measured")
            if len(names) > MAX_FILES:
                raise _malformed(f"more than {MAX_FILES} files")
    return names


def _measure(root: Path, name: str) -> MeasuredFile:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise _malformed("a file name is not UTF-8") from error
    descriptor = os.open(root / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        mode, digest, size = os.fstat(descriptor).st_mode, hashlib.sha256(), 0
        if not stat.S_ISREG(mode):
            raise _malformed(f"{name}: only regular files can be measured")
        while block := file.read(_BLOCK):
            digest.update(block)
            size += len(block)
    return MeasuredFile(name, bool(mode & 0o111), size, digest.digest())


def _file(entry: object) -> MeasuredFile:
    if not isinstance(entry, dict) or set(entry) != {"path", "exec", "size", "sha256"}:
        raise _malformed("a file has path, exec, size and sha256")
    path, executable, size, sha256 = entry["path"], entry["exec"], entry["size"], entry["sha256"]
    plain = isinstance(path, str) and all(part not in ("", ".", "..") for part in path.split("/"))
    if not plain or "\0" in path or "\\" in path:
        raise _malformed("a path is not a plain relative path")
    if type(executable) is not bool or type(size) is not int or size < 0:
        raise _malformed(f"{path}: exec is a boolean and size a number")
    if not isinstance(sha256, str) or not re.fullmatch("[0-9a-f]{64}", sha256):
        raise _malformed(f"{path}: sha256 is 64 lowercase hex digits")
    return MeasuredFile(path, executable, size, bytes.fromhex(sha256))


def _malformed(why: str) -> ImageError:
    return ImageError(Code.IMAGE_MALFORMED, why, stage=_STAGE)
