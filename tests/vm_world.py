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


def run_demo(folder: Path) -> VmRun:
    """Run it in ``folder`` with a tiny model; skip where QEMU or the locked inputs cannot be had."""
    require("qemu-system-x86_64", "qemu-system-x86")
    require("apt-get", "apt")
    fetched = cloister("image", "inputs", "cpu-dev", "-o", "/dev/null")
    if fetched.returncode == 2:
        pytest.skip(f"the locked inputs of the image cannot be had here: {fetched.stderr.strip()[-200:]}")
    model = write_tiny_model(folder / "tiny")
    done = cloister("demo", "--vm", "--state", folder, "--model", model, "--max-tokens", 4)
    return VmRun(folder, done.stdout + done.stderr, done.returncode)
