"""An image is what it says: built again elsewhere, counted, and read by Debian's own tools."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from vm_world import VmRelease, cloister, require

from images import vm_manifest


@pytest.mark.exhaustive
def test_the_demo_asks_a_virtual_machine_on_the_simulated_platform(
    vm_release: VmRelease, tmp_path: Path
) -> None:
    done = cloister("demo", "--vm", "--state", tmp_path, "--model", vm_release.model, "--max-tokens", 4)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"(\d+) of (\d+) pieces of the seal in force", done.stdout)
    assert found is not None
    assert found[1] == found[2]
    assert "is cloister/node" in done.stdout + done.stderr
    assert "refused: ohttp_keys_mismatch" in done.stdout


@pytest.mark.exhaustive
def test_the_demo_asks_a_virtual_machine_whose_tpm_vouches_for_it(
    vm_release: VmRelease, tmp_path: Path
) -> None:
    require("swtpm_setup", "swtpm-tools")
    done = cloister(
        "demo", "--vm", "--tpm", "--state", tmp_path, "--model", vm_release.model, "--max-tokens", 4
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"(\d+) of (\d+) pieces of the seal in force", done.stdout)
    assert found is not None
    assert found[1] == found[2]
    assert "refused: ohttp_keys_mismatch" in done.stdout


def test_the_image_is_rebuilt_bit_for_bit_elsewhere_by_somebody_else(vm_release: VmRelease) -> None:
    done = cloister("image", "verify", vm_release.image, "--rebuild", "--model", vm_release.model, "--json")
    assert done.returncode == 0, done.stderr
    artifacts = vm_manifest.read(vm_release.image).artifacts
    assert json.loads(done.stdout)["rebuilt"] == sorted(artifacts)


def test_the_census_is_as_the_recipe_allows(vm_release: VmRelease) -> None:
    done = cloister("image", "audit", vm_release.image, "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["check"]: row["found"] for row in json.loads(done.stdout)["rows"]}
    assert rows["programs"].split(", ") == [
        "initrd:init",
        "initrd:lib/ld-linux-x86-64.so.2",
        "initrd:python/bin/python3",
        "lib/ld-linux-x86-64.so.2",
    ]


def test_debians_own_tools_read_the_volumes(vm_release: VmRelease, tmp_path: Path) -> None:
    require("fsck.erofs", "erofs-utils")
    require("veritysetup", "cryptsetup-bin")
    for volume in vm_manifest.read(vm_release.image).policy["volumes"]:
        image = vm_release.image / f"{volume['name']}.img"
        subprocess.run(["fsck.erofs", image], check=True, capture_output=True)
        blocks = volume["data_blocks"]
        hashes = tmp_path / f"{volume['name']}.hashes"
        words = [
            "veritysetup",
            "format",
            "--no-superblock",
            f"--salt={volume['salt']}",
            f"--data-blocks={blocks}",
        ]
        done = subprocess.run([*words, image, hashes], check=True, capture_output=True, text=True)
        assert volume["root_hash"] in done.stdout
        with image.open("rb") as file:
            file.seek(blocks * 4096)
            assert file.read() == hashes.read_bytes()


@pytest.mark.exhaustive
def test_an_archive_of_inputs_builds_the_same_image_without_a_mirror(
    vm_release: VmRelease, tmp_path: Path
) -> None:
    archive = tmp_path / "inputs.tar"
    assert cloister("image", "inputs", "cpu-dev", "-o", archive).returncode == 0
    first = vm_manifest.read(vm_release.image)
    config = tmp_path / "config.json"
    config.write_text(first.policy["node"])
    words = [
        "--model",
        vm_release.model,
        "--model-id",
        first.policy["volumes"][1]["identity"],
        "--config",
        config,
    ]
    words += ["--cache", tmp_path / "empty", "--inputs", archive, "--mirror", "file:///nowhere"]
    done = cloister("image", "build", "cpu-dev", "-o", tmp_path / "again", *words)
    assert done.returncode == 0, done.stderr
    assert vm_manifest.read(tmp_path / "again") == first
    shutil.rmtree(tmp_path / "again")
