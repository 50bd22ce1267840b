"""A stand-in for NVIDIA's management library: the functions of ``pynvml`` that a collector calls.

Minted or stored reports stand behind it. What a driver may answer, or fail with, can be set for each function.
"""

import ctypes
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pynvml

from attestation.nvidia.evidence import GpuEvidence
from attestation.simulated.nvidia import SimulatedGpu

HOPPER, BLACKWELL = 9, 10


class Answering(Protocol):
    """Something that answers a nonce with a report and a chain."""

    def answer(self, nonce: bytes) -> tuple[bytes, bytes]: ...


@dataclass
class Minted:
    """A simulated GPU: answers any nonce."""

    gpu: SimulatedGpu

    def answer(self, nonce: bytes) -> tuple[bytes, bytes]:
        evidence = self.gpu.evidence(nonce)
        return evidence.evidence, evidence.certificate


@dataclass
class Stored:
    """A report of a real GPU: answers every nonce with the one it was made for."""

    evidence: GpuEvidence

    def answer(self, nonce: bytes) -> tuple[bytes, bytes]:
        return self.evidence.evidence, self.evidence.certificate


@dataclass
class FakeNvml:
    """Functions by the names of ``pynvml``. ``failures`` maps a function to what it raises instead."""

    devices: Sequence[Answering]
    environment: int = 2
    feature: int = 1
    devtools: int = 0
    multi_gpu_mode: int = 0
    settings_code: int = 0
    architecture: int = HOPPER
    is_ready: int = 0
    cpu_capability: int = 3
    gpu_capability: int = 1
    keeps_ready: bool = True
    report_size: int | None = None
    certificate_size: int | None = None
    nonce_swap: bytes | None = None
    failures: dict[str, Exception] = field(default_factory=dict)
    hang: dict[str, threading.Event] = field(default_factory=dict)
    missing: frozenset[str] = frozenset()
    calls: list[str] = field(default_factory=list)

    c_nvmlSystemConfComputeSettings_v1_t = pynvml.c_nvmlSystemConfComputeSettings_v1_t
    NVMLError = pynvml.NVMLError

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("nvml"):
            return object.__getattribute__(self, name)
        if name in self.missing:
            raise AttributeError(name)
        function: Callable[..., Any] = object.__getattribute__(self, name)

        def called(*arguments: Any) -> Any:
            self.calls.append(name)
            if name in self.hang:
                self.hang[name].wait()
            if name in self.failures:
                raise self.failures[name]
            return function(*arguments)

        return called

    def nvmlInit(self) -> None:
        pass

    def nvmlShutdown(self) -> None:
        pass

    def nvmlSystemGetDriverVersion(self) -> str:
        return "590.12"

    def nvmlSystemGetConfComputeCapabilities(self) -> Any:
        return pynvml.c_nvmlConfComputeSystemCaps_t(cpuCaps=self.cpu_capability, gpusCaps=self.gpu_capability)

    def nvmlSystemGetConfComputeSettings(self, reference: Any) -> int:
        settings = reference._obj
        assert isinstance(settings, pynvml.c_nvmlSystemConfComputeSettings_v1_t)
        assert settings.version == pynvml.nvmlSystemConfComputeSettings_v1
        if self.settings_code == 0:
            settings.environment, settings.ccFeature = self.environment, self.feature
            settings.devToolsMode, settings.multiGpuMode = self.devtools, self.multi_gpu_mode
        return self.settings_code

    def nvmlSystemGetConfComputeState(self) -> Any:
        return pynvml.c_nvmlConfComputeSystemState_t(
            environment=self.environment, ccFeature=self.feature, devToolsMode=self.devtools
        )

    def nvmlSystemGetConfComputeGpusReadyState(self) -> int:
        return self.is_ready

    def nvmlSystemSetConfComputeGpusReadyState(self, state: int) -> None:
        if self.keeps_ready:
            self.is_ready = state

    def nvmlDeviceGetCount(self) -> int:
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "Simulated GH100"

    def nvmlDeviceGetArchitecture(self, handle: int) -> int:
        return self.architecture

    def nvmlDeviceGetConfComputeGpuCertificate(self, handle: int) -> Any:
        _, chain = self.devices[handle].answer(bytes(32))
        answer = pynvml.c_nvmlConfComputeGpuCertificate_t()
        ctypes.memmove(answer.attestationCertChain, chain, len(chain))
        answer.attestationCertChainSize = (
            len(chain) if self.certificate_size is None else self.certificate_size
        )
        return answer

    def nvmlDeviceGetConfComputeGpuAttestationReport(self, handle: int, nonce: bytes) -> Any:
        assert len(nonce) == 32
        report, _ = self.devices[handle].answer(self.nonce_swap or nonce)
        answer = pynvml.c_nvmlConfComputeGpuAttestationReport_t()
        ctypes.memmove(answer.attestationReport, report, len(report))
        answer.attestationReportSize = len(report) if self.report_size is None else self.report_size
        return answer
