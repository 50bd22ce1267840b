"""What this machine lacks to give GPU evidence, said precisely: one row for each thing it takes.

Rows, in order: ``local.library`` (NVIDIA's management library), ``local.driver``, ``local.gpus``,
``local.architecture`` (Hopper or Blackwell), ``local.capability`` (what CPU and GPU could do),
``local.confidential`` (the mode is on, in production), ``local.devtools`` (developer tools are off),
``local.ready`` (the driver lets work onto the GPUs). Nothing is changed on the machine.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from attestation.errors import AttestationError
from attestation.nvidia.collect import (
    ARCHITECTURES,
    DEVTOOLS_OFF,
    FEATURE_ENABLED,
    MULTI_GPU_PROTECTED_PCIE,
    ConfidentialState,
    read_state,
)
from attestation.nvidia.errors import GpuFault
from attestation.nvidia.nvml import CALL_SECONDS, NvmlCalls
from attestation.results import Checklist, Row

CHECKS: Final = (
    "local.library",
    "local.driver",
    "local.gpus",
    "local.architecture",
    "local.capability",
    "local.confidential",
    "local.devtools",
    "local.ready",
)

_CPU_CAPABILITIES: Final = {1: "AMD SEV", 2: "Intel TDX", 3: "AMD SEV-SNP", 4: "AMD SEV-SNP with vTOM"}
_GPU_CAPABLE: Final = 1
_READY: Final = 1


@dataclass(frozen=True, slots=True)
class Machine:
    """The rows, the first error, and how many GPUs there are (0 where that is not known).

    ``attestable`` is True where evidence can be asked for: all rows but ``local.ready`` passed.
    """

    rows: tuple[Row, ...]
    error: AttestationError | None
    gpus: int
    attestable: bool


def inspect_machine(load: Callable[[], Any], *, call_seconds: float = CALL_SECONDS) -> Machine:
    """Look at this machine through the library that ``load`` gives (see `nvml.load_library`)."""
    checks = Checklist()
    calls = checks.check(
        "local.library", lambda: NvmlCalls.begin(load(), call_seconds), "NVIDIA's library answers"
    )
    if calls is None:
        return _unknown(checks, 1, "there is no library to ask")
    try:
        return _inspect(checks, calls)
    finally:
        # A library that hangs or fails at its end changes nothing in what it said before.
        with suppress(GpuFault):
            calls.end()


def _inspect(checks: Checklist, calls: NvmlCalls) -> Machine:
    checks.check("local.driver", lambda: str(calls("nvmlSystemGetDriverVersion"))[:40], "version {}".format)
    names = checks.check("local.gpus", lambda: _names(calls), _counted)
    if names is None:
        return _unknown(checks, 3, "there is no GPU to ask")
    checks.check("local.architecture", lambda: _architectures(calls, len(names)), ", ".join)
    checks.check("local.capability", lambda: _capability(calls), str)
    state = checks.check("local.confidential", lambda: _confidential(calls), _described)
    if state is None:
        return _unknown(checks, 6, "confidential computing is off", len(names))
    checks.check("local.devtools", lambda: _no_devtools(state), "developer tools are off")
    attestable = checks.error is None
    checks.check("local.ready", lambda: _ready(calls), "the driver lets work onto the GPUs")
    return Machine(checks.rows, checks.error, len(names), attestable)


def _unknown(checks: Checklist, done: int, why: str, gpus: int = 0) -> Machine:
    for id in CHECKS[done:]:
        checks.not_evaluated(id, why)
    return Machine(checks.rows, checks.error, gpus, attestable=False)


def _names(calls: NvmlCalls) -> list[str]:
    count = calls("nvmlDeviceGetCount")
    if type(count) is not int or count < 1:
        raise _fault("gpu_none", "the driver is here and sees no GPU; pass one through to this machine")
    return [
        str(calls("nvmlDeviceGetName", calls("nvmlDeviceGetHandleByIndex", place)))[:60]
        for place in range(min(count, 32))
    ]


def _counted(names: Sequence[str]) -> str:
    return f"{len(names)}: {', '.join(sorted(set(names)))}"


def _architectures(calls: NvmlCalls, count: int) -> list[str]:
    numbers = {
        calls("nvmlDeviceGetArchitecture", calls("nvmlDeviceGetHandleByIndex", place))
        for place in range(count)
    }
    unknown = [number for number in numbers if number not in ARCHITECTURES]
    if unknown:
        raise _fault(
            "gpu_architecture",
            "only Hopper and Blackwell GPUs can attest; NVIDIA's number of this one",
            sorted(ARCHITECTURES),
            unknown[0],
        )
    return sorted(ARCHITECTURES[number] for number in numbers)


def _capability(calls: NvmlCalls) -> str:
    capability = calls("nvmlSystemGetConfComputeCapabilities")
    cpu = _CPU_CAPABILITIES.get(capability.cpuCaps)
    if capability.gpusCaps != _GPU_CAPABLE:
        raise _fault("cc_gpu_incapable", "this GPU, its VBIOS or the driver has no confidential computing")
    if cpu is None:
        raise _fault(
            "cc_cpu_incapable",
            "this is no confidential virtual machine; start it under AMD SEV-SNP or Intel TDX",
            "SEV-SNP or TDX",
            capability.cpuCaps,
        )
    return f"GPU capable, CPU {cpu}"


def _confidential(calls: NvmlCalls) -> ConfidentialState:
    state = read_state(calls)
    try:
        state.require_confidential()
    except GpuFault as error:
        if error.code != "cc_off":
            raise
        raise _fault(
            "cc_off",
            "confidential computing is off; whoever runs the host turns it on with NVIDIA's "
            "gpu-admin-tools (--set-cc-mode=on) and resets the GPU",
            FEATURE_ENABLED,
            state.feature,
        ) from None
    return state


def _described(state: ConfidentialState) -> str:
    if state.multi_gpu_mode == MULTI_GPU_PROTECTED_PCIE:
        return "on, protected PCIe"
    return "on" if not state.multi_gpu_mode else "on, encrypted NVLink"


def _no_devtools(state: ConfidentialState) -> None:
    if state.devtools != DEVTOOLS_OFF:
        raise _fault(
            "cc_devtools",
            "the mode is devtools, in which the host can read the GPU; set it to on",
            DEVTOOLS_OFF,
            state.devtools,
        )


def _ready(calls: NvmlCalls) -> None:
    found = calls("nvmlSystemGetConfComputeGpusReadyState")
    if found != _READY:
        raise _fault(
            "cc_not_ready",
            "the GPUs were not verified since the driver started, so it lets no work onto them",
            _READY,
            found,
        )


def _fault(code: str, detail: str, expected: object = None, found: object = None) -> GpuFault:
    return GpuFault(code=code, stage="platform", detail=detail, expected=expected, found=found)
