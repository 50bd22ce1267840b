"""A kernel of one's own: what decides over its bytes, what its options are held against, what is kept of it."""

from dataclasses import replace
from pathlib import Path

import pytest

from images import elf, kernel_build, lock, lock_refresh, recipe, toolchain
from images.deb import Member
from images.errors import CensusError, ImageError, InputError, InputUnavailable, RecipeError
from images.input_store import InputStore
from images.kernel import Kernel
from images.kernel_build import KernelBuild
from images.lock import Lock

LOADER = "/lib64/ld-linux-x86-64.so.2"
FRAGMENT = '# words\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_NAME="x"\n'
CONFIG = (
    b'CONFIG_A=y\nCONFIG_NAME="x"\nCONFIG_CMDLINE_BOOL=y\nCONFIG_CMDLINE_OVERRIDE=y\nCONFIG_CMDLINE="quiet"\n'
)
OPTIONS = 'A=y\nCMDLINE_BOOL=y\nCMDLINE_OVERRIDE=y\nNAME="x"\n'


@pytest.fixture
def wanted() -> KernelBuild:
    locked = lock.read(recipe.LOCKS / "cpu-dev.json")
    return KernelBuild(
        "tiny", Lock("tiny", locked.debs[:2], ()), FRAGMENT, OPTIONS, (("a.patch", b"+"),), "quiet"
    )


@pytest.fixture
def kernel() -> Kernel:
    return Kernel("6.12-sealed", b"bzImage", CONFIG)


def test_every_input_changes_the_key(wanted: KernelBuild) -> None:
    changed = [
        replace(wanted, lock=Lock("tiny", wanted.lock.debs[:1], ())),
        replace(wanted, fragment=FRAGMENT + "CONFIG_C=y\n"),
        replace(wanted, options=OPTIONS + "C=y\n"),
        replace(wanted, patches=(("a.patch", b"-"),)),
        replace(wanted, patches=()),
        replace(wanted, cmdline="quiet rdinit=/bin/sh"),
    ]
    keys = {other.key() for other in changed}
    assert len(keys) == len(changed)
    assert wanted.key() not in keys
    turned = replace(wanted, lock=Lock("tiny", wanted.lock.debs[::-1], ()))
    assert turned.key() == wanted.key()


@pytest.mark.parametrize("line", ['a"\nCONFIG_MODULES=y', "$(shell id)", "`id`", "é"])
def test_a_command_line_cannot_become_options(wanted: KernelBuild, line: str) -> None:
    with pytest.raises(RecipeError):
        replace(wanted, cmdline=line).config()


def test_options_are_held_in_both_directions(wanted: KernelBuild, kernel: Kernel) -> None:
    kernel_build.require_options(wanted, kernel)
    assert kernel_build.listed_options(kernel) == OPTIONS
    more, less = CONFIG + b"CONFIG_MODULES=y\n", CONFIG.replace(b"CONFIG_A=y\n", b"")
    for config, name in ((more, "MODULES=y"), (less, "A=y")):
        with pytest.raises(CensusError) as caught:
            kernel_build.require_options(wanted, replace(kernel, config=config))
        assert name in (caught.value.expected, caught.value.found)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"CONFIG_A=y\n", b""),
        (b"CONFIG_A=y\n", b"# CONFIG_A is not set\n"),
        (b"CONFIG_A=y\n", b"CONFIG_A=y\nCONFIG_B=y\n"),
        (b'"quiet"', b'"quiet rdinit=/x"'),
        (b"CONFIG_CMDLINE_OVERRIDE=y\n", b""),
    ],
)
def test_what_was_asked_for_and_dropped_is_refused(wanted: KernelBuild, before: bytes, after: bytes) -> None:
    kernel_build.require_fragment(wanted, CONFIG.decode())
    with pytest.raises(CensusError):
        kernel_build.require_fragment(wanted, CONFIG.replace(before, after).decode())


def test_a_kept_kernel_is_taken_only_as_it_was_kept(
    wanted: KernelBuild, kernel: Kernel, tmp_path: Path
) -> None:
    store = InputStore(tmp_path, {})
    assert kernel_build.kept(wanted, store) is None
    kernel_build.keep(wanted, store, kernel)
    assert kernel_build.kept(wanted, store) == kernel
    assert kernel_build.kept(replace(wanted, cmdline="other"), store) is None
    (tmp_path / "kernels" / wanted.key() / "vmlinuz").write_bytes(b"bzImagE")
    assert kernel_build.kept(wanted, store) is None


def test_the_recipes_kernels_are_there_and_their_locks_too() -> None:
    chosen = recipe.load("cpu-sealed")
    found = kernel_build.load(chosen)
    assert found.package.startswith("linux-source-6.12 6.12.")
    assert [name for name, _ in found.patches] == ["acpi-memory.patch"]
    closure, exact = lock_refresh._toolchain(chosen.kernel["build"])
    assert {*closure, *exact} <= {deb.name for deb in found.lock.debs}
    stated = {
        line.removeprefix("CONFIG_") for line in found.config().splitlines() if line.startswith("CONFIG_")
    }
    assert stated - set(found.options.splitlines()) == {f'CMDLINE="{found.cmdline}"'}
    with pytest.raises(RecipeError):
        kernel_build.load(replace(chosen, kernel={**chosen.kernel, "build": "no-such"}))


# The toolchain's own root.


@pytest.fixture
def root(tmp_path: Path) -> Path:
    store = InputStore(tmp_path / "inputs", {})
    made = tmp_path / "root"
    made.mkdir()
    toolchain.unpack(Lock("none", (), ()), store, made, lambda *_: None)
    return made


def test_a_package_cannot_write_outside_of_the_toolchain(root: Path, tmp_path: Path) -> None:
    toolchain._place(root, Member("bin/x", 0o755, b"program", ""))
    assert (root / "usr" / "bin" / "x").read_bytes() == b"program"
    toolchain._place(root, Member("usr/out", 0o777, b"", str(tmp_path)))
    with pytest.raises(InputError):
        toolchain._place(root, Member("usr/out/evil", 0o644, b"x", ""))
    assert not (tmp_path / "evil").exists()


def test_programs_see_nothing_but_the_toolchain(root: Path, tmp_path: Path) -> None:
    """One of the machine's own programs stands in for a compiler; it finds no file that is not in the folder."""
    pending = {Path("/bin/ls").resolve(): "bin/ls", Path(LOADER).resolve(): LOADER.removeprefix("/")}
    if not all(path.exists() for path in pending):
        pytest.skip("this machine has another C library")
    while pending:
        path, target = pending.popitem()
        data = path.read_bytes()
        toolchain._place(root, Member(target, 0o755, data, ""))
        for name in elf.needed(data):
            library = Path("/lib/x86_64-linux-gnu", name)
            if library.exists() and not (root / library.relative_to("/")).exists():
                pending[library.resolve()] = str(library.relative_to("/"))
    try:
        listed = list(toolchain.run(root, ["/bin/ls", "/"], {}))
    except InputUnavailable:
        pytest.skip("this machine gives no user namespace")
    assert listed == ["bin", "build", "dev", "lib", "lib64", "sbin", "tmp", "usr"]
    assert list(toolchain.run(root, ["/bin/ls", "/dev", "/tmp"], {})) == ["/dev:", "null", "", "/tmp:"]
    with pytest.raises(ImageError) as caught:
        list(toolchain.run(root, ["/bin/ls", str(tmp_path)], {}))
    assert caught.value.code == "toolchain_failed"
