"""The image with a kernel of its own: rebuilt bit for bit, measured, asked, and deaf to other command lines."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from machine_probe import reaches_its_first_program
from vm_world import KERNEL_PATIENCE_S, PATIENCE_S, VmRelease, cloister, require

from client_sdk.demo.processes import cloister as command
from client_sdk.demo.processes import listening
from images import vm_manifest
from images.hypervisor import Machine

TAKE_OVER = 'rdinit=/python/bin/python3 -- -ISBc "print()"'

pytestmark = pytest.mark.exhaustive


def test_a_second_kernel_is_the_same_bytes(sealed_release: VmRelease) -> None:
    done = cloister("image", "kernel", "cpu-sealed", "--again", "--json", patience_s=2 * KERNEL_PATIENCE_S)
    assert done.returncode == 0, done.stderr
    kernel = vm_manifest.read(sealed_release.image).artifacts["vmlinuz"]
    assert json.loads(done.stdout)["vmlinuz_sha256"] == kernel.sha256


def test_the_image_is_rebuilt_and_as_the_recipe_allows(sealed_release: VmRelease) -> None:
    done = cloister("image", "verify", sealed_release.image, "--rebuild", "--model", sealed_release.model)
    assert done.returncode == 0, done.stderr
    done = cloister("image", "audit", sealed_release.image, "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["check"]: row["found"] for row in json.loads(done.stdout)["rows"]}
    assert rows["kernel.modules"] == "none"
    assert rows["kernel.release"].endswith("-sealed")


def test_a_command_line_of_the_hosts_does_nothing(sealed_release: VmRelease, vm_release: VmRelease) -> None:
    """It moves the registers all the same, so clients refuse; but the machine does what it was made for."""

    line = (vm_release.image / "cmdline").read_text()

    def other_line(machine: Machine, _: Path) -> Machine:
        return replace(machine, append=f"{line} {TAKE_OVER}")

    assert reaches_its_first_program(sealed_release.image)
    assert reaches_its_first_program(sealed_release.image, other_line)
    assert not reaches_its_first_program(vm_release.image, other_line)  # the control: a kernel that listens


def test_a_client_is_answered(sealed_release: VmRelease, tmp_path: Path) -> None:
    require("swtpm_setup", "swtpm-tools")
    folder = tmp_path / "tpm"
    words = [
        "image",
        "boot",
        str(sealed_release.image),
        "--tpm",
        str(folder),
        "--staple",
        str(sealed_release.staple),
    ]
    boot = command(*words, "--accelerator", "tcg", "--patience", str(PATIENCE_S))
    with listening("the virtual machine", boot, patience_s=PATIENCE_S) as machine:
        node = f"node=http://127.0.0.1:{machine.port}"
        with listening("the relay", command("relay", "--target", node, "--port", "0", "--json")) as relay:
            policy = sealed_release.policy_for((folder / "root.sha256").read_text().strip())
            url = f"http://127.0.0.1:{relay.port}/node"
            asked = cloister("chat", "--relay", url, "--policy", policy, "--max-tokens", 4, "Hello?")
    assert asked.returncode == 0, asked.stdout + asked.stderr
