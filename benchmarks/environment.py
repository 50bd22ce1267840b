"""Where a run took place: what must be known to repeat it or to compare it with another."""

import hashlib
import os
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

TEE_DEVICES: Mapping[str, str] = {
    "/dev/sev-guest": "SEV-SNP guest",
    "/dev/tdx_guest": "TDX guest",
}


def describe(model: Path | None) -> dict[str, Any]:
    """Machine, TEE, GPUs, software and model, as JSON types. Raises OSError where the model cannot be read."""
    return {
        "machine": machine_id(),
        "architecture": platform.machine(),
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "tee": cpu_tee(),
        "gpus": gpus(),
        "python": platform.python_version(),
        "cloister": installed("cloister"),
        "torch": installed("torch"),
        "model": None if model is None else model.name,
        "model_sha256": None if model is None else model_digest(model),
        "load_average_before": os.getloadavg()[0],
    }


def machine_id(path: Path = Path("/etc/machine-id")) -> str:
    """A name for this machine that says nothing of it: the start of a hash of its machine id and processor."""
    try:
        own = path.read_text().strip()
    except OSError:
        own = platform.node()
    return hashlib.sha256(f"cloister-bench\0{own}\0{cpu_name()}".encode()).hexdigest()[:16]


def cpu_tee(exists: Callable[[str], bool] = os.path.exists) -> str:
    """The CPU TEE this system is a guest of, by its device; ``none`` where there is no such device."""
    return next((name for device, name in TEE_DEVICES.items() if exists(device)), "none")


def gpus() -> list[dict[str, Any]]:
    """Each GPU's name, UUID, driver and whether confidential computing is on, by NVML; empty without NVML."""
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        driver = pynvml.nvmlSystemGetDriverVersion()
        try:
            on = bool(pynvml.nvmlSystemGetConfComputeState().ccFeature)
        except pynvml.NVMLError:
            on = None
        found = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            name, uuid = pynvml.nvmlDeviceGetName(handle), pynvml.nvmlDeviceGetUUID(handle)
            found.append({"name": name, "uuid": uuid, "driver": driver, "confidential_computing": on})
        return found
    except pynvml.NVMLError as error:
        return [{"error": str(error)}]
    finally:
        pynvml.nvmlShutdown()


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
