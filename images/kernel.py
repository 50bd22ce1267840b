"""The kernel of an image: its executable, its options, and the modules that an image loads."""

import lzma
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from images import deb, elf
from images.errors import InputError

MAX_MODULE = 64 << 20
_OPTION = re.compile(r"^CONFIG_([A-Z0-9_]+)=(.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Kernel:
    """``image`` is the bzImage, ``config`` the configuration it was built from, ``modules`` name to packed file."""

    release: str
    image: bytes
    config: bytes
    modules: Mapping[str, bytes] = field(default_factory=dict)
    builtin: frozenset[str] = frozenset()

    @property
    def options(self) -> Mapping[str, str]:
        """Every option that has a value, without CONFIG_."""
        return dict(_OPTION.findall(self.config.decode("ascii", "replace")))

    @classmethod
    def of_package(cls, path: Path) -> "Kernel":
        """The kernel in a package. Raises InputError."""
        image, config, release, builtin = b"", b"", "", ""
        modules: dict[str, bytes] = {}
        for member in deb.read_package(path):
            folder, _, name = member.path.rpartition("/")
            if folder == "boot" and name.startswith("vmlinuz-"):
                image, release = member.data, name.removeprefix("vmlinuz-")
            elif folder == "boot" and name.startswith("config-"):
                config = member.data
            elif name == "modules.builtin":
                builtin = member.data.decode("ascii", "replace")
            elif name.endswith((".ko", ".ko.xz")):
                modules[module_name(name)] = member.data
        if not image or not config:
            raise InputError(
                "kernel_missing", "the package has no kernel with its configuration", path=path.name
            )
        built = frozenset(module_name(line.rsplit("/", 1)[-1]) for line in builtin.split())
        return cls(release, image, config, modules, built)

    def load_order(self, wanted: Iterable[str]) -> tuple[tuple[str, bytes], ...]:
        """The unpacked modules of ``wanted`` and all they depend on, each behind what it needs.

        What is built into the kernel is left out. Raises InputError for one that does not exist.
        """
        ordered: dict[str, bytes] = {}
        open_names: list[str] = []

        def visit(name: str, required: bool) -> None:
            if name in ordered or name in self.builtin:
                return
            if name not in self.modules:
                if required:
                    raise InputError("module_missing", f"the kernel has no module {name}")
                return
            if name in open_names:
                return
            open_names.append(name)
            data = unpacked(name, self.modules[name])
            information = elf.module_information(data)
            for line in information.get("softdep", ()):
                before = line.partition("post:")[0].removeprefix("pre:")
                for other in before.split():
                    visit(module_name(other), required=False)
            for other in ",".join(information.get("depends", ())).split(","):
                if other:
                    visit(module_name(other), required=True)
            ordered[name] = data

        for name in wanted:
            visit(module_name(name), required=True)
        return tuple(ordered.items())


def module_name(file: str) -> str:
    """A module's name as the kernel has it, from that of its file."""
    return file.removesuffix(".xz").removesuffix(".ko").replace("-", "_")


def unpacked(name: str, data: bytes) -> bytes:
    """A module's ELF file, which packages carry as it is or packed by xz. Raises InputError."""
    if elf.is_elf(data):
        return data
    try:
        unpacked = lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(data, MAX_MODULE + 1)
    except lzma.LZMAError as error:
        raise InputError("module_malformed", f"the module {name} cannot be unpacked") from error
    if len(unpacked) > MAX_MODULE:
        raise InputError("module_malformed", f"the module {name} is too large")
    return unpacked
