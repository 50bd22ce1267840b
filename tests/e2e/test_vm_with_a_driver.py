"""An image for a GPU with a stand-in for its driver: everything but what NVIDIA lets nobody pass on."""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import stand_in_driver
from machine_probe import reaches_its_first_program
from vm_world import require_machines

from enclave_runtime.config import NodeConfig
from images import apt, census, driver, recipe, vm_image, vm_manifest
from images.input_store import InputStore
from images.kernel import Kernel, unpacked
from images.lock import Lock
from images.recipe import Recipe
from images.sources import Sources
from images.vm_manifest import VmManifest

LABEL = f"{stand_in_driver.VERSION}-1"


def build(
    folder: Path, modules: Mapping[str, bytes] | None = None, absent: frozenset[str] = frozenset()
) -> tuple[Recipe, Kernel, VmManifest]:
    """`h100-snp` with packages as `cpu-dev` has them, none of Python's, and a driver without substance.

    ``absent`` are modules of the kernel's own whose hardware a machine that is to boot it does not have.
    """
    require_machines()
    store = InputStore(Sources(None, None).folder, apt.mirrors())
    chosen, locked = recipe.load("h100-snp"), vm_image.load("cpu-dev")[1]
    kernel, _ = vm_image.kernel_of(chosen, locked, store, lambda *_: None)
    packages = driver.lock_folder(
        stand_in_driver.write(folder / "driver", kernel.release, modules=modules), store
    )
    (folder / "model").write_bytes(b"a model")
    own = [name for name in chosen.kernel["modules"] if name not in absent]
    chosen = replace(chosen, gpu_kernels="", kernel={**chosen.kernel, "modules": own})
    debs = tuple(sorted((*locked.debs, *packages), key=lambda deb: deb.name))
    given = vm_image.VmInputs(
        folder / "model", "model@1", NodeConfig("m", platform="sev-snp", gpu_count=0).encode()
    )
    with contextlib.chdir(folder):  # a place named as people name one
        built = vm_image.build(chosen, Lock(chosen.name, debs, ()), store, given, Path("vm"), lambda *_: None)
    return chosen, kernel, built


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Kernel, VmManifest]:
    return build(tmp_path_factory.mktemp("gpu"))


def test_every_file_of_the_driver_is_in_its_place_with_its_package(
    image: tuple[Recipe, Kernel, VmManifest],
) -> None:
    files = {file.path: file.package for file in image[2].files}
    for name in ("nvidia", "nvidia_uvm", "nvidia_modeset"):
        assert files[f"initrd:modules/{name}.ko"] == f"nvidia-open-modules {LABEL}"
    for name in stand_in_driver.LIBRARIES:
        assert files[f"root:lib/{name}"] == f"nvidia-libraries {LABEL}"
    firmware = f"root:lib/firmware/nvidia/{stand_in_driver.VERSION}/"
    assert files[f"{firmware}gsp_ga10x.bin"] == f"nvidia-firmware {LABEL}"
    assert f"{firmware}gsp_tu10x.bin" not in files
    assert not any("nvidia-smi" in path for path in files)


def test_the_measured_policy_loads_the_modules_behind_the_kernels_own(
    image: tuple[Recipe, Kernel, VmManifest],
) -> None:
    policy = image[2].policy
    assert policy["gpus"] is True
    assert policy["modules"][-3:] == ["nvidia", "nvidia_uvm", "nvidia_modeset"]
    assert "erofs" in policy["modules"]
    assert json.loads(policy["node"])["platform"] == "sev-snp"


def test_the_census_finds_nothing_that_the_recipe_does_not_allow(
    image: tuple[Recipe, Kernel, VmManifest],
) -> None:
    chosen, kernel, built = image
    rows = {row.check: row for row in census.require(chosen, kernel, built.files)}
    assert "nvidia" in rows["kernel.modules"].found
    assert rows["user"].found != "0"


@pytest.mark.exhaustive
def test_a_machine_loads_them_and_goes_on_to_its_first_program(tmp_path: Path) -> None:
    """Modules of the kernel's own that need no device stand in, under the names of the driver's."""
    require_machines()
    store = InputStore(Sources(None, None).folder, apt.mirrors())
    kernel, _ = vm_image.kernel_of(
        recipe.load("cpu-dev"), vm_image.load("cpu-dev")[1], store, lambda *_: None
    )
    real = ("dummy", "tun", "loop")
    modules = {
        name: stand_in_driver.with_version(unpacked(other, kernel.modules[other]))
        for name, other in zip(stand_in_driver.MODULES, real, strict=True)
    }
    build(tmp_path, modules, absent=frozenset({"sev_guest"}))
    assert vm_manifest.read(tmp_path / "vm").policy["modules"][-3:] == [
        "nvidia",
        "nvidia_uvm",
        "nvidia_modeset",
    ]
    assert reaches_its_first_program(tmp_path / "vm")
