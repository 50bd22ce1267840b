"""A virtual machine for tests: built, booted and asked once in a session, by the demo's own commands."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from sealed_node import write_tiny_model

PATIENCE_S = 1800


@dataclass(frozen=True)
class VmRun:
    """A finished run of ``cloister demo --vm``: its state, what it said, and how it ended."""

    folder: Path
    said: str
    status: int

    @property
    def image(self) -> Path:
        return self.folder / "vm"

    @property
    def model(self) -> Path:
        return self.folder / "tiny"


def require(program: str, package: str) -> None:
    """Skip where a program is not installed, saying which Debian package has it."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed here (Debian package {package})")


def cloister(*words: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "client_sdk", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)


def require_machines() -> None:
    """Skip where QEMU or the locked inputs cannot be had."""
    require("qemu-system-x86_64", "qemu-system-x86")
    require("apt-get", "apt")
    fetched = cloister("image", "inputs", "cpu-dev", "-o", "/dev/null")
    if fetched.returncode == 2:
        pytest.skip(f"the locked inputs of the image cannot be had here: {fetched.stderr.strip()[-200:]}")


def run_demo(folder: Path) -> VmRun:
    """Run it in ``folder`` with a tiny model."""
    require_machines()
    model = write_tiny_model(folder / "tiny")
    done = cloister("demo", "--vm", "--state", folder, "--model", model, "--max-tokens", 4)
    return VmRun(folder, done.stdout + done.stderr, done.returncode)


def tpm_config() -> str:
    """The configuration of a node whose evidence is a TPM's, and which has no GPU."""
    from enclave_runtime.config import NodeConfig
    from images.virtual_tpm import AK_HANDLE

    config = NodeConfig("tiny", platform="tpm", devices={"tpm_ak": AK_HANDLE}, gpu_count=0)
    return config.encode().decode()


@dataclass(frozen=True)
class TpmRelease:
    """An image for a TPM, published: the image, its policy for clients, and the TPM's folder."""

    image: Path
    policy: Path
    staple: Path
    tpm: Path


def publish_for_tpm(folder: Path, model: Path) -> TpmRelease:
    """Build an image for a TPM, publish it, and write a policy that trusts one laboratory's TPM."""
    from datetime import UTC, datetime

    from images import virtual_tpm

    folder.mkdir()
    config, log, signer = folder / "config.json", folder / "log", folder / "signer.key"
    config.write_text(tpm_config())
    made = TpmRelease(folder / "vm", folder / "policy.toml", folder / "staple.json", folder / "tpm")
    laboratory = virtual_tpm.create(made.tpm, lambda: datetime.now(UTC))
    table = folder / "transparency.toml"
    publish = ("release", "publish", "--log", log, "--image", made.image, "--signer", signer)
    for words in (
        ("image", "build", "cpu-dev", "-o", made.image, "--model", model, "--config", config),
        ("log", "init", log),
        ("release", "keygen", signer),
        (*publish, "--staple", made.staple, "--policy", table),
    ):
        done = cloister(*words)
        assert done.returncode == 0, done.stderr
    head = 'version = 1\nname = "a virtual TPM of a laboratory"\n[gpu]\ncount = 0\n[cpu]\naccept = ["tpm"]\n'
    head += f'[cpu.tpm]\nsecure_boot = false\n[cpu.tpm.ak]\nca = ["{laboratory.root_sha256}"]\n'
    made.policy.write_text(head + table.read_text())
    return made
