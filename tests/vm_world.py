"""A virtual-machine image for tests, built once in a session and published; and the programs around it."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from sealed_node import write_tiny_model

from enclave_runtime.config import NodeConfig
from images.virtual_tpm import AK_HANDLE

PATIENCE_S = 1800
KERNEL_PATIENCE_S = 3 * 3600
"""Compiling a kernel, where none is kept, on a busy machine."""


@dataclass(frozen=True)
class VmRelease:
    """An image whose node gives a TPM's evidence, in a log: image, model, staple, and ``transparency.toml``."""

    folder: Path

    @property
    def image(self) -> Path:
        return self.folder / "vm"

    @property
    def model(self) -> Path:
        return self.folder / "tiny"

    @property
    def staple(self) -> Path:
        return self.folder / "staple.json"

    def publish(self, *more: object) -> "subprocess.CompletedProcess[str]":
        """Publish the image, once more where it was; a fresh staple lies in place of the one before."""
        signed = ("--log", self.folder / "log", "--image", self.image, "--signer", self.folder / "signer.key")
        return cloister("release", "publish", *signed, "--staple", self.staple, *more)

    def policy_for(self, tpm_root: str) -> Path:
        """A policy that trusts this log and the TPM whose authority has this root."""
        head = (
            'version = 1\nname = "a virtual TPM of a laboratory"\n[gpu]\ncount = 0\n[cpu]\naccept = ["tpm"]\n'
        )
        head += f'[cpu.tpm]\nsecure_boot = false\n[cpu.tpm.ak]\nca = ["{tpm_root}"]\n'
        path = self.folder / "policy.toml"
        path.write_text(head + (self.folder / "transparency.toml").read_text())
        return path


def require(program: str, package: str) -> None:
    """Skip where a program is not installed, saying which Debian package has it."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed here (Debian package {package})")


def require_machines() -> None:
    """Skip where QEMU or the locked inputs cannot be had."""
    require("qemu-system-x86_64", "qemu-system-x86")
    require("apt-get", "apt")
    fetched = cloister("image", "inputs", "cpu-dev", "-o", "/dev/null")
    if fetched.returncode == 2:
        pytest.skip(f"the locked inputs of the image cannot be had here: {fetched.stderr.strip()[-200:]}")


def cloister(*words: object, patience_s: float = PATIENCE_S) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "client_sdk", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=patience_s)


def require_sealed_kernel() -> None:
    """Have the kernel of `cpu-sealed` at hand, compiled now where it is not kept; skip where that cannot be."""
    require_machines()
    made = cloister("image", "kernel", "cpu-sealed", patience_s=KERNEL_PATIENCE_S)
    if made.returncode == 2:
        pytest.skip(f"the kernel cannot be built here: {made.stderr.strip()[-200:]}")
    assert made.returncode == 0, made.stderr


def release_vm(folder: Path, recipe: str = "cpu-dev") -> VmRelease:
    """Build the image and publish it."""
    require_machines()
    folder.mkdir(exist_ok=True)
    made = VmRelease(folder)
    write_tiny_model(made.model)
    config, log, signer = folder / "config.json", folder / "log", folder / "signer.key"
    node = NodeConfig("tiny", platform="tpm", devices={"tpm_ak": AK_HANDLE}, gpu_count=0)
    config.write_bytes(node.encode())
    for words in (
        ("image", "build", recipe, "-o", made.image, "--model", made.model, "--config", config),
        ("log", "init", log),
        ("release", "keygen", signer),
    ):
        done = cloister(*words)
        assert done.returncode == 0, done.stderr
    done = made.publish("--policy", folder / "transparency.toml")
    assert done.returncode == 0, done.stderr
    return made
