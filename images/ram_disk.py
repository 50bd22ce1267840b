"""The initial RAM disk: the interpreter with the little of its library that stage 1 loads, modules, and the policy.

Two cpio archives follow one another: the program and everything it needs, and the policy file.
"""

import json
import stat
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from images import elf, interpreter
from images.cpio import CpioEntry, encode
from images.errors import ImageError, InputError
from images.node_tree import GUEST, LOADER, runner
from images.tree import Tree

FOLDERS = ("dev", "modules", "proc", "sys", "sysroot")
POLICY = "policy.json"

# What stage 1 imports, and every file that came with it; asked of the image's interpreter itself.
_LOADED = """
import ctypes, fcntl, json, os, struct, sys, time, typing, encodings.ascii, encodings.latin_1
print(json.dumps(sorted({m.__file__ for m in list(sys.modules.values()) if getattr(m, "__file__", None)})))
"""


def program(
    root: Tree, stage: Path, modules: Sequence[tuple[str, bytes]], origins: Mapping[str, str] | None = None
) -> Tree:
    """The RAM disk's tree but for the policy; files come from the root volume's tree. Raises ImageError.

    ``origins`` names the packages of modules that are not the kernel's own.
    """
    disk = Tree()
    disk.add_file("init", GUEST / "stage1.py", "images", executable=True)
    disk.add_link("lib64", "lib", "images")
    for folder in FOLDERS:
        disk.add_folder(folder, "images")
    for name, data in modules:
        disk.add_file(f"modules/{name}.ko", data, (origins or {}).get(name, "linux-image"))
    wanted = {interpreter.PROGRAM, *_library(stage)}
    for path in sorted(wanted):
        _take(root, disk, path)
        folder, _, name = path.rpartition("/")
        for cached in (
            f"{folder}/__pycache__/{name.removesuffix('.py')}.{tag}.pyc" for tag in _tags(root, folder)
        ):
            if name.endswith(".py") and cached in root.nodes:
                _take(root, disk, cached)
    # The first thing that the interpreter looks for, to know where its library is.
    marker = next(path for path in root.nodes if path.endswith("lib-dynload"))
    disk.add_folder(marker, "images")
    pending = [
        name for node in list(disk.files()) if _is_native(node.path) for name in elf.needed(node.read())
    ]
    while pending:
        path = f"lib/{pending.pop()}"
        if path in disk.nodes:
            continue
        if path not in root.nodes:
            raise InputError(
                "library_missing", "stage 1 needs a library that the root volume lacks", path=path
            )
        _take(root, disk, path)
        pending += elf.needed(root.nodes[path].read())
    return disk


def archive(disk: Tree, policy: bytes) -> bytes:
    """The RAM disk's bytes."""
    entries = [CpioEntry(node.path, node.mode, node.read()) for node in disk.ordered()]
    return encode(entries) + encode([CpioEntry(POLICY, stat.S_IFREG | 0o444, policy)])


def _library(stage: Path) -> list[str]:
    done = subprocess.run(
        [*runner(stage), "-I", "-S", "-B", "-c", _LOADED], capture_output=True, text=True, check=False, env={}
    )
    if done.returncode:
        raise ImageError(
            "interpreter_broken", f"the image's interpreter does not run here: {done.stderr[-200:]}"
        )
    return [Path(path).relative_to(stage).as_posix() for path in json.loads(done.stdout)]


def _take(root: Tree, disk: Tree, path: str) -> None:
    node = root.nodes[path]
    if path not in disk.nodes:
        disk.add_file(path, node.content, node.package, executable=path in (interpreter.PROGRAM, LOADER))


def _tags(root: Tree, folder: str) -> set[str]:
    prefix = f"{folder}/__pycache__/"
    return {
        path.rsplit(".", 2)[1] for path in root.nodes if path.startswith(prefix) and path.endswith(".pyc")
    }


def _is_native(path: str) -> bool:
    return ".so" in path or path == interpreter.PROGRAM
