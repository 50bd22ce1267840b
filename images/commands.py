"""``cloister image``: building, checking, auditing and booting images."""

from pathlib import Path
from typing import Annotated

import typer

from images import manifest, vm_commands, vm_manifest
from images.errors import ImageError, ImageMismatch, ManifestError
from images.sources import CacheOption, InputsOption, MirrorOption, RecipeOption, Sources
from images.terminal import OK, REFUSED, USAGE_OR_IO, Bars, failed, print_json


def register(app: typer.Typer) -> None:
    """Add ``cloister image`` and its commands."""
    image = typer.Typer(name="image", help="Build, check and boot images.", no_args_is_help=True)
    image.command("build", help=_BUILD)(build)
    image.command("verify", help=_VERIFY)(verify)
    vm_commands.register(image)
    app.add_typer(image)


_BUILD = """Build an image.

The recipe `process` gives a folder from which the sealed node runs as an ordinary process: its own loader,
interpreter, libraries and packages, with image.json naming every file's digest. With unchanged inputs the
folder's image is kept.

Other recipes (`cloister image lock --list`) give a virtual machine: kernel, initial RAM disk, root volume and model
volume with their hash trees, from inputs that are locked by their SHA-256. It takes a model (--model) and the node's
configuration (--config, what `cloister serve --show-command-line` prints).

Exit status 0: built or kept. 1: an input is missing or changed. 2: it cannot be built here. 3: the census refuses it.
"""

_VERIFY = """Check an image against its image.json: every file is rehashed.

With --rebuild a virtual-machine image is built a second time, in another place, as another user, with another file
mode mask, time zone, hash seed and order of inputs, and every artifact is compared.

Exit status 0: all as listed. 3: something differs, is missing or was added; the first path is named. 1: no image.
"""


def build(
    recipe: Annotated[str, typer.Argument(help="What to build: process, or a recipe of a virtual machine.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for the image.")],
    model: Annotated[Path | None, typer.Option(help="The model: a file or a folder.")] = None,
    config: Annotated[Path | None, typer.Option(help="The file with the node's configuration.")] = None,
    model_id: Annotated[
        str, typer.Option(help="What the model volume is called, NAME@REVISION; default: from its file.")
    ] = "",
    cache: CacheOption = None,
    mirror: MirrorOption = None,
    inputs: InputsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> int:
    """See ``cloister image build --help``."""
    if recipe != "process":
        sources = Sources(cache, mirror, inputs)
        return vm_commands.build(recipe, out, model, config, model_id, sources, as_json)
    # Building needs what the extra `images` brings; verifying does not.
    from images import process_image

    try:
        with Bars() as report:
            built = process_image.build(out, progress=report)
    except ImageError as error:
        return failed(error, USAGE_OR_IO)
    described = built.manifest
    if as_json:
        print_json(
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
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build it a second time and compare.")] = False,
    model: Annotated[
        Path | None, typer.Option(help="With --rebuild: the model, to build its volume again as well.")
    ] = None,
    recipe_file: RecipeOption = None,
    cache: CacheOption = None,
    mirror: MirrorOption = None,
    inputs: InputsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> int:
    """See ``cloister image verify --help``."""
    if vm_manifest.is_vm(image_dir):
        sources = Sources(cache, mirror, inputs)
        return vm_commands.verify(image_dir, rebuild, model, recipe_file, sources, as_json)
    if rebuild:
        error = ManifestError(
            "not_a_machine",
            f"--rebuild is for images of virtual machines, and {image_dir} is none",
            advice="To compare a process image, build it again with 'cloister image build process -o OTHER': the\n"
            "same packages, compiler and Python give the same sha256.",
        )
        return failed(error, USAGE_OR_IO)
    try:
        total = manifest.read(image_dir).size
        done = 0
        with Bars() as report:

            def count(size: int) -> None:
                nonlocal done
                done += size
                report("digests", done, max(total, done))

            described = manifest.verify(image_dir, count)
    except ImageMismatch as error:
        if as_json:
            print_json({"verdict": "refused", "code": error.code, "path": error.path})
        return failed(error, REFUSED)
    except ManifestError as error:
        return failed(error, USAGE_OR_IO)
    if as_json:
        print_json({"verdict": "verified", "sha256": described.digest(), "files": len(described.files)})
    else:
        print(f"verified {image_dir}: {len(described.files):,} files, image.json sha256 {described.digest()}")
    return OK
