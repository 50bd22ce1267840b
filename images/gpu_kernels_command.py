"""``cloister image gpu-kernels``: compile the kernels of a GPU's decoder, and see that a second build is the same."""

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from images.errors import ImageError, ImageMismatch
from images.sources import CacheOption, InputsOption, MirrorOption, Sources
from images.terminal import OK, USAGE_OR_IO, Bars, failed, print_json, status_of

HELP = """Compile the GPU kernels for a shape of model, by the locked compiler. No GPU is needed.

They are kept under the hash of their inputs, so that image build takes them from there, for a recipe that names the
shape (gpu_kernels). With --out they are written into a folder; a node that is not in an image looks for them in
enclave_runtime/engine/cuda/cubins. With --again they are compiled a second time, whether they are kept or not, and both
have to be the same bytes.

Exit status 2: the compiler's wheel or the Python that it is made for cannot be had here. 3: the bytes are others.
"""


def gpu_kernels(
    shape: Annotated[str, typer.Argument(help="The shape of model, such as llama-3.1-8b.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A folder to write them into.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Compile once more and compare.")] = False,
    cache: CacheOption = None,
    mirror: MirrorOption = None,
    inputs: InputsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> int:
    """See ``cloister image gpu-kernels --help``."""
    from images import gpu_kernels as kernels

    started = time.monotonic()
    try:
        wanted = kernels.load(shape)
        store = Sources(cache, mirror, inputs).store(wanted.lock)
        with Bars() as report:
            found = kernels.get(wanted, store, report)
            if again:
                _compare(found, kernels.build(wanted, store, report))
        if out is not None:
            kernels.write(found, out)
    except ImageError as error:
        return failed(error, status_of(error))
    except OSError as error:
        return failed(ImageError("not_written", f"{out}: {error.strerror}"), USAGE_OR_IO)
    result = {
        "shape": shape,
        "compiler": wanted.compiler,
        "inputs_sha256": wanted.key(),
        "kernels_sha256": hashlib.sha256(found["kernels.json"]).hexdigest(),
        "files": len(found),
        "bytes": sum(map(len, found.values())),
        "built_again": again,
        "seconds": round(time.monotonic() - started, 1),
    }
    if as_json:
        print_json(result)
    else:
        print(f"{len(found) - 1} kernels for {shape} by {wanted.compiler}, {result['bytes']:,} bytes")
        print(f"kernels.json sha256 {result['kernels_sha256']}" + (", built twice, equal" if again else ""))
        print(f"inputs       sha256 {wanted.key()}")
    return OK


def _compare(one: Mapping[str, bytes], other: Mapping[str, bytes]) -> None:
    for name in sorted(one.keys() | other.keys()):
        if one.get(name) != other.get(name):
            raise ImageMismatch(
                "gpu_kernels_differ",
                "a second build gives other bytes",
                path=name,
                expected=hashlib.sha256(one.get(name, b"")).hexdigest(),
                found=hashlib.sha256(other.get(name, b"")).hexdigest(),
            )
