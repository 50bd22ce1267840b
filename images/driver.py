"""A GPU's driver in an image: modules, firmware and libraries that only an operator can fetch, by hash like the rest.

They are Debian packages of the lock's archive ``driver``, put there by ``cloister image lock RECIPE --driver FOLDER``.
A recipe's table ``driver`` says what is taken out of them and nothing else is: modules by name, firmware by the last
part of its path, libraries by the names that programs open them by, in which ``VERSION`` stands for the driver's.
Everything has to be of one version, and the modules of the image's own kernel.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from images import deb, elf
from images.errors import InputError, InputUnavailable
from images.input_store import InputStore
from images.kernel import Kernel, module_name, unpacked
from images.lock import Lock, LockedDeb
from images.manifest import hash_file
from images.recipe import Recipe

ARCHIVE = "driver"
VERSION = "VERSION"
FIRMWARE = "lib/firmware/"
LIBRARIES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib64", "lib64")

_FILE = re.compile(r"(?P<name>[a-z0-9][a-z0-9+.-]*)_(?P<version>[A-Za-z0-9.+~%-]+)_(amd64|all)\.deb")


@dataclass(frozen=True, slots=True)
class Driver:
    """What an image carries of a driver. ``firmware`` has paths below ``lib/firmware``; ``libraries`` the names they
    are opened by; ``origin`` says which package a name or path comes from.
    """

    version: str
    modules: Mapping[str, bytes]
    firmware: Mapping[str, bytes]
    libraries: Mapping[str, bytes]
    origin: Mapping[str, str]

    def added_to(self, kernel: Kernel) -> Kernel:
        """The kernel with the driver's modules beside its own. Raises InputError where they are another kernel's."""
        for name, packed in self.modules.items():
            magic = elf.module_information(unpacked(name, packed)).get("vermagic", ("",))[0].split(" ")[0]
            if magic != kernel.release:
                raise InputError(
                    "module_of_another_kernel",
                    f"the module {name} was not built for the image's kernel",
                    expected=kernel.release,
                    found=magic,
                )
        return replace(kernel, modules={**kernel.modules, **self.modules})


def packages_of(locked: Lock) -> tuple[LockedDeb, ...]:
    """The driver's packages in a lock."""
    return tuple(package for package in locked.debs if package.archive == ARCHIVE)


def read(chosen: Recipe, locked: Lock, store: InputStore) -> Driver | None:
    """The driver of a recipe, None where it asks for none. Raises InputUnavailable (``driver_missing``), InputError."""
    if not chosen.driver:
        return None
    packages = packages_of(locked)
    if not packages:
        raise missing(chosen)
    found: dict[str, dict[str, bytes]] = {kind: {} for kind in ("modules", "firmware", "libraries")}
    wanted = {kind: set(chosen.driver[kind]) for kind in found}
    origin: dict[str, str] = {}
    links: dict[str, str] = {}
    files: dict[str, tuple[bytes, str]] = {}
    for package in packages:
        label = f"{package.name} {package.version}"
        for member in deb.read_package(store.path(package)):
            folder, _, name = member.path.rpartition("/")
            below = member.path.removeprefix("usr/").removeprefix(FIRMWARE)
            if folder in LIBRARIES and member.link:
                links[name] = member.link.rpartition("/")[2]
            elif folder in LIBRARIES and ".so" in name:
                files[name] = (member.data, label)
            elif name.endswith((".ko", ".ko.xz")) and module_name(name) in wanted["modules"]:
                found["modules"][module_name(name)] = member.data
                origin[module_name(name)] = label
            elif below != member.path.removeprefix("usr/") and name in wanted["firmware"]:
                found["firmware"][below] = member.data
                origin[below] = label
    versions = {
        name: elf.module_information(unpacked(name, packed)).get("version", ("",))[0]
        for name, packed in found["modules"].items()
    }
    version = next(iter(versions.values()), "")
    wanted["libraries"] = {name.replace(VERSION, version) for name in wanted["libraries"]}
    for name in sorted(wanted["libraries"]):
        file = _followed(name, links)
        if file in files:
            found["libraries"][name], origin[name] = files[file]
            versions[name] = file.partition(".so.")[2]
    versions |= {path: Path(path).parent.name for path in found["firmware"]}
    there = {"firmware": {path.rpartition("/")[2] for path in found["firmware"]}}
    for kind, names in wanted.items():
        if lacking := sorted(names - there.get(kind, set(found[kind]))):
            raise InputError("driver_lacks", f"the driver's packages have no {lacking[0]}")
    return Driver(_one_version(versions), found["modules"], found["firmware"], found["libraries"], origin)


def lock_folder(folder: Path, store: InputStore) -> tuple[LockedDeb, ...]:
    """Every package in a folder, kept in ``store`` and ready for a lock. Raises InputError."""
    locked = []
    for path in sorted(folder.glob("*.deb")):
        named = _FILE.fullmatch(path.name)
        if named is None:
            raise InputError("driver_file", "a package's file is NAME_VERSION_amd64.deb", path=path.name)
        digest, size = hash_file(path)
        version = named["version"].replace("%3a", ":")
        package = LockedDeb(named["name"], version, ARCHIVE, f"pool/{path.name}", size, digest)
        store.take(package, path)
        locked.append(package)
    if not locked:
        raise InputError("driver_file", f"there is no package (*.deb) in {folder}")
    return tuple(locked)


def missing(chosen: Recipe) -> InputUnavailable:
    """The error for a lock without its driver."""
    return InputUnavailable(
        "driver_missing",
        f"the lock of {chosen.name} has no driver: it takes {chosen.needs}",
        advice="Its makers let nobody pass it on. Put the packages into a folder, then (docs/images.md, 'GPUs')\n"
        f"  cloister image lock {chosen.name} --driver FOLDER",
    )


def _followed(name: str, links: Mapping[str, str]) -> str:
    for _ in range(8):
        if name not in links:
            break
        name = links[name]
    return name


def _one_version(versions: Mapping[str, str]) -> str:
    found = set(versions.values())
    if len(found) != 1 or "" in found:
        told = ", ".join(f"{name} {version or 'none'}" for name, version in sorted(versions.items()))
        raise InputError("driver_versions", f"the driver's parts are not of one version: {told}")
    return found.pop()
