"""``cloister image build | verify | boot``."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from images import manifest
from images.errors import ImageError, ImageMismatch, ManifestError

OK, USAGE_OR_IO, NOT_AVAILABLE, REFUSED = range(4)

_errors = Console(stderr=True, soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add ``cloister image`` and its commands."""
    image = typer.Typer(name="image", help="Build, check and boot images.", no_args_is_help=True)
    image.command("build", help=_BUILD)(build)
    image.command("verify", help=_VERIFY)(verify)
    image.command("boot", help="Boot a sealed virtual-machine image. Not available yet.")(boot)
    app.add_typer(image)


_BUILD = """Build an image.

The recipe `process` gives a folder from which the sealed node runs as an ordinary process: its own loader,
interpreter, libraries and packages, with image.json naming every file's digest. With unchanged inputs the
folder's image is kept. Exit status 0: built or kept. 1: an input is missing or changed. 2: unknown recipe.
"""

_VERIFY = """Rehash every file of an image against its image.json.

Exit status 0: all as listed. 3: a file differs, is missing or was added; the first one is named. 1: no image.
"""


def build(
    recipe: Annotated[str, typer.Argument(help="What to build: process.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for the image.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> int:
    """See ``cloister image build --help``."""
    if recipe != "process":
        return _not_available(f"the recipe {recipe!r}; there is: process")
    # Building needs what the extra `images` brings; verifying does not.
    from images import process_image

    try:
        with _Bars() as report:
            built = process_image.build(out, progress=report)
    except ImageError as error:
        return _failed(error, USAGE_OR_IO)
    described = built.manifest
    if as_json:
        _print_json(
            {
                "image": str(out),
                "sha256": described.digest(),
                "files": len(described.files),
                "bytes": described.size,
                "rebuilt": built.rebuilt,
            }
        )
    else:
        what = "built" if built.rebuilt else "unchanged"
        print(f"{what} {out}: {len(described.files):,} files, {described.size / 1e6:,.0f} MB")
        print(f"image.json sha256 {described.digest()}")
    return OK


def verify(
    image_dir: Annotated[Path, typer.Argument(help="A folder that image build made.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> int:
    """See ``cloister image verify --help``."""
    try:
        total = manifest.read(image_dir).size
        done = 0
        with _Bars() as report:

            def count(size: int) -> None:
                nonlocal done
                done += size
                report("digests", done, max(total, done))

            described = manifest.verify(image_dir, count)
    except ImageMismatch as error:
        if as_json:
            _print_json({"verdict": "refused", "code": error.code, "path": error.path})
        return _failed(error, REFUSED)
    except ManifestError as error:
        return _failed(error, USAGE_OR_IO)
    if as_json:
        _print_json({"verdict": "verified", "sha256": described.digest(), "files": len(described.files)})
    else:
        print(f"verified {image_dir}: {len(described.files):,} files, image.json sha256 {described.digest()}")
    return OK


def boot() -> int:
    """See ``cloister image boot --help``."""
    return _not_available("booting a virtual-machine image")


class _Bars:
    """A bar on standard error for each step, shown on a terminal only."""

    def __enter__(self) -> Callable[[str, int, int], None]:
        columns = (
            TextColumn("{task.description:<9}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._bars = Progress(*columns, console=_errors, transient=True, disable=not _errors.is_terminal)
        self._tasks: dict[str, TaskID] = {}
        self._bars.start()
        return self._report

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def _report(self, step: str, done: int, total: int) -> None:
        if step not in self._tasks:
            self._tasks[step] = self._bars.add_task(step, total=total)
        self._bars.update(self._tasks[step], completed=done, total=total)


def _failed(error: ImageError, status: int) -> int:
    _errors.print(f"error {error}", style="red", markup=False, highlight=False)
    if error.expected is not None or error.found is not None:
        _errors.print(f"expected {error.expected}\nfound    {error.found}", markup=False, highlight=False)
    return status


def _not_available(what: str) -> int:
    _errors.print(f"not available yet: {what}", markup=False, highlight=False)
    return NOT_AVAILABLE


def _print_json(document: object) -> None:
    json.dump(document, sys.stdout, indent=2)
    print()
