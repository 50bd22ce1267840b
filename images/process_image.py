"""A process image: one folder that holds everything a sealed node runs, and nothing else.

::

    IMAGE_DIR/image.json      the manifest (images.manifest)
    IMAGE_DIR/inputs.json     what it was built from, only to decide whether to build again
    IMAGE_DIR/root/start.json the command that starts it (images.start_command)
    IMAGE_DIR/root/lib/       the dynamic loader and the system libraries
    IMAGE_DIR/root/python/    the interpreter and the standard library
    IMAGE_DIR/root/site/      the third-party packages
    IMAGE_DIR/root/app/       start.py and our own packages

``root/`` is the measured volume. Large files are hard links to the installed ones where the file system
allows it, so a file of an image is replaced, never edited in place.
"""

import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from images import closure, interpreter, manifest, start_command
from images.bytecode_workers import compile_tree
from images.closure import SourceFile
from images.errors import ClosureError, ImageError
from images.manifest import ImageManifest

LINK_FROM = 1 << 20
"""Files of at least this many bytes are hard-linked; smaller ones are copied."""

_LAYOUT = 2  # Raised when the same inputs give another tree.
_START = "app/start.py"
_OURS = {"image.json", "inputs.json", "root", "building"}

Progress = Callable[[str, int, int], None]
"""Called with the step's name, how much of it is done and how much there is."""


_DECODER = re.compile(r"(^|/)enclave_runtime/engine/cpu/_decoder\.[^/]*so$")


@dataclass(frozen=True, slots=True)
class Contents:
    """What goes into an image: our packages, requirement strings of third-party ones, the first script."""

    packages: tuple[str, ...]
    requirements: tuple[str, ...]
    start: Path = field(default=Path(__file__).resolve().parent / "guest" / "start.py")


@dataclass(frozen=True, slots=True)
class Built:
    """A finished image. ``rebuilt`` is False where the folder already held it."""

    image_dir: Path
    manifest: ImageManifest
    rebuilt: bool


def node_contents() -> Contents:
    """What the sealed node consists of; raises :class:`ClosureError` if something of it is not installed.

    Where the decoder was compiled, that is the extra ``node``; where no compiler was, PyTorch goes in to compute in its
    place.
    """
    packages = ("attestation", "ohttp", "measurements", "enclave_runtime")
    compiled = any(_DECODER.search(file.target) for file in closure.package_files(packages))
    return Contents(packages, closure.requirements_of("cloister", "node" if compiled else "runtime"))


def build(out: Path, contents: Contents | None = None, progress: Progress | None = None) -> Built:
    """Build a process image in ``out``, or keep the one there if its inputs are unchanged.

    The same inputs give the same ``image.json``, whatever the folder and whenever it is built. Raises
    :class:`ImageError`; what ``out`` held before is then gone or still whole, never half of each.
    """
    wanted = contents or node_contents()
    report = progress or (lambda step, done, total: None)
    report("inputs", 0, 1)
    sources = _sources(wanted)
    fingerprint = _fingerprint(sources)
    report("inputs", 1, 1)
    kept = _unchanged(out, fingerprint)
    if kept is not None:
        return Built(out, kept, rebuilt=False)
    _prepare(out)
    libraries = interpreter.shared_libraries(sources)
    files = _unique((*sources, *libraries))
    tree = out / "building"
    _lay_out(tree, files, report)
    _write(tree / start_command.FILE, start_command.encode(interpreter.start_command(files, _START)))
    modules = [file.target for file in files if file.target.endswith(".py")]
    report("bytecode", 0, len(modules))
    for done, _ in enumerate(compile_tree(tree, modules, [str(interpreter.program())]), 1):
        report("bytecode", done, len(modules))
    described = _describe(tree, files, report)
    tree.rename(manifest.root(out))
    inputs = {"fingerprint": fingerprint, "libraries": [_stamp(file) for file in libraries]}
    _write(out / "inputs.json", json.dumps(inputs).encode())
    _write(out / "image.json", described.encode())
    return Built(out, described, rebuilt=True)


def argv(image_dir: Path, args: Sequence[str] = ()) -> list[str]:
    """The command that starts an image, in absolute paths; ``args`` go to the node. Raises ManifestError."""
    return [*start_command.read(manifest.root(image_dir)), *args]


def verify(image_dir: Path, progress: Callable[[int], None] | None = None) -> ImageManifest:
    """Rehash an image against its manifest; see :func:`images.manifest.verify`."""
    return manifest.verify(image_dir, progress)


def _sources(contents: Contents) -> tuple[SourceFile, ...]:
    files = [*interpreter.library_files(), SourceFile(contents.start, _START)]
    files.extend(closure.package_files(contents.packages))
    for installed in closure.resolve(contents.requirements):
        files.extend(closure.distribution_files(installed))
    return _unique(files)


def _unique(files: Sequence[SourceFile]) -> tuple[SourceFile, ...]:
    targets: dict[str, SourceFile] = {}
    for file in files:
        if targets.setdefault(file.target, file) is not file:
            raise ClosureError("file_twice", "two inputs want the same place", path=file.target)
    return tuple(targets[target] for target in sorted(targets, key=str.encode))


def _stamp(file: SourceFile) -> list[str | int]:
    try:
        status = file.source.stat()
    except OSError as error:
        raise ClosureError(
            "file_lost", f"{file.source} is recorded but cannot be read", path=file.target
        ) from error
    return [file.target, str(file.source), status.st_size, status.st_mtime_ns, status.st_mode & stat.S_IXUSR]


def _fingerprint(files: Sequence[SourceFile]) -> str:
    stamps = [[_LAYOUT, interpreter.version()], *map(_stamp, files)]
    return hashlib.sha256(json.dumps(stamps).encode()).hexdigest()


def _unchanged(out: Path, fingerprint: str) -> ImageManifest | None:
    """The image in ``out`` if it was built from inputs that look the same; its content is not rehashed."""
    try:
        inputs = json.loads((out / "inputs.json").read_bytes())
        same = inputs["fingerprint"] == fingerprint and all(
            stamp == _stamp(SourceFile(Path(stamp[1]), stamp[0])) for stamp in inputs["libraries"]
        )
        if not same:
            return None
        described = manifest.read(out)
        root = manifest.root(out)
        for file in described.files:
            if (root / file.path).lstat().st_size != file.size:
                return None
    except (OSError, ValueError, LookupError, TypeError, ImageError):
        return None
    return described


def _prepare(out: Path) -> None:
    """An ``out`` that holds nothing of an earlier image; a folder with anything else in it is refused."""
    out.mkdir(parents=True, exist_ok=True)
    foreign = sorted(entry.name for entry in out.iterdir() if entry.name not in _OURS)
    if foreign:
        raise ImageError("folder_in_use", f"{out} holds other things: {', '.join(foreign[:3])}")
    # The manifest goes first: without it the rest is no image.
    for name in ("image.json", "inputs.json"):
        (out / name).unlink(missing_ok=True)
    for name in ("root", "building"):
        shutil.rmtree(out / name, ignore_errors=True)
        if (out / name).exists():
            raise ImageError("folder_in_use", f"{out / name} cannot be removed")


def _lay_out(tree: Path, files: Sequence[SourceFile], report: Progress) -> None:
    for folder in {(tree / file.target).parent for file in files}:
        folder.mkdir(parents=True, exist_ok=True)

    def place(file: SourceFile) -> None:
        target, status = tree / file.target, file.source.stat()
        # An edit through a link would edit the installed file too, so only large files are linked.
        if status.st_size >= LINK_FROM:
            try:
                target.hardlink_to(file.source)
            except OSError:
                pass
            else:
                return
        shutil.copyfile(file.source, target)
        large = status.st_size >= LINK_FROM
        runs = file.target == interpreter.PROGRAM or interpreter.is_loader(file.target)
        # As it would be with a link, so that the same inputs give one image on every file system.
        target.chmod(0o755 if runs or (large and status.st_mode & stat.S_IXUSR) else 0o644)

    report("files", 0, len(files))
    with ThreadPoolExecutor(2) as pool:
        for done, _ in enumerate(pool.map(place, files), 1):
            report("files", done, len(files))


def _describe(tree: Path, files: Sequence[SourceFile], report: Progress) -> ImageManifest:
    total, hashed = sum(file.source.stat().st_size for file in files), 0

    def count(size: int) -> None:
        nonlocal hashed
        hashed += size
        report("digests", min(hashed, total), total)

    found = manifest.scan(tree, count)
    recorded = {file.target: file.sha256 for file in files if file.sha256 is not None}
    for file in found:
        if recorded.get(file.path, file.sha256) != file.sha256:
            raise ClosureError(
                "input_changed",
                "an installed file is not what its distribution's record says",
                path=file.path,
                expected=recorded[file.path],
                found=file.sha256,
            )
    return ImageManifest(interpreter.version(), found)


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_bytes(data)
    os.replace(temporary, path)


__all__ = ["Built", "Contents", "Progress", "argv", "build", "node_contents", "verify"]
