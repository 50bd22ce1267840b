"""``cloister image kernel``: build a recipe's own kernel, and see that a second build gives the same bytes."""

import hashlib
import time
from typing import Annotated

import typer

from images.errors import ImageError, ImageMismatch, RecipeError
from images.sources import CacheOption, InputsOption, MirrorOption, Sources
from images.terminal import OK, Bars, failed, print_json, status_of

HELP = """Build the kernel of a recipe that has one of its own, from Debian's source and by a locked compiler.

It is kept under the hash of its inputs, so that image build takes it from there; image build builds it where it is not
kept. It takes some minutes of two processors and two gigabytes of disk. With --again it is built a second time, whether
it is kept or not, and both have to be the same bytes.

The resulting options have to be those of the file `options` beside the kernel's configuration, all of them and no
other. With --write-options that file is written instead, for people to compare.

Exit status 2: an input is not served any more, or this machine gives no user namespace. 3: the options or the bytes
are others.
"""


def kernel(
    name: Annotated[str, typer.Argument(help="The recipe.")],
    again: Annotated[bool, typer.Option("--again", help="Build it once more and compare.")] = False,
    write_options: Annotated[
        bool, typer.Option("--write-options", help="Build, and write the options that result.")
    ] = False,
    cache: CacheOption = None,
    mirror: MirrorOption = None,
    inputs: InputsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> int:
    """See ``cloister image kernel --help``."""
    from images import kernel_build, recipe

    started = time.monotonic()
    try:
        chosen = recipe.load(name)
        if not chosen.kernel["build"]:
            raise RecipeError(
                "kernel_packaged", f"the kernel of {chosen.name} comes as a package; nothing is built"
            )
        wanted = kernel_build.load(chosen)
        store = Sources(cache, mirror, inputs).store(wanted.lock)
        with Bars() as report:
            if write_options:
                path = kernel_build.FOLDER / wanted.name / "options"
                path.write_text(kernel_build.listed_options(kernel_build.build(wanted, store, report)))
                print(f"written: {path}")
                return OK
            found = kernel_build.get(wanted, store, report)
            if again:
                second = kernel_build.build(wanted, store, report)
                if (second.image, second.config) != (found.image, found.config):
                    raise ImageMismatch(
                        "kernel_differs",
                        "a second build gives other bytes",
                        expected=hashlib.sha256(found.image).hexdigest(),
                        found=hashlib.sha256(second.image).hexdigest(),
                    )
    except ImageError as error:
        return failed(error, status_of(error))
    result = {
        "release": found.release,
        "inputs_sha256": wanted.key(),
        "vmlinuz_sha256": hashlib.sha256(found.image).hexdigest(),
        "bytes": len(found.image),
        "options": len(found.options),
        "built_again": again,
        "seconds": round(time.monotonic() - started, 1),
    }
    if as_json:
        print_json(result)
    else:
        print(f"Linux {found.release}, {len(found.image) / 1e6:.1f} MB, {len(found.options)} options")
        print(f"vmlinuz sha256 {result['vmlinuz_sha256']}" + (", built twice, equal" if again else ""))
        print(f"inputs  sha256 {wanted.key()}")
    return OK
