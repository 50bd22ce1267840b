"""The root volume's tree: interpreter, libraries, packages and rooms of a node, out of locked inputs alone.

It has the layout of a process image (``lib``, ``python``, ``site``, ``app``, ``start.json``), so the same first
script runs in both. Of the system libraries only those are taken that something in the tree needs. Bytecode is
compiled by the interpreter that the tree carries, through the tree's own loader.
"""

import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from images import closure, deb, elf, gpu_kernels, interpreter, start_command, wheels
from images.bytecode_workers import compile_tree
from images.driver import ARCHIVE, FIRMWARE, Driver
from images.errors import InputError
from images.input_store import InputStore
from images.lock import Lock
from images.pruning import keeps_library, keeps_site
from images.recipe import Recipe
from images.tree import Tree

LOADER = "lib/ld-linux-x86-64.so.2"
GUEST = Path(__file__).resolve().parent / "guest"
MOUNT_POINTS = ("dev", "models/0", "proc", "run", "sys")

_LIBRARY_FOLDERS = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib64")

Progress = Callable[[str, int, int], None]


def build(
    recipe: Recipe,
    lock: Lock,
    store: InputStore,
    stage: Path,
    progress: Progress,
    driver: Driver | None = None,
) -> Tree:
    """The tree, its files laid out in the folder ``stage`` as well. Raises ImageError."""
    minor = f"python{recipe.python['version']}"
    tree = Tree()
    libraries: dict[str, tuple[bytes, str]] = {}
    total = len(lock.debs) + len(lock.wheels)
    for done, package in enumerate(lock.debs, 1):
        apart = package.name.startswith(("linux-image-", "systemd-boot", "ovmf"))
        if not apart and package.archive != ARCHIVE:
            _add_debian(tree, libraries, store.path(package), f"{package.name} {package.version}", minor)
        progress("unpack", done, total)
    for done, wheel in enumerate(lock.wheels, len(lock.debs) + 1):
        origin = f"{wheel.name} {wheel.version}"
        for path, info, archive in wheels.unpack(store.path(wheel), wheel.file):
            if keeps_site(path):
                target = _place(stage, f"site/{path}")
                with archive.open(info) as source, target.open("wb") as copy:
                    while chunk := source.read(1 << 20):
                        copy.write(chunk)
                tree.add_file(f"site/{path}", target, origin)
        progress("unpack", done, total)
    for file in closure.package_files(recipe.python["rooms"]):
        tree.add_file(file.target, file.source, file.target.split("/")[1])
    if recipe.gpu_kernels:
        wanted = gpu_kernels.load(recipe.gpu_kernels)
        for name, data in gpu_kernels.get(wanted, store, progress).items():
            tree.add_file(f"{gpu_kernels.FOLDER}/{name}", data, f"enclave_runtime by {wanted.compiler}")
    for name in ("start.py", "init.py"):
        tree.add_file(f"app/{name}", GUEST / name, "images")
    if driver is not None:
        for name, data in driver.libraries.items():
            tree.add_file(f"lib/{name}", data, driver.origin[name])
        for path, data in driver.firmware.items():
            tree.add_file(f"{FIRMWARE}{path}", data, driver.origin[path])
    _add_needed_libraries(tree, libraries)
    command = (
        f"{{root}}/{LOADER}",
        *("--inhibit-cache", "--library-path", "{root}/lib", f"{{root}}/{interpreter.PROGRAM}"),
        *("-I", "-S", "-B", "-X", "utf8", "{root}/app/start.py"),
    )
    tree.add_file(start_command.FILE, start_command.encode(command), "images")
    for folder in MOUNT_POINTS:
        tree.add_folder(folder, "images")
    leave_out = [re.compile(rule) for rule in recipe.python["left_out"]]
    for path in [path for path in tree.nodes if any(rule.search(path) for rule in leave_out)]:
        del tree.nodes[path]
    _lay_out(tree, stage)
    _compile(tree, stage, minor.removeprefix("python"), progress)
    return tree


def runner(stage: Path) -> list[str]:
    """The command that runs the interpreter of a tree laid out in ``stage``, on this machine."""
    library = str(stage / "lib")
    return [
        str(stage / LOADER),
        "--inhibit-cache",
        "--library-path",
        library,
        str(stage / interpreter.PROGRAM),
    ]


def _add_debian(
    tree: Tree, libraries: dict[str, tuple[bytes, str]], package: Path, origin: str, minor: str
) -> None:
    links: dict[str, str] = {}
    for member in deb.read_package(package):
        folder, _, name = member.path.rpartition("/")
        below = member.path.removeprefix(f"usr/lib/{minor}/")
        if member.path == f"usr/bin/{minor}":
            tree.add_file(interpreter.PROGRAM, member.data, origin)
        elif below != member.path and not member.link and keeps_library(below):
            tree.add_file(f"python/lib/{minor}/{below}", member.data, origin)
        elif folder in _LIBRARY_FOLDERS and ".so" in name:
            if member.link:
                links[name] = member.link.rsplit("/", 1)[-1]
            else:
                libraries[name] = (member.data, origin)
    for name, target in links.items():
        if target in libraries:
            libraries.setdefault(name, libraries[target])


def _add_needed_libraries(tree: Tree, libraries: Mapping[str, tuple[bytes, str]]) -> None:
    """The system libraries that ELF files of the tree need, and those that they need in turn."""
    carried = {node.path.rsplit("/", 1)[-1] for node in tree.files()}
    pending: list[str] = []
    for node in tree.files():
        if ".so" in node.path or node.path == interpreter.PROGRAM:
            data = node.read()
            if elf.is_elf(data):
                pending += elf.needed(data)
    while pending:
        name = pending.pop()
        path = f"lib/{name}"
        if name in carried or path in tree.nodes:
            continue
        if name not in libraries:
            raise InputError("library_missing", f"nothing in the lock provides {name}")
        data, origin = libraries[name]
        tree.add_file(path, data, origin, executable=path == LOADER)
        pending += elf.needed(data)


def _lay_out(tree: Tree, stage: Path) -> None:
    for node in tree.files():
        target = stage / node.path
        if node.content != target:
            _place(stage, node.path).write_bytes(node.read())
        target.chmod(stat.S_IMODE(node.mode) | stat.S_IWUSR)
    (stage / interpreter.PROGRAM).chmod(0o755)


def _compile(tree: Tree, stage: Path, version: str, progress: Progress) -> None:
    modules = [node.path for node in tree.files() if node.path.endswith(".py")]
    for done, _ in enumerate(compile_tree(stage, modules, runner(stage)), 1):
        progress("bytecode", done, len(modules))
    tag = f"cpython-{version.replace('.', '')}"
    for path in modules:
        folder, _, name = path.rpartition("/")
        cached = f"{folder}/__pycache__/{name.removesuffix('.py')}.{tag}.pyc"
        if (stage / cached).is_file():
            tree.add_file(cached, stage / cached, tree.nodes[path].package)


def _place(stage: Path, path: str) -> Path:
    target = stage / path
    target.parent.mkdir(parents=True, exist_ok=True)
    return target
