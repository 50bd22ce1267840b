"""The kernel of an image, out of a Debian package: its executable, its options, and the modules an image loads."""

import lzma
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from images import deb, elf
from images.errors import InputError

MAX_MODULE = 64 << 20
_OPTION = re.compile(r"^CONFIG_([A-Z0-9_]+)=(.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Kernel:
    """``image`` is the bzImage, ``options`` its configuration without CONFIG_, ``modules`` name to packed file."""

    release: str
    image: bytes
    options: Mapping[str, str]
    modules: Mapping[str, bytes]
    builtin: frozenset[str]

    @classmethod
    def of_package(cls, path: Path) -> "Kernel":
        """The kernel in a package. Raises InputError."""
        image, options, release, builtin = b"", "", "", ""
        modules: dict[str, bytes] = {}
        for member in deb.read_package(path):
            folder, _, name = member.path.rpartition("/")
            if folder == "boot" and name.startswith("vmlinuz-"):
                image, release = member.data, name.removeprefix("vmlinuz-")
            elif folder == "boot" and name.startswith("config-"):
                options = member.data.decode("ascii", "replace")
            elif name == "modules.builtin":
                builtin = member.data.decode("ascii", "replace")
            elif name.endswith((".ko", ".ko.xz")):
                modules[module_name(name)] = member.data
        if not image or not options:
            raise InputError(
                "kernel_missing", "the package has no kernel with its configuration", path=path.name
            )
        built = frozenset(module_name(line.rsplit("/", 1)[-1]) for line in builtin.split())
        return cls(release, image, dict(_OPTION.findall(options)), modules, built)

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
            data = _unpack(name, self.modules[name])
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


def _unpack(name: str, data: bytes) -> bytes:
    if elf.is_elf(data):
        return data
    try:
        unpacked = lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(data, MAX_MODULE + 1)
    except lzma.LZMAError as error:
        raise InputError("module_malformed", f"the module {name} cannot be unpacked") from error
    if len(unpacked) > MAX_MODULE:
        raise InputError("module_malformed", f"the module {name} is too large")
    return unpacked
