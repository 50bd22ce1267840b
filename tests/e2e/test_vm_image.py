"""The whole path against a virtual machine: build, boot, verify, ask; then build again elsewhere and compare."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from vm_world import VmRun, cloister, require

from images import vm_manifest


def test_a_verified_answer_comes_from_a_virtual_machine(vm_run: VmRun) -> None:
    assert vm_run.status == 0, vm_run.said
    held, pieces = re.search(r"(\d+) of (\d+) pieces of the seal in force", vm_run.said).groups()
    assert held == pieces
    assert "log.measurement" in vm_run.said
    assert "is cloister/node" in vm_run.said
    assert "refused: ohttp_keys_mismatch" in vm_run.said


def test_the_image_is_rebuilt_bit_for_bit_elsewhere_by_somebody_else(vm_run: VmRun) -> None:
    done = cloister("image", "verify", vm_run.image, "--rebuild", "--model", vm_run.model, "--json")
    assert done.returncode == 0, done.stderr
    artifacts = vm_manifest.read(vm_run.image).artifacts
    assert json.loads(done.stdout)["rebuilt"] == sorted(artifacts)


def test_the_census_is_as_the_recipe_allows(vm_run: VmRun) -> None:
    done = cloister("image", "audit", vm_run.image, "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["check"]: row["found"] for row in json.loads(done.stdout)["rows"]}
    assert rows["programs"].split(", ") == [
        "initrd:init",
        "initrd:lib/ld-linux-x86-64.so.2",
        "initrd:python/bin/python3",
        "lib/ld-linux-x86-64.so.2",
    ]


def test_debians_own_tools_read_the_volumes(vm_run: VmRun, tmp_path: Path) -> None:
    require("fsck.erofs", "erofs-utils")
    require("veritysetup", "cryptsetup-bin")
    for volume in vm_manifest.read(vm_run.image).policy["volumes"]:
        image = vm_run.image / f"{volume['name']}.img"
        subprocess.run(["fsck.erofs", image], check=True, capture_output=True)
        blocks = volume["data_blocks"]
        hashes = tmp_path / "hashes"
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
def test_an_archive_of_inputs_builds_the_same_image_without_a_mirror(vm_run: VmRun, tmp_path: Path) -> None:
    archive = tmp_path / "inputs.tar"
    assert cloister("image", "inputs", "cpu-dev", "-o", archive).returncode == 0
    first = vm_manifest.read(vm_run.image)
    config = tmp_path / "config.json"
    config.write_text(first.policy["node"])
    words = [
        "--model",
        vm_run.model,
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
