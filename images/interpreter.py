"""The interpreter that an image carries: program, standard library, and the shared libraries all of it loads.

The image has its own copy of the dynamic loader and of every system library that any of its programs and
extension modules needs, so nothing executable outside the image is part of a node. Which libraries those are
is asked of the loader itself (``ld.so --list``), with each file where it lies now.
"""

import os
import platform
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from images.closure import SourceFile
from images.errors import InterpreterError
from images.pruning import keeps_library

PROGRAM = "python/bin/python3"
LIBRARIES = "lib"
_PT_INTERP = 3
_ELF64 = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT64 = struct.Struct("<IIQQQQQQ")
_SYSTEM_PREFIXES = ("linux-vdso", "linux-gate")


def version() -> str:
    """The version of the interpreter that an image built now carries, such as ``3.11.7``."""
    return platform.python_version()


def program() -> Path:
    """The interpreter's own file, also from inside a virtual environment.

    Raises :class:`InterpreterError` where it is not CPython on Linux with glibc.
    """
    if sys.platform != "linux" or sys.implementation.name != "cpython" or platform.libc_ver()[0] != "glibc":
        raise InterpreterError("interpreter_unsupported", "a process image needs CPython on Linux with glibc")
    executable: str = getattr(sys, "_base_executable", sys.executable)
    path = Path(executable).resolve()
    if not path.is_file():
        raise InterpreterError("interpreter_missing", "the interpreter's own file cannot be found")
    return path


def library_files() -> tuple[SourceFile, ...]:
    """The program and the standard library as a node needs them, laid out so that the program finds them."""
    minor = f"python{sys.version_info.major}.{sys.version_info.minor}"
    folder = Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix}))
    if not (folder / "os.py").is_file() or not (folder / "lib-dynload").is_dir():
        raise InterpreterError("library_missing", f"no complete standard library in {folder}")
    files = [SourceFile(program(), PROGRAM)]
    for below, folders, names in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if keeps_library(f"{Path(below, name).relative_to(folder).as_posix()}/-")
        )
        for name in sorted(names):
            path = Path(below, name)
            relative = path.relative_to(folder).as_posix()
            if keeps_library(relative) and path.is_file():
                files.append(SourceFile(path.resolve(), f"python/{sys.platlibdir}/{minor}/{relative}"))
    return tuple(files)


def loader(binary: Path) -> Path:
    """The dynamic loader a program names in its ELF header; raises :class:`InterpreterError`."""
    try:
        with binary.open("rb") as source:
            data = source.read(1 << 16)
        header = _ELF64.unpack_from(data)
        if header[0][:6] != b"\x7fELF\x02\x01":
            raise InterpreterError(
                "interpreter_format", "the interpreter is not a 64-bit little-endian ELF file"
            )
        offset, size, count = header[5], header[9], header[10]
        for index in range(count):
            kind, _, start, _, _, length, _, _ = _SEGMENT64.unpack_from(data, offset + index * size)
            if kind == _PT_INTERP:
                return Path(os.fsdecode(data[start : start + length].rstrip(b"\0"))).resolve(strict=True)
    except (OSError, struct.error, ValueError) as error:
        raise InterpreterError("interpreter_format", "the interpreter's file cannot be read") from error
    raise InterpreterError("interpreter_static", "the interpreter names no dynamic loader")


def shared_libraries(files: Iterable[SourceFile]) -> tuple[SourceFile, ...]:
    """The loader and the system libraries that the ELF files among ``files`` need, below ``lib/``.

    What ``files`` already carries stays where it is. Raises :class:`InterpreterError` if a library cannot be
    found, or if two of one name would be needed.
    """
    carried = tuple(files)
    own = {file.source.resolve() for file in carried}
    own_names = {file.source.name for file in carried}
    dynamic_loader = loader(program())
    elves = [file.source for file in carried if _is_elf(file.source)]
    found: dict[str, Path] = {dynamic_loader.name: dynamic_loader}
    with ThreadPoolExecutor(2) as pool:
        for elf, listing in zip(elves, pool.map(lambda elf: _list(dynamic_loader, elf), elves), strict=True):
            for name, path in listing.items():
                if path is None:
                    if name not in own_names:
                        raise InterpreterError(
                            "library_missing", f"{elf.name} needs {name}, which is not here"
                        )
                elif path not in own and path != dynamic_loader and found.setdefault(name, path) != path:
                    raise InterpreterError("library_ambiguous", f"two libraries are called {name}")
    return tuple(SourceFile(found[name], f"{LIBRARIES}/{name}") for name in sorted(found))


def start_command(files: Iterable[SourceFile], script: str) -> tuple[str, ...]:
    """The command that runs ``script`` (a path in the image), with ``{root}`` for the image's tree.

    The loader ignores the host's library cache, and the interpreter the host's settings: isolated, without
    ``site``, writing no bytecode, UTF-8 whatever the locale says.
    """
    name = next(file.target for file in files if is_loader(file.target))
    return (
        f"{{root}}/{name}",
        "--inhibit-cache",
        "--library-path",
        f"{{root}}/{LIBRARIES}",
        f"{{root}}/{PROGRAM}",
        *("-I", "-S", "-B", "-X", "utf8"),
        f"{{root}}/{script}",
    )


def is_loader(target: str) -> bool:
    """Whether the file at ``target`` in an image is its dynamic loader."""
    return target.startswith((f"{LIBRARIES}/ld-linux", f"{LIBRARIES}/ld64"))


def _is_elf(path: Path) -> bool:
    if not (".so" in path.name or path.suffix == "" or path.name.startswith("python")):
        return False
    with path.open("rb") as source:
        return source.read(4) == b"\x7fELF"


def _list(dynamic_loader: Path, elf: Path) -> dict[str, Path | None]:
    """Library name to file, as the loader resolves ``elf``; None where it finds none."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LD_")}
    result = subprocess.run(
        [str(dynamic_loader), "--list", str(elf)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    listing: dict[str, Path | None] = {}
    if result.returncode != 0 and "not found" not in result.stdout + result.stderr:
        return listing  # Statically linked: it needs nothing.
    for line in result.stdout.splitlines():
        name, arrow, rest = line.strip().partition(" => ")
        if not arrow or name.startswith(_SYSTEM_PREFIXES):
            continue
        if rest.startswith("not found"):
            listing[name] = None
        else:
            listing[name.rsplit("/", 1)[-1]] = Path(rest.rsplit(" (", 1)[0]).resolve()
    return listing
