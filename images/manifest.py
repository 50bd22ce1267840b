"""The process image's manifest: every file of a tree with its size, execute bit and SHA-256.

``image.json`` is canonical JSON (RFC 8785)::

    {"v": 1, "kind": "process", "python": "3.11.7",
     "files": [{"path": "app/start.py", "exec": false, "size": 1417, "sha256": "…64 hex…"}, …]}

``files`` is sorted by the UTF-8 bytes of ``path``. ``start`` is the command that starts the image, with
``{root}`` for the folder the tree lies in. The manifest lies beside the tree (``IMAGE_DIR/image.json`` and
``IMAGE_DIR/root/``), so it is not a measured file itself.
"""

import hashlib
import itertools
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rfc8785

from images.errors import ImageMismatch, ManifestError

VERSION = 1
KIND = "process"
MAX_MANIFEST = 16 * 1024 * 1024
MAX_FILES = 100_000
MAX_SIZE = 2**53 - 1

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PYTHON = re.compile(r"3\.[0-9]{1,3}\.[0-9]{1,3}")
_MEMBERS = {"v", "kind", "python", "files"}
_FILE_MEMBERS = {"path", "exec", "size", "sha256"}


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One regular file: ``path`` is relative to the root with ``/`` between names; ``size`` is in bytes."""

    path: str
    executable: bool
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ImageManifest:
    """All that a process image consists of. ``files`` is sorted by the bytes of ``path``."""

    python: str
    files: tuple[ImageFile, ...]

    @property
    def size(self) -> int:
        """The sum of all file sizes in bytes."""
        return sum(file.size for file in self.files)

    def encode(self) -> bytes:
        """The canonical bytes of ``image.json``."""
        return rfc8785.dumps(
            {
                "v": VERSION,
                "kind": KIND,
                "python": self.python,
                "files": [
                    {"path": f.path, "exec": f.executable, "size": f.size, "sha256": f.sha256}
                    for f in self.files
                ],
            }
        )

    def digest(self) -> str:
        """SHA-256 of ``image.json`` in hex: the image's short name, not a launch measurement."""
        return hashlib.sha256(self.encode()).hexdigest()

    @classmethod
    def parse(cls, data: bytes) -> "ImageManifest":
        """Read ``image.json``; raises :class:`ManifestError` for anything but its one canonical form."""
        if len(data) > MAX_MANIFEST:
            raise ManifestError(
                "manifest_too_large", f"image.json has {len(data)} bytes, limit {MAX_MANIFEST}"
            )
        try:
            document = json.loads(
                data.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_float=_no_float
            )
        except (ValueError, RecursionError) as error:
            raise ManifestError("manifest_malformed", "image.json is not strict JSON") from error
        manifest = cls._from_document(document)
        if manifest.encode() != data:
            raise ManifestError("manifest_not_canonical", "image.json is not in canonical form")
        return manifest

    @classmethod
    def _from_document(cls, document: object) -> "ImageManifest":
        members = _members(document, _MEMBERS)
        if type(members["v"]) is not int or members["v"] != VERSION:
            raise ManifestError("manifest_version", "unknown version", expected=VERSION, found=members["v"])
        if members["kind"] != KIND:
            raise ManifestError("manifest_kind", "not a process image", expected=KIND, found=members["kind"])
        python, entries = members["python"], members["files"]
        if not isinstance(python, str) or not _PYTHON.fullmatch(python):
            raise ManifestError("manifest_malformed", "python is not a version")
        if not isinstance(entries, list) or not 0 < len(entries) <= MAX_FILES:
            raise ManifestError("manifest_malformed", "files is not a list of a permitted length")
        files = tuple(_file(entry) for entry in entries)
        keys = [file.path.encode() for file in files]
        if any(left >= right for left, right in itertools.pairwise(keys)):
            raise ManifestError("manifest_order", "files are not in strictly increasing order")
        return cls(python, files)


def root(image_dir: Path) -> Path:
    """The measured tree of an image folder."""
    return image_dir / "root"


def read(image_dir: Path) -> ImageManifest:
    """The manifest of an image folder; raises :class:`ManifestError`."""
    path = image_dir / "image.json"
    try:
        with path.open("rb") as source:
            data = source.read(MAX_MANIFEST + 1)
    except OSError as error:
        raise ManifestError("manifest_missing", f"no readable image.json in {image_dir}") from error
    return ImageManifest.parse(data)


def scan(tree: Path, progress: Callable[[int], None] | None = None) -> tuple[ImageFile, ...]:
    """Hash every regular file below ``tree``; raises :class:`ImageMismatch` for a link or a special file.

    ``progress`` is called with the number of bytes of each file when it has been hashed.
    """
    found = sorted(_walk(tree, ""), key=lambda entry: entry[0].encode())

    def describe(entry: tuple[str, os.stat_result]) -> ImageFile:
        path, status = entry
        digest, size = hash_file(tree / path)
        if progress is not None:
            progress(size)
        return ImageFile(path, bool(status.st_mode & stat.S_IXUSR), size, digest)

    with ThreadPoolExecutor(2) as pool:
        return tuple(pool.map(describe, found))


def verify(image_dir: Path, progress: Callable[[int], None] | None = None) -> ImageManifest:
    """Rehash a whole image against its manifest.

    Raises :class:`ImageMismatch` naming the first path, in manifest order, that differs; no time stamp and no
    earlier result is trusted.
    """
    manifest = read(image_dir)
    found = {file.path: file for file in scan(root(image_dir), progress)}
    expected = {file.path: file for file in manifest.files}
    for path in sorted(expected.keys() | found.keys(), key=str.encode):
        want, have = expected.get(path), found.get(path)
        if have is None:
            raise ImageMismatch("file_missing", "a listed file is missing", path=path, expected=want)
        if want is None:
            raise ImageMismatch("file_added", "a file is not listed", path=path, found=have)
        if want.sha256 != have.sha256 or want.size != have.size:
            raise ImageMismatch(
                "file_changed", "content differs", path=path, expected=want.sha256, found=have.sha256
            )
        if want.executable != have.executable:
            raise ImageMismatch(
                "file_mode",
                "the execute bit differs",
                path=path,
                expected=want.executable,
                found=have.executable,
            )
    return manifest


def hash_file(path: Path) -> tuple[str, int]:
    """SHA-256 (hex) and size in bytes of one file."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as source:
        while block := source.read(1 << 20):
            digest.update(block)
            size += len(block)
    return digest.hexdigest(), size


def _walk(tree: Path, below: str) -> Iterator[tuple[str, os.stat_result]]:
    try:
        entries = list(os.scandir(tree / below))
    except OSError as error:
        raise ImageMismatch("tree_unreadable", "a folder cannot be read", path=below or ".") from error
    for entry in entries:
        path = f"{below}/{entry.name}" if below else entry.name
        if not _is_text(path):
            raise ImageMismatch("file_name", "a file name is not UTF-8", path=ascii(path))
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            yield from _walk(tree, path)
        elif stat.S_ISREG(status.st_mode):
            yield path, status
        else:
            raise ImageMismatch("file_kind", "neither a regular file nor a folder", path=path)


def _file(entry: object) -> ImageFile:
    members = _members(entry, _FILE_MEMBERS)
    path, executable, size, digest = (members[name] for name in ("path", "exec", "size", "sha256"))
    if not isinstance(path, str) or not _is_relative(path):
        raise ManifestError("manifest_path", "a path is not a plain relative path")
    if not isinstance(executable, bool):
        raise ManifestError("manifest_malformed", "exec is not a boolean", path=path)
    if type(size) is not int or not 0 <= size <= MAX_SIZE:
        raise ManifestError("manifest_malformed", "size is not a permitted number", path=path)
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise ManifestError("manifest_malformed", "sha256 is not 64 hex digits", path=path)
    return ImageFile(path, executable, size, digest)


def _is_relative(path: str) -> bool:
    return (
        _is_text(path)
        and "\0" not in path
        and "\\" not in path
        and all(part not in ("", ".", "..") for part in path.split("/"))
    )


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _members(value: object, names: set[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict) or value.keys() != names:
        raise ManifestError("manifest_malformed", "an object has not exactly the known members")
    return value


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate member")
    return members


def _no_float(_: str) -> object:
    raise ValueError("numbers are integers here")
