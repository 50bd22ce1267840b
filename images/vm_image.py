"""Building a virtual-machine image from a recipe, a lock, a model and a node's configuration.

::

    IMAGE_DIR/image.json     the manifest (images.vm_manifest)
    IMAGE_DIR/vmlinuz, initrd, cmdline        what a hypervisor loads by itself
    IMAGE_DIR/image.efi      the same three as a unified kernel image
    IMAGE_DIR/root.img       the root volume: file system, then hash tree
    IMAGE_DIR/model.img      the model volume
    IMAGE_DIR/policy.json    the measured policy, a copy of the one in the initial RAM disk
    IMAGE_DIR/sbom.cdx.json  what it is made of (CycloneDX)
    IMAGE_DIR/firmware/      firmware to launch it with; not part of the machine's volumes
    IMAGE_DIR/predictions/   what hardware must report for it (images.predictions)

Everything is made in ``IMAGE_DIR/building`` and moved into place at the end, the manifest last.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rfc8785

from images import (
    census,
    deb,
    driver,
    gpu_kernels,
    kernel_build,
    lock,
    node_tree,
    ram_disk,
    recipe,
    sbom,
    uki,
    vm_manifest,
    volume,
)
from images.errors import ImageError, RecipeError
from images.input_store import InputStore
from images.kernel import Kernel
from images.lock import Lock
from images.manifest import hash_file
from images.recipe import Recipe
from images.tree import Tree
from images.vm_manifest import ARTIFACTS, Artifact, VmManifest

STUB = "usr/lib/systemd/boot/efi/linuxx64.efi.stub"
FIRMWARE = {
    "usr/share/ovmf/OVMF.fd": "OVMF.fd",
    "usr/share/OVMF/OVMF_CODE_4M.fd": "OVMF_CODE_4M.fd",
    "usr/share/OVMF/OVMF_VARS_4M.fd": "OVMF_VARS_4M.fd",
}
COMPILED = "app/enclave_runtime/engine/cpu/"
MAX_CONFIG = 32 * 1024

_TSM = ("/sys/kernel/config/tsm/report",)
_LOG = "/sys/kernel/security/tpm0/binary_bios_measurements"
DEVICES: Mapping[str, tuple[str, ...]] = {
    "simulated": (),
    "tpm": ("/dev/tpmrm0", _LOG),
    "sev-snp": ("/dev/sev-guest", *_TSM),
    "tdx": ("/dev/tdx_guest", *_TSM),
    "azure-snp": ("/dev/tpmrm0", _LOG),
    "azure-tdx": ("/dev/tpmrm0", _LOG),
}
"""By platform, what PID 1 gives to the node's user; what is not there is left out, and the node finds that it is."""

_NETWORK = ("address", "prefix", "gateway", "port", "metrics_port")

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class VmInputs:
    """What a recipe does not say: the model, its identity (NAME@REVISION), and the node's configuration.

    ``config`` is the node's measured command line, as ``cloister serve --show-command-line`` prints it. A draft model
    that it names lies beside the model, and is carried in the same volume.
    """

    model: Path
    identity: str
    config: bytes


def build(
    chosen: Recipe, locked: Lock, store: InputStore, given: VmInputs, out: Path, progress: Progress
) -> VmManifest:
    """Build the image in ``out``, replacing one that is there. Raises ImageError.

    The same recipe, lock, model and configuration give the same bytes, wherever, whenever and by whom.
    """
    if chosen.driver and not driver.packages_of(locked):
        raise driver.missing(chosen)
    config, platform, draft, kernels = _config(given.config)
    work = _prepare(out.resolve())
    stage = work / "stage"
    store.fetch(locked, progress)
    kernel, origin = kernel_of(chosen, locked, store, progress)
    carried = driver.read(chosen, locked, store)
    if carried is not None:
        kernel = carried.added_to(kernel)
    modules = kernel.load_order([*chosen.kernel["modules"], *chosen.driver.get("modules", ())])
    root = node_tree.build(chosen, locked, store, stage, progress, carried)
    _require_decoder(root, locked, kernels)
    disk = ram_disk.program(root, stage, modules, None if carried is None else carried.origin)
    model = volume.model_tree(given.model, draft)
    volumes = [
        volume.write(
            root, work / "root.img", name="root", mount="/", identity=f"{chosen.name}@root", progress=progress
        ),
        volume.write(
            model,
            work / "model.img",
            name="model",
            mount="/models/0",
            identity=given.identity,
            progress=progress,
        ),
    ]
    policy = _policy(chosen, volumes, [name for name, _ in modules], given.model, config, platform)
    measured_policy = rfc8785.dumps(policy)
    cmdline = chosen.kernel["cmdline"].encode()
    initrd = ram_disk.archive(disk, measured_policy)
    files = [
        *vm_manifest.inner_files("initrd", disk),
        *vm_manifest.inner_files("model", model),
        *vm_manifest.inner_files("root", root),
    ]
    census.require(chosen, kernel, files)
    _write_all(
        work,
        {
            "vmlinuz": kernel.image,
            "initrd": initrd,
            "cmdline": cmdline,
            "policy.json": measured_policy,
            "image.efi": _unified(locked, store, chosen, kernel, initrd, cmdline),
            "sbom.cdx.json": sbom.encode(chosen, locked, files),
            **_firmware(locked, store),
        },
    )
    shutil.rmtree(stage)
    manifest = VmManifest(
        chosen.name,
        hashlib.sha256(locked.encode()).hexdigest(),
        {
            **origin,
            "release": kernel.release,
            "options_sha256": hashlib.sha256(rfc8785.dumps(dict(kernel.options))).hexdigest(),
        },
        cmdline.decode(),
        _artifacts(work, progress),
        dict(chosen.platforms),
        policy,
        tuple(sorted(files, key=lambda file: file.path.encode())),
    )
    (work / "image.json").write_bytes(manifest.encode())
    _move_in(work, out)
    return manifest


def verify_files(image_dir: Path, progress: Callable[[int], None] | None = None) -> VmManifest:
    """Rehash every artifact of an image against its manifest. Raises ManifestError, ImageMismatch."""
    manifest = vm_manifest.read(image_dir)
    for name in sorted(manifest.artifacts):
        expected = manifest.artifacts[name]
        try:
            digest, size = hash_file(image_dir / name)
        except OSError as error:
            raise census.mismatch("file_missing", "a listed file is missing", name) from error
        if (size, digest) != (expected.size, expected.sha256):
            raise census.mismatch("file_changed", "content differs", name, expected.sha256, digest)
        if progress is not None:
            progress(size)
    return manifest


def kernel_of(
    chosen: Recipe, locked: Lock, store: InputStore, progress: Progress
) -> tuple[Kernel, dict[str, str]]:
    """The kernel of a recipe, out of a package or built (see ``images.kernel_build``), and where it comes from.

    Raises ImageError.
    """
    if chosen.kernel["build"]:
        wanted = kernel_build.load(chosen)
        kernel = kernel_build.get(wanted, store, progress)
        return kernel, {"package": wanted.package, "inputs_sha256": wanted.key()}
    package = next((deb for deb in locked.debs if deb.name.startswith("linux-image-")), None)
    if package is None:
        raise RecipeError("lock_incomplete", f"the lock of {chosen.name} has no linux-image package")
    store.fetch_one(package)
    return Kernel.of_package(store.path(package)), {"package": f"{package.name} {package.version}"}


def inputs_of(chosen: Recipe, locked: Lock) -> tuple[Lock, ...]:
    """Every lock that an image of this recipe is built from. Raises RecipeError."""
    kernel = (kernel_build.load(chosen).lock,) if chosen.kernel["build"] else ()
    return (locked, *kernel, *((gpu_kernels.load(chosen.gpu_kernels).lock,) if chosen.gpu_kernels else ()))


def load(name: str) -> tuple[Recipe, Lock]:
    """A recipe with its lock: one of the package by name, or a file NAME.toml with NAME.json beside it.

    Raises RecipeError, InputUnavailable for a driver that was never locked.
    """
    chosen = recipe.load(name)
    beside = recipe.lock_path(chosen, name)
    if chosen.driver and not beside.exists():
        raise driver.missing(chosen)
    return chosen, lock.read(beside)


def _config(data: bytes) -> tuple[str, str, str, str]:
    """The node's configuration as text; the platform, the draft model and the decoder's kernels that it names."""
    try:
        text = data.decode().strip()
    except UnicodeDecodeError as error:
        raise RecipeError("config_malformed", "the node's configuration is not UTF-8") from error
    try:
        document: dict[str, Any] = json.loads(text) if len(data) <= MAX_CONFIG else {"platform": ""}
        platform, draft = str(document["platform"]), document.get("draft", {}).get("name", "")
        kernels = str(document.get("decoder", {}).get("kernels", "auto"))
        if not isinstance(draft, str) or "/" in draft or draft in (".", ".."):
            raise RecipeError("config_malformed", "its draft has no plain name", found=draft)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise RecipeError("config_malformed", "not what cloister serve --show-command-line prints") from error
    if platform not in DEVICES:
        raise RecipeError(
            "config_malformed", "its platform is not known", expected=", ".join(DEVICES), found=platform
        )
    return text, platform, draft, kernels


def _require_decoder(root: Tree, locked: Lock, kernels: str) -> None:
    """Whether something in the image can compute a model in the way that the configuration asks for."""
    torch = any(wheel.name == "torch" for wheel in locked.wheels)
    compiled = any(path.startswith(COMPILED) and path.endswith(".so") for path in root.nodes)
    if kernels == "torch" and not torch:
        raise RecipeError(
            "decoder_missing",
            "the node's configuration asks for PyTorch, which this recipe's images do not have",
        )
    if kernels in ("auto", "compiled") and not compiled and not torch:
        raise RecipeError(
            "decoder_missing",
            "the compiled decoder was not built with this program, and the image has no other",
            advice="Install a C compiler (gcc or clang), then cloister again with its extra 'node' or 'runtime'.",
        )


def _policy(
    chosen: Recipe, volumes: list[volume.Volume], modules: list[str], model: Path, config: str, platform: str
) -> dict[str, Any]:
    guest = chosen.guest
    return {
        "v": 1,
        "recipe": chosen.name,
        "volumes": [entry.policy() for entry in volumes],
        "modules": modules,
        "tolerated_modules": sorted(set(chosen.kernel["tolerated"]) & set(modules)),
        "network": {name: guest[name] for name in _NETWORK},
        "staples": {"bytes": guest["staple_bytes"], "pause_s": guest["staple_pause_s"]},
        "absent": sorted(chosen.kernel["absent"]),
        "console": guest["console"],
        "user": guest["user"],
        "model": f"/models/0/{model.name}" if model.is_file() else "/models/0",
        "platform": platform,
        "devices": list(DEVICES[platform]),
        "gpus": bool(chosen.driver),
        "node": config,
    }


def _unified(
    locked: Lock, store: InputStore, chosen: Recipe, kernel: Kernel, initrd: bytes, cmdline: bytes
) -> bytes:
    stub = _members(locked, store, "systemd-boot-efi", {STUB: "stub"})["stub"]
    release = f'ID=cloister\nNAME="Cloister"\nIMAGE_ID={chosen.name}\n'.encode()
    sections = {
        "osrel": release,
        "cmdline": cmdline,
        "initrd": initrd,
        "linux": kernel.image,
    }
    return uki.assemble(stub, sections)


def _firmware(locked: Lock, store: InputStore) -> dict[str, bytes]:
    found = _members(locked, store, "ovmf", FIRMWARE)
    return {f"firmware/{name}": data for name, data in found.items()}


def _members(locked: Lock, store: InputStore, package: str, wanted: Mapping[str, str]) -> dict[str, bytes]:
    found = {
        wanted[member.path]: member.data
        for member in deb.read_package(store.path(locked.deb(package)))
        if member.path in wanted
    }
    if missing := sorted(set(wanted.values()) - set(found)):
        raise RecipeError("package_lacks", f"{package} has no {missing[0]}")
    return found


def _prepare(out: Path) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    ours = {"image.json", "building", "firmware", "predictions", *ARTIFACTS}
    if foreign := sorted(entry.name for entry in out.iterdir() if entry.name not in ours):
        raise ImageError("folder_in_use", f"{out} holds other things: {', '.join(foreign[:3])}")
    work = out / "building"
    shutil.rmtree(work, ignore_errors=True)
    (work / "stage").mkdir(parents=True)
    return work


def _write_all(work: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        path = work / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)


def _artifacts(work: Path, progress: Progress) -> dict[str, Artifact]:
    names = sorted(p.relative_to(work).as_posix() for p in work.rglob("*") if p.is_file())
    found = {}
    for done, name in enumerate(names, 1):
        digest, size = hash_file(work / name)
        found[name] = Artifact(size, digest)
        progress("digests", done, len(names))
    return found


def _move_in(work: Path, out: Path) -> None:
    (out / "image.json").unlink(missing_ok=True)  # Without it the rest is no image.
    for folder in ("firmware", "predictions"):
        shutil.rmtree(out / folder, ignore_errors=True)
    for path in sorted(work.iterdir(), key=lambda path: path.name == "image.json"):
        os.replace(path, out / path.name)
    work.rmdir()
