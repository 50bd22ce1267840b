"""The image commands for virtual machines."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from images import boot_command, gpu_kernels_command, kernel_command, recipe, vm_manifest
from images.errors import ImageError, RecipeError
from images.sources import CacheOption, InputsOption, MirrorOption, RecipeOption, Sources
from images.terminal import OK, REFUSED, Bars, failed, print_json, status_of
from measurements.vm_predictions import SEV_FIRMWARE

_Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def register(image: typer.Typer) -> None:
    """Add the commands that only virtual machines have."""
    image.command("audit", help=_AUDIT)(audit)
    image.command("boot", help=boot_command.HELP)(boot_command.boot)
    image.command("kernel", help=kernel_command.HELP)(kernel_command.kernel)
    image.command("gpu-kernels", help=gpu_kernels_command.HELP)(gpu_kernels_command.gpu_kernels)
    image.command("lock", help=_LOCK)(lock)
    image.command("inputs", help=_INPUTS)(inputs)


_AUDIT = """Take a census of an image: programs, modes, device nodes, kernel options, what listens.

The same lists of what is allowed and denied end a build (recipe, table `census`). Exit status 3: something that is
there is not allowed, or something that must be there is not.
"""

_LOCK = """Refresh a recipe's locks from this machine's apt and pip, and show what changes.

Beside its own these are the lock of a kernel that it builds, and that of the firmware that SEV-SNP digests are for.

With --list, only name the recipes. With --check, write nothing; exit status 3 where something would change.
"""

_INPUTS = """Pack every input of a recipe into one archive, for building the image again in years.

The archive is the same bytes for the same lock; `image build --inputs ARCHIVE` takes inputs from it.
"""


def build(
    name: str,
    out: Path,
    model: Path | None,
    config: Path | None,
    model_id: str,
    sources: Sources,
    as_json: bool,
) -> int:
    """``cloister image build RECIPE`` for a virtual machine."""
    from images import predictions, vm_image

    try:
        chosen, locked = vm_image.load(name)
        if model is None or config is None:
            raise RecipeError(
                "inputs_missing",
                "a virtual machine takes --model and --config",
                advice="The configuration is what 'cloister serve --model MODEL --show-command-line' prints, with\n"
                "--state for the simulated platform, or --evidence tpm, sev-snp or tdx (docs/images.md).",
            )
        identity = model_id or f"{model.stem if model.is_file() else model.name}@local"
        with Bars() as report:
            given = vm_image.VmInputs(model, identity, config.read_bytes())
            store = sources.store(*vm_image.inputs_of(chosen, locked))
            built = vm_image.build(chosen, locked, store, given, out, report)
            predicted = predictions.write(out, sources)
    except ImageError as error:
        return failed(error, status_of(error))
    size = sum(artifact.size for artifact in built.artifacts.values())
    if as_json:
        print_json({"image": str(out), "sha256": built.digest(), "files": len(built.files), "bytes": size})
    else:
        print(f"built {out}: {len(built.files):,} files inside, {size / 1e6:,.0f} MB")
        for part in ("vmlinuz", "initrd", "root.img", "model.img", "image.efi"):
            print(
                f"  {part:<10} {built.artifacts[part].size / 1e6:>10,.1f} MB  {built.artifacts[part].sha256}"
            )
        print(
            f"{len(predicted.elements)} measurements predicted, {len(predicted.records)} records: {out}/predictions"
        )
        if not (out / "firmware" / SEV_FIRMWARE).is_file():
            print("digests for SEV-SNP are not among them: the package of its firmware could not be had")
        print(f"image.json sha256 {built.digest()}")
    return OK


def verify(
    image_dir: Path,
    again: bool,
    model: Path | None,
    recipe_file: Path | None,
    sources: Sources,
    as_json: bool,
) -> int:
    """``cloister image verify`` for a virtual machine."""
    from images import rebuild, vm_image

    try:
        with Bars() as report:
            total = sum(artifact.size for artifact in vm_manifest.read(image_dir).artifacts.values())
            done = 0

            def count(size: int) -> None:
                nonlocal done
                done += size
                report("digests", done, max(total, done))

            described = vm_image.verify_files(image_dir, count)
            compared: tuple[str, ...] = ()
            if again:
                name = str(recipe_file or described.recipe)
                store = sources.store(*vm_image.inputs_of(*vm_image.load(name)))
                compared = rebuild.compare(described, name, store, model, report)
    except ImageError as error:
        if as_json and status_of(error) == REFUSED:
            print_json({"verdict": "refused", "code": error.code, "path": error.path, "detail": error.detail})
        return failed(error, status_of(error))
    if as_json:
        print_json({"verdict": "verified", "sha256": described.digest(), "rebuilt": list(compared)})
    else:
        print(
            f"verified {image_dir}: {len(described.artifacts)} artifacts, image.json sha256 {described.digest()}"
        )
        if compared:
            print(f"rebuilt elsewhere, equal: {', '.join(compared)}")
    return OK


def audit(
    image_dir: Annotated[Path, typer.Argument(help="A folder that image build made.")],
    recipe_file: RecipeOption = None,
    cache: CacheOption = None,
    mirror: MirrorOption = None,
    archive: InputsOption = None,
    as_json: _Json = False,
) -> int:
    """See ``cloister image audit --help``."""
    from images import census, vm_image

    try:
        described = vm_manifest.read(image_dir)
        chosen, locked = vm_image.load(str(recipe_file or described.recipe))
        store = Sources(cache, mirror, archive).store(*vm_image.inputs_of(chosen, locked))
        with Bars() as report:
            kernel, _ = vm_image.kernel_of(chosen, locked, store, report)
        taken = census.rows(chosen, kernel, described.files)
    except ImageError as error:
        return failed(error, status_of(error))
    refused = any(row.failed for row in taken)
    if as_json:
        rows = [{"check": row.check, "found": row.found, "failed": row.failed} for row in taken]
        print_json({"verdict": "refused" if refused else "as the recipe allows", "rows": rows})
    else:
        table = Table("check", "", "found", box=None, pad_edge=False)
        for row in taken:
            table.add_row(row.check, "✗" if row.failed else "✓", row.found)
        Console(width=None).print(table, markup=False)
    return REFUSED if refused else OK


def lock(
    name: Annotated[str, typer.Argument(help="The recipe, or a file NAME.toml.")] = "",
    show: Annotated[bool, typer.Option("--list", help="Name the recipes and end.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Write nothing.")] = False,
    gpu_driver: Annotated[
        Path | None, typer.Option("--driver", help="A folder with the packages of a GPU's driver.")
    ] = None,
    cache: CacheOption = None,
    as_json: _Json = False,
) -> int:
    """See ``cloister image lock --help``."""
    from images import driver, lock_refresh
    from images.input_store import InputStore

    if show or not name:
        for known in recipe.names():
            print(f"{known:<12} {recipe.load(known).description}")
        return OK
    try:
        chosen = recipe.load(name)
        own = recipe.lock_path(chosen, name)
        packages = None
        if gpu_driver is not None:
            packages = driver.lock_folder(gpu_driver, InputStore(Sources(cache, None).folder, {}))
        found = list(lock_refresh.refresh(chosen, own, packages))
        if not check:
            for refreshed in found:
                refreshed.write()
    except ImageError as error:
        return failed(error, status_of(error))
    changed = any(refreshed.changes for refreshed in found)
    if as_json:
        print_json([{"lock": str(one.path), "changes": one.changes} for one in found])
    else:
        for refreshed in found:
            print(f"{refreshed.path.name}: {len(refreshed.changes) or 'no'} changes")
            for said in refreshed.changes:
                print(f"  {said}")
    return REFUSED if check and changed else OK


def inputs(
    name: Annotated[str, typer.Argument(help="The recipe.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The archive to write.")],
    cache: CacheOption = None,
    mirror: MirrorOption = None,
    archive: InputsOption = None,
) -> int:
    """See ``cloister image inputs --help``."""
    from images import vm_image

    try:
        chosen, locked = vm_image.load(name)
        every = vm_image.inputs_of(chosen, locked)
        store = Sources(cache, mirror, archive).store(*every)
        with Bars() as report:
            for one in every:
                store.fetch(one, report)
        store.pack(every, out)
    except ImageError as error:
        return failed(error, status_of(error))
    debs, files = (sum(len(getattr(one, kind)) for one in every) for kind in ("debs", "wheels"))
    print(f"packed {debs} packages and {files} wheels into {out}")
    return OK
