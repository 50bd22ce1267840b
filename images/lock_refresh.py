"""Locking anew: every lock that an image is built and measured from, as this machine's apt and pip have it now."""

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from images import apt, driver, gpu_kernels, kernel_build, recipe, snp_boot, wheels
from images import lock as locks
from images.errors import RecipeError
from images.lock import Lock, LockedDeb
from images.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Refreshed:
    """A lock's file, what it should hold now, and what that changes, in words."""

    path: Path
    lock: Lock
    changes: tuple[str, ...]

    def write(self) -> None:
        """Put the new lock in place."""
        self.path.write_bytes(self.lock.encode())


def refresh(chosen: Recipe, own: Path, driver_debs: Sequence[LockedDeb] | None = None) -> Iterator[Refreshed]:
    """The recipe's lock, which lies in the file ``own``; that of its kernel where it has one of its own; that of the
    GPU kernels' compiler where it has those; and that of the firmware for SEV-SNP.

    ``driver_debs`` are the packages of a GPU's driver; None: those of the lock that there is. Writes nothing. Raises
    InputUnavailable, RecipeError.
    """
    if driver_debs is None:
        driver_debs = driver.packages_of(locks.read(own)) if own.exists() else ()
    yield _compare(
        own,
        Lock(
            chosen.name,
            (*apt.resolve(chosen.debian["closure"], chosen.debian["exact"]), *driver_debs),
            wheels.resolve(chosen.python["project"], chosen.python["extra"]),
        ),
    )
    if name := chosen.kernel["build"]:
        closure, exact = _toolchain(name)
        yield _compare(recipe.LOCKS / f"{name}.json", Lock(name, apt.resolve(closure, exact), ()))
    if chosen.gpu_kernels:
        yield _compare(
            recipe.LOCKS / f"{gpu_kernels.LOCK}.json",
            Lock(gpu_kernels.LOCK, (), wheels.locked([gpu_kernels.COMPILER])),
        )
    firmware = apt.of_suite(snp_boot.SUITE, [snp_boot.PACKAGE])
    yield _compare(recipe.LOCKS / f"{snp_boot.LOCK}.json", Lock(snp_boot.LOCK, firmware, ()))


def _compare(path: Path, lock: Lock) -> Refreshed:
    before = locks.read(path) if path.exists() else None
    return Refreshed(path, lock, tuple(locks.changes(before, lock)))


def _toolchain(name: str) -> tuple[list[str], list[str]]:
    try:
        document = tomllib.loads((kernel_build.FOLDER / name / "toolchain.toml").read_text("utf-8"))
        closure, exact = document["closure"], document["exact"]
    except (OSError, ValueError, LookupError) as error:
        raise RecipeError(
            "kernel_unknown", f"images/kernels/{name} has no readable toolchain.toml"
        ) from error
    if not all(
        isinstance(names, list) and all(isinstance(n, str) for n in names) for names in (closure, exact)
    ):
        raise RecipeError("kernel_unknown", f"images/kernels/{name}/toolchain.toml is malformed")
    return closure, exact
