"""A kernel of an image's own, compiled from Debian's source by a locked toolchain (``images.toolchain``).

``images/kernels/NAME/`` has what makes it: ``kernel.config``, what differs from Linux's own defaults; patches, applied
in order of their names; and ``options``, every option that then results. A build whose options are others, in either
direction, is refused. ``images/locks/NAME.json`` locks compiler and source. The recipe's command line is compiled in
and any other is ignored.

The same inputs give the same bytes: one path, one time, one name of the builder. So a built kernel is kept under the
hash of its inputs, in ``kernels/`` of the folder for inputs, and read back only with the digests it was kept with.
"""

import hashlib
import re
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rfc8785

from images import kept_files, toolchain
from images import lock as locks
from images.errors import CensusError, InputError, RecipeError
from images.input_store import InputStore
from images.kernel import Kernel
from images.lock import Lock
from images.recipe import LOCKS, Recipe

FOLDER = Path(__file__).resolve().parent / "kernels"
METHOD = 1
"""Counted up whenever this module makes another kernel from the same inputs."""

SOURCE = "linux"
JOBS = 2
_ENVIRONMENT = {
    "PATH": "/usr/bin:/usr/sbin",
    "LC_ALL": "C",
    "TZ": "UTC",
    "KBUILD_BUILD_TIMESTAMP": "1970-01-01 00:00:00 UTC",
    "KBUILD_BUILD_USER": "cloister",
    "KBUILD_BUILD_HOST": "cloister",
    "KBUILD_BUILD_VERSION": "1",
}
_MAKE = ("make", f"-C/{toolchain.BUILD}/{SOURCE}", "ARCH=x86")
# Of no use to this kernel, and half of the source. What says how to build stays, since other parts refer to it.
_UNUSED = re.compile(
    r"[^/]+/(arch/(?!x86/)[^/]+|Documentation|sound|samples|drivers/(gpu|media|staging|infiniband)|tools/(testing|perf))/"
    r"(?!(.*/)?(Kconfig|Makefile|Kbuild)[^/]*$)"
)
_STEPS_EXPECTED = 1700
"""About how many lines compiling says; for the progress bar alone."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class KernelBuild:
    """Everything that decides over a kernel's bytes. ``patches`` are names and contents, in order."""

    name: str
    lock: Lock
    fragment: str
    options: str
    patches: tuple[tuple[str, bytes], ...]
    cmdline: str

    def key(self) -> str:
        """SHA-256 of the inputs, in hex."""
        inputs: dict[str, Any] = {
            "method": METHOD,
            "environment": _ENVIRONMENT,
            "debs": [[deb.name, deb.sha256] for deb in sorted(self.lock.debs, key=lambda deb: deb.name)],
            "config": self.config(),
            "options": self.options,
            "patches": [[name, hashlib.sha256(data).hexdigest()] for name, data in self.patches],
        }
        return hashlib.sha256(rfc8785.dumps(inputs)).hexdigest()

    def config(self) -> str:
        """The options asked for, with the command line. Raises RecipeError."""
        if not self.cmdline.isascii() or set(self.cmdline) & set('"\\$`'):
            raise RecipeError("cmdline_malformed", "a command line that is compiled in has no quotes")
        line = f'CONFIG_CMDLINE_BOOL=y\nCONFIG_CMDLINE_OVERRIDE=y\nCONFIG_CMDLINE="{self.cmdline}"\n'
        return self.fragment + line

    @property
    def package(self) -> str:
        """The package with the source, and its version."""
        source = next(deb for deb in self.lock.debs if deb.name.startswith("linux-source-"))
        return f"{source.name} {source.version}"


def load(recipe: Recipe) -> KernelBuild:
    """What makes the kernel of a recipe that has one of its own. Raises RecipeError."""
    name = recipe.kernel["build"]
    folder = FOLDER / name
    try:
        return KernelBuild(
            name,
            locks.read(LOCKS / f"{name}.json"),
            (folder / "kernel.config").read_text("ascii"),
            (folder / "options").read_text("ascii") if (folder / "options").exists() else "",
            tuple((path.name, path.read_bytes()) for path in sorted(folder.glob("*.patch"))),
            recipe.kernel["cmdline"],
        )
    except (OSError, UnicodeError) as error:
        raise RecipeError("kernel_unknown", f"images/kernels has no kernel {name}") from error


def kept(wanted: KernelBuild, store: InputStore) -> Kernel | None:
    """The kernel, where one was built from these very inputs; None where not, or where what is kept has changed."""
    found = kept_files.read(_place(wanted, store)) or {}
    try:
        return Kernel(found["release"].decode(), found["vmlinuz"], found["config"])
    except (LookupError, ValueError):
        return None


def keep(wanted: KernelBuild, store: InputStore, kernel: Kernel) -> None:
    """Keep a kernel under the hash of its inputs."""
    files = {"release": kernel.release.encode(), "vmlinuz": kernel.image, "config": kernel.config}
    kept_files.write(_place(wanted, store), files)


def get(wanted: KernelBuild, store: InputStore, progress: Progress) -> Kernel:
    """The kernel that is kept, else one built now and kept. Raises what :func:`build` does."""
    if (found := kept(wanted, store)) is not None:
        return found
    kernel = build(wanted, store, progress)
    require_options(wanted, kernel)
    keep(wanted, store, kernel)
    return kernel


def build(wanted: KernelBuild, store: InputStore, progress: Progress) -> Kernel:
    """Compile the kernel: minutes of processor time, two gigabytes of disk.

    Raises ImageError (``toolchain_failed``, ``namespace_refused``, or what an input lacks).
    """
    store.fetch(wanted.lock, progress)
    with tempfile.TemporaryDirectory(prefix="cloister-kernel-") as scratch:
        root = Path(scratch, "root")
        root.mkdir()
        _prepare(wanted, store, root, progress)
        made = root / toolchain.BUILD / SOURCE
        _run(root, (*_MAKE, "alldefconfig"), KCONFIG_ALLCONFIG=f"/{toolchain.BUILD}/fragment")
        require_fragment(wanted, (made / ".config").read_text("ascii"))
        for done, _ in enumerate(toolchain.run(root, (*_MAKE, f"-j{JOBS}", "bzImage"), _ENVIRONMENT), 1):
            progress("kernel", min(done, _STEPS_EXPECTED - 1), _STEPS_EXPECTED)
        progress("kernel", _STEPS_EXPECTED, _STEPS_EXPECTED)
        release = (made / "include/config/kernel.release").read_text("ascii").strip()
        return Kernel(release, (made / "arch/x86/boot/bzImage").read_bytes(), (made / ".config").read_bytes())


def require_fragment(wanted: KernelBuild, config: str) -> None:
    """Whether every line that was asked for holds: Linux drops without a word what cannot be.

    Raises CensusError (``kernel_options``) naming the first.
    """
    lines = set(config.splitlines())
    named = set(_NAMED.findall(config))
    for line in wanted.config().splitlines():
        unset = _UNSET.fullmatch(line)
        holds = unset[1] not in named if unset else line in lines or not line or line.startswith("#")
        if not holds:
            raise CensusError("kernel_options", "an option did not come out as asked for", expected=line)


def require_options(wanted: KernelBuild, kernel: Kernel) -> None:
    """Whether the kernel has the options of ``options``, all of them and no other.

    Raises CensusError (``kernel_options``) naming what is new and what is missing.
    """
    expected, found = set(wanted.options.split("\n")), set(listed_options(kernel).split("\n"))
    if expected != found:
        more, less = sorted(found - expected), sorted(expected - found)
        raise CensusError(
            "kernel_options",
            f"the kernel's options are not those of images/kernels/{wanted.name}/options",
            expected=", ".join(less[:8]) or "nothing more",
            found=", ".join(more[:8]) or "nothing more",
        )


def listed_options(kernel: Kernel) -> str:
    """The text of an ``options`` file: what has a value, but for the command line, which is the recipe's."""
    rows = (f"{name}={value}" for name, value in kernel.options.items() if name != "CMDLINE")
    return "\n".join(sorted(rows)) + "\n"


_NAMED = re.compile(r"^CONFIG_([A-Za-z0-9_]+)=", re.MULTILINE)
_UNSET = re.compile(r"# CONFIG_([A-Za-z0-9_]+) is not set")


def _prepare(wanted: KernelBuild, store: InputStore, root: Path, progress: Progress) -> None:
    toolchain.unpack(wanted.lock, store, root, progress)
    packed = next((root / "usr" / "src").glob("linux-source-*.tar.xz"))
    target = root / toolchain.BUILD / SOURCE
    progress("source", 0, 1)
    try:
        with tarfile.open(packed) as archive:
            for info in archive:
                if _UNUSED.match(info.name) and not info.isdir():
                    continue
                info.name = info.name.partition("/")[2]
                if info.name:
                    archive.extract(info, target, filter="data")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(
            "source_malformed", "the kernel's source cannot be unpacked", path=packed.name
        ) from error
    packed.unlink()
    progress("source", 1, 1)
    toolchain.put(root, [("fragment", wanted.config().encode()), *wanted.patches])
    for name, _ in wanted.patches:
        words = ("patch", "-p1", "--no-backup-if-mismatch", "--fuzz=0", "-i", f"/{toolchain.BUILD}/{name}")
        _run(root, (*words, "-d", f"/{toolchain.BUILD}/{SOURCE}"))


def _run(root: Path, words: tuple[str, ...], **more: str) -> None:
    for _ in toolchain.run(root, words, {**_ENVIRONMENT, **more}):
        pass


def _place(wanted: KernelBuild, store: InputStore) -> Path:
    return store.folder / "kernels" / wanted.key()
