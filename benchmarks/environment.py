"""Where a run took place: what must be known to repeat it or to compare it with another."""

import hashlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def describe(model: Path) -> dict[str, Any]:
    """Machine, software and model, as JSON types. Raises OSError where the model cannot be read."""
    return {
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cloister": installed("cloister"),
        "torch": installed("torch"),
        "model": model.name,
        "model_sha256": model_digest(model),
        "load_average_before": os.getloadavg()[0],
    }


def cpu_name() -> str:
    """The processor's name as the kernel gives it, or ``unknown``."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "unknown")


def installed(distribution: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def model_digest(path: Path) -> str:
    """SHA-256 over the names and digests of a model's files, in hex."""
    files = [path] if path.is_file() else sorted(entry for entry in path.rglob("*") if entry.is_file())
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as source:
            digest = hashlib.file_digest(source, "sha256").digest()
        total.update(file.name.encode() + b"\0" + digest)
    return total.hexdigest()
