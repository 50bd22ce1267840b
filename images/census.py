"""What is in an image, counted, and held against its recipe's lists of what may and what must not be there."""

import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from images.errors import CensusError, ImageMismatch
from images.kernel import Kernel
from images.recipe import Recipe
from images.vm_manifest import InnerFile


@dataclass(frozen=True, slots=True)
class Row:
    """One question and its answer; ``failed`` says that the recipe does not allow the answer."""

    check: str
    found: str
    failed: bool


def rows(recipe: Recipe, kernel: Kernel, files: Sequence[InnerFile]) -> tuple[Row, ...]:
    """Every check of the census in a fixed order."""
    lists = recipe.census
    named = [(file.path.removeprefix("root:"), file) for file in files if not file.path.startswith("model:")]
    runnable = sorted(path for path, file in named if stat.S_ISREG(file.mode) and file.mode & 0o111)
    special = [path for path, file in named if file.mode & 0o6000]
    writable = [path for path, file in named if stat.S_ISREG(file.mode) and file.mode & 0o022]
    denied = [path for path, _ in named if any(re.search(rule, path) for rule in lists["denied_paths"])]
    options = {f"{name}={value}" for name, value in kernel.options.items()}
    lacking = sorted(set(lists["required_options"]) - options)
    unwanted = sorted(set(lists["denied_options"]) & options)
    words = recipe.kernel["cmdline"].split()
    bad_words = [word for word in words if any(word.startswith(rule) for rule in lists["denied_words"])]
    unexpected = sorted(set(runnable) ^ set(lists["programs"]))
    return (
        Row("programs", _list(runnable), bool(unexpected)),
        Row("programs.unexpected", _list(unexpected), bool(unexpected)),
        Row("mode.setuid", _list(special), bool(special)),
        Row("mode.writable", _list(writable), bool(writable)),
        Row("paths.denied", _list(denied), bool(denied)),
        Row("kernel.release", kernel.release, False),
        Row("kernel.required", _held(lists["required_options"], lacking, "set", "lacking"), bool(lacking)),
        Row("kernel.denied", _held(lists["denied_options"], unwanted, "absent", "set"), bool(unwanted)),
        Row("kernel.modules", _list([*recipe.kernel["modules"], *recipe.driver.get("modules", ())]), False),
        Row("cmdline", recipe.kernel["cmdline"], bool(bad_words)),
        Row("listening", _listening(recipe), False),
        Row("staples", _staples(recipe), False),
        Row("user", str(recipe.guest["user"]), recipe.guest["user"] == 0),
        Row("files", f"{len(files)} from {len({file.package for file in files})} packages", False),
    )


def require(recipe: Recipe, kernel: Kernel, files: Sequence[InnerFile]) -> tuple[Row, ...]:
    """The census, where all of it is as the recipe demands. Raises CensusError naming the first that is not."""
    taken = rows(recipe, kernel, files)
    for row in taken:
        if row.failed:
            raise CensusError("census", f"{row.check}: the recipe does not allow {row.found}")
    return taken


def mismatch(
    code: str, detail: str, path: str, expected: object = None, found: object = None
) -> ImageMismatch:
    """The error for an image that is not what it should be."""
    return ImageMismatch(code, detail, path=path, expected=expected, found=found)


def _listening(recipe: Recipe) -> str:
    guest = recipe.guest
    return f"TCP {guest['port']} (the node) and {guest['metrics_port']} (its metrics) on {guest['address']}"


def _staples(recipe: Recipe) -> str:
    guest = recipe.guest
    if not guest["staple_bytes"]:
        return "the one that it boots with"
    return f"fresh ones of at most {guest['staple_bytes']:,} bytes, one in {guest['staple_pause_s']} s"


def _held(wanted: Sequence[str], odd: Sequence[str], good: str, bad: str) -> str:
    return f"{bad}: {_list(odd)}" if odd else f"all {len(wanted)} {good}"


def _list(items: Iterable[str]) -> str:
    found = list(items)
    shown = ", ".join(found[:8])
    return f"{shown} and {len(found) - 8} more" if len(found) > 8 else shown or "none"
