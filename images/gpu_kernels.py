"""Kernels for GPUs, compiled for an image from the rooms' Triton sources by a locked compiler, without a GPU.

``images/locks/gpu-kernels.json`` locks triton's wheel, which carries the compiler and NVIDIA's assembler. The compiler
runs in a process of its own that sees that wheel, the few files of the rooms that it compiles and Python's standard
library: no other package, no settings of the user's, an environment given in full. Where it all lies leaves no trace.

The same inputs give the same bytes, so that results are kept under the hash of the inputs, in ``gpu-kernels/`` of the
folder for inputs, and read back only with the digests they were kept with.
"""

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rfc8785

from images import closure, kept_files, wheels
from images import lock as locks
from images.errors import ImageError, InputUnavailable
from images.input_store import InputStore
from images.lock import Lock
from images.recipe import LOCKS

LOCK = "gpu-kernels"
"""The lock's name."""
COMPILER = "triton"
FOLDER = "app/enclave_runtime/engine/cuda/cubins"
"""Where a node looks for them, below its root volume."""
METHOD = 1
"""Counted up whenever this module makes other kernels from the same inputs."""

_SOURCES = re.compile(r"app/enclave_runtime/(__init__|engine/__init__|engine/cuda/.*)\.py")
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC", "PYTHONHASHSEED": "0"}
# Libraries for profiling: a third of the wheel.
_UNUSED = re.compile(r"\.a$|^triton/profiler/|^triton/backends/nvidia/lib/cupti")
_PROGRAMS = re.compile(r"^triton/backends/nvidia/bin/")
_WHEEL_PYTHON = re.compile(r"-cp(\d)(\d+)-")
_STEPS_EXPECTED = 20
"""About how many kernels a shape has; for the progress bar alone."""
_PROGRAM = """
import sys
sys.path[:0] = sys.argv[1:3]
from enclave_runtime.engine.cuda import build
sys.exit(build.main(["--shape", sys.argv[3], "--out", sys.argv[4]]))
"""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class KernelSources:
    """Everything that decides over the kernels' bytes: shape of model, compiler, and sources by path."""

    shape: str
    lock: Lock
    files: tuple[tuple[str, bytes], ...]

    def key(self) -> str:
        """SHA-256 of the inputs, in hex."""
        inputs: dict[str, Any] = {
            "method": METHOD,
            "environment": _ENVIRONMENT,
            "shape": self.shape,
            "wheels": [[wheel.file, wheel.sha256] for wheel in self.lock.wheels],
            "files": [[path, hashlib.sha256(data).hexdigest()] for path, data in self.files],
        }
        return hashlib.sha256(rfc8785.dumps(inputs)).hexdigest()

    @property
    def compiler(self) -> str:
        """The compiler's name and version."""
        return next(f"{wheel.name} {wheel.version}" for wheel in self.lock.wheels if wheel.name == COMPILER)


def load(shape: str) -> KernelSources:
    """What makes the kernels for a shape of model (one of `enclave_runtime.engine.cuda.build.SHAPES`).

    Raises RecipeError, ClosureError.
    """
    files = sorted(
        (file.target, file.source.read_bytes())
        for file in closure.package_files(["enclave_runtime"])
        if _SOURCES.fullmatch(file.target)
    )
    return KernelSources(shape, locks.read(LOCKS / f"{LOCK}.json"), tuple(files))


def get(wanted: KernelSources, store: InputStore, progress: Progress) -> Mapping[str, bytes]:
    """The kernels by file name, kept or built now. Raises what `build` raises."""
    found = kept(wanted, store)
    if found is None:
        found = build(wanted, store, progress)
        kept_files.write(_place(wanted, store), found)
    return found


def build(
    wanted: KernelSources, store: InputStore, progress: Progress, scratch: Path | None = None
) -> Mapping[str, bytes]:
    """Compile: ``kernels.json`` and the cubins by file name. ``scratch`` is the folder in which to work.

    Raises InputUnavailable where the compiler's wheel or an interpreter for it cannot be had, InputError, ImageError
    (``gpu_kernels_failed``, with the compiler's last words).
    """
    _check_interpreter(wanted.lock)
    store.fetch(wanted.lock, progress)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        work = Path(folder)
        site, app, out = work / "site", work / "app", work / "out"
        _unpack(wanted.lock, store, site)
        for path, data in wanted.files:
            target = work / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        _compile([str(site), str(app), wanted.shape, str(out)], work, progress)
        return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def kept(wanted: KernelSources, store: InputStore) -> Mapping[str, bytes] | None:
    """The kernels, where they were built from these very inputs; None where not, or where what is kept has changed."""
    return kept_files.read(_place(wanted, store))


def write(kernels: Mapping[str, bytes], folder: Path) -> None:
    """Write kernels as files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in kernels.items():
        (folder / name).write_bytes(data)


def _check_interpreter(lock: Lock) -> None:
    """The wheel's library is made for one version of Python. What it makes does not depend on which."""
    for wheel in lock.wheels:
        asked = _WHEEL_PYTHON.search(wheel.file)
        if asked and (int(asked[1]), int(asked[2])) != sys.version_info[:2]:
            raise InputUnavailable(
                "interpreter_other",
                f"{wheel.name} {wheel.version} is locked for Python {asked[1]}.{asked[2]}: run this with that version",
                found=f"{sys.version_info[0]}.{sys.version_info[1]}",
            )


def _unpack(lock: Lock, store: InputStore, site: Path) -> None:
    for wheel in lock.wheels:
        for path, info, archive in wheels.unpack(store.path(wheel), wheel.file):
            if _UNUSED.search(path):
                continue
            target = site / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(info) as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
            if _PROGRAMS.search(path):
                target.chmod(0o755)


def _compile(words: list[str], work: Path, progress: Progress) -> None:
    cache = {"HOME": str(work), "TRITON_HOME": str(work), "TRITON_CACHE_DIR": str(work / "cache")}
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", "-c", _PROGRAM, *words],
        cwd=work,
        env=_ENVIRONMENT | cache,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    assert process.stderr is not None
    last = ""
    for done, line in enumerate(process.stderr, 1):
        last = line.strip() or last
        progress("GPU kernels", min(done, _STEPS_EXPECTED), _STEPS_EXPECTED)
    if process.wait():
        raise ImageError("gpu_kernels_failed", f"the compiler of GPU kernels: {last[:400]}")


def _place(wanted: KernelSources, store: InputStore) -> Path:
    return store.folder / "gpu-kernels" / wanted.key()
