"""Without extras, cloister is a whole verifier: no web server, no torch, and clear words where more is needed."""

import subprocess
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOMS = {"attestation", "ohttp", "measurements", "client_sdk", "enclave_runtime", "images", "benchmarks"}

# Runs the command line in an interpreter that finds nothing but the base install.
RUNNER = """
import sys
allowed = set(sys.argv[1].split(","))
class Wall:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in allowed and top not in sys.stdlib_module_names and not top.startswith("_sysconfigdata"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None
sys.meta_path.insert(0, Wall())
from client_sdk.cli import run
status = run(sys.argv[2:])
assert not {"torch", "fastapi", "uvicorn", "numpy"} & set(sys.modules)
sys.exit(status)
"""


def base_modules() -> set[str]:
    """Top-level modules of the distributions that a base install brings."""
    found, waiting = set(), ["cloister"]
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found:
            continue
        found.add(name)
        for text in requires(name) or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    modules = {
        module
        for module, owners in packages_distributions().items()
        if {owner.lower().replace("_", "-") for owner in owners} & found
    }
    return modules | ROOMS | {"_cffi_backend", "__editable___cloister_0_1_0_finder"}


def cloister(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", RUNNER, ",".join(sorted(base_modules())), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_help_lists_every_command() -> None:
    done = cloister("--help")
    assert done.returncode == 0, done.stderr
    for command in (
        "demo",
        "verify",
        "chat",
        "proxy",
        "serve",
        "relay",
        "measure",
        "release",
        "log",
        "image",
        "bench",
    ):
        assert f" {command} " in done.stdout


def test_a_bundle_is_judged(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.json"
    bundle.write_text("{}")
    done = cloister("verify", str(bundle))
    assert done.returncode == 3, done.stderr
    assert "bundle_version" in done.stdout or "bundle_malformed" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["relay", "--target", "a=http://127.0.0.1:1"],
        ["proxy", "--relay", "http://127.0.0.1:1/a"],
        ["image", "build", "process", "-o", "i"],
    ],
)
def test_what_needs_an_extra_says_so(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = cloister(*arguments)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert "pip install" in done.stderr
