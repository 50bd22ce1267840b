"""Evidence of this machine's own GPUs, through NVIDIA's management library, as a node collects it.

The order is fixed: the machine's state first, then the number of GPUs, then a report and a certificate chain
of each over one nonce. The driver lets no work onto the GPUs before the ready state is set, and that happens
only for GPUs whose evidence, as collected here, was verified.
"""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from attestation.errors import AttestationError
from attestation.nvidia.chain import parse_chain
from attestation.nvidia.collateral_cache import CollateralCache
from attestation.nvidia.collateral_fetch import needed_names
from attestation.nvidia.device import BLACKWELL, HOPPER
from attestation.nvidia.errors import GpuFault
from attestation.nvidia.evidence import MAX_DEVICES, GpuEvidence, encode_evidence_list
from attestation.nvidia.nvml import CALL_SECONDS, SUCCESS, NvmlCalls, explain, load_library
from attestation.nvidia.spdm import NONCE_BYTES, parse_report
from attestation.nvidia.verify import VerifiedGpu

ENVIRONMENT_PRODUCTION: Final = 2
FEATURE_ENABLED: Final = 1
DEVTOOLS_OFF: Final = 0
MULTI_GPU_NONE, MULTI_GPU_PROTECTED_PCIE, MULTI_GPU_NVLINK_ENCRYPTED = 0, 1, 2
READY: Final = 1

ARCHITECTURES: Final = {9: HOPPER, 10: BLACKWELL}
_MULTI_GPU_MODES: Final = frozenset({MULTI_GPU_NONE, MULTI_GPU_PROTECTED_PCIE, MULTI_GPU_NVLINK_ENCRYPTED})
_STAGE: Final = "platform"


@dataclass(frozen=True, slots=True)
class ConfidentialState:
    """The machine's confidential-computing state, in NVML's own numbers.

    ``multi_gpu_mode`` is None where the driver is too old to say.
    """

    environment: int
    feature: int
    devtools: int
    multi_gpu_mode: int | None

    def require(self) -> None:
        """The state is one in which evidence means something.

        Raises `GpuFault`: what `require_confidential` raises, and ``cc_devtools``.
        """
        self.require_confidential()
        if self.devtools != DEVTOOLS_OFF:
            raise _fault(
                "cc_devtools", "developer tools can read the GPUs' memory", DEVTOOLS_OFF, self.devtools
            )

    def require_confidential(self) -> None:
        """Confidential computing is on, in a production environment.

        Raises `GpuFault`: ``cc_off``, ``cc_environment``, ``cc_multi_gpu_mode`` (unknown).
        """
        if self.multi_gpu_mode is not None and self.multi_gpu_mode not in _MULTI_GPU_MODES:
            raise _fault("cc_multi_gpu_mode", "", sorted(_MULTI_GPU_MODES), self.multi_gpu_mode)
        protected_pcie = self.multi_gpu_mode == MULTI_GPU_PROTECTED_PCIE
        # In protected PCIe mode the driver reports the feature itself as off.
        if self.feature != FEATURE_ENABLED and not protected_pcie:
            raise _fault("cc_off", "confidential computing is off", FEATURE_ENABLED, self.feature)
        if self.environment != ENVIRONMENT_PRODUCTION:
            raise _fault(
                "cc_environment", "not a production environment", ENVIRONMENT_PRODUCTION, self.environment
            )


class NvmlGpus:
    """The GPUs of this machine, of which there must be exactly ``expected``.

    ``nvml`` is ``pynvml`` (see `open`), or an object with functions of the same names; ``cache`` holds the
    collateral to staple (see `CollateralFetcher`). Not for use by several threads at once.
    """

    def __init__(
        self,
        nvml: Any,
        expected: int,
        *,
        cache: CollateralCache | None = None,
        call_seconds: float = CALL_SECONDS,
    ) -> None:
        if not 1 <= expected <= MAX_DEVICES:
            raise ValueError(f"1 to {MAX_DEVICES} GPUs")
        self._expected = expected
        self._nvml = NvmlCalls.begin(nvml, call_seconds)
        self._cache = cache
        self._section = b""
        self._collected: frozenset[bytes] = frozenset()

    @classmethod
    def open(cls, expected: int, *, cache: CollateralCache | None = None) -> "NvmlGpus":
        """The GPUs of this machine by NVIDIA's own library. Raises `GpuFault` where there is none."""
        return cls(load_library(), expected, cache=cache)

    def close(self) -> None:
        """Let go of the library. Raises `GpuFault`."""
        self._nvml.end()

    def state(self) -> ConfidentialState:
        """The machine's state, as the driver tells it. Raises `GpuFault`."""
        return read_state(self._nvml)

    def count(self) -> int:
        """How many GPUs the machine has. Raises `GpuFault` (``gpu_count``) unless it is as many as expected."""
        found = self._nvml("nvmlDeviceGetCount")
        if type(found) is not int or found != self._expected:
            raise _fault("gpu_count", "", self._expected, found)
        return found

    def evidence(self, nonce: bytes) -> bytes:
        """Evidence of every GPU over ``nonce`` (32 bytes), as a bundle carries it.

        Raises `GpuFault`: what `ConfidentialState.require` and `count` raise, ``nonce_length``,
        ``gpu_architecture``, ``report_size``, ``certificate_size``, ``evidence_unusable``, ``duplicate_gpu``
        and the library's own errors.
        """
        if len(nonce) != NONCE_BYTES:
            raise _fault("nonce_length", "", NONCE_BYTES, len(nonce))
        self._collected, self._section = frozenset(), b""
        self.state().require()
        entries = [self._device(place, nonce) for place in range(self.count())]
        if len({parse_chain(entry.certificate).ueid for entry in entries}) != len(entries):
            raise _fault("duplicate_gpu", "two GPUs answered with one certificate")
        self._collected = frozenset(entry.evidence for entry in entries)
        self._section = encode_evidence_list(entries)
        return self._section

    def collateral(self, at: datetime) -> Mapping[str, bytes]:
        """What the cache holds for the evidence last collected; empty without a cache, or without evidence.

        Raises `CollateralFault` where the cache is damaged. ``at`` is not needed: the newest is stapled, and
        whether it is still in force is for the verifier to say.
        """
        if self._cache is None or not self._section:
            return {}
        return self._cache.staple(needed_names(self._section, self._cache))

    def ready(self) -> bool:
        """Whether the driver lets work onto the GPUs. Raises `GpuFault`."""
        return bool(self._nvml("nvmlSystemGetConfComputeGpusReadyState") == READY)

    def set_ready(self, verified: Sequence[VerifiedGpu]) -> None:
        """Let work onto the GPUs, given the verified result of the evidence last collected here.

        Raises `GpuFault`: ``ready_not_verified`` where the result is of other evidence, of fewer GPUs or of
        none, ``ready_refused`` where the driver refuses for good (reboot), or the library's own errors.
        """
        if not all(isinstance(gpu, VerifiedGpu) for gpu in verified):
            raise _fault("ready_not_verified", "not a verified result")
        reports = [gpu.report.raw for gpu in verified]
        if not reports or len(reports) != self._expected or frozenset(reports) != self._collected:
            raise _fault("ready_not_verified", "the result is not of the evidence that was collected")
        self.state().require()
        try:
            self._nvml("nvmlSystemSetConfComputeGpusReadyState", READY)
        except GpuFault as error:
            if error.code != "nvml_invalid_argument":
                raise
            raise _fault("ready_refused", "the driver does not take the ready state; reboot") from None
        if not self.ready():
            raise _fault("ready_refused", "the driver did not keep the ready state; reboot")

    def _device(self, place: int, nonce: bytes) -> GpuEvidence:
        try:
            return self._evidence_of(self._nvml("nvmlDeviceGetHandleByIndex", place), nonce)
        except GpuFault as error:
            error.gpu = place
            raise

    def _evidence_of(self, handle: object, nonce: bytes) -> GpuEvidence:
        number = self._nvml("nvmlDeviceGetArchitecture", handle)
        architecture = ARCHITECTURES.get(number)
        if architecture is None:
            raise _fault(
                "gpu_architecture", "no confidential computing", sorted(ARCHITECTURES.values()), number
            )
        certificate = self._nvml("nvmlDeviceGetConfComputeGpuCertificate", handle)
        chain = _sized(
            certificate.attestationCertChain, certificate.attestationCertChainSize, "certificate_size"
        )
        answer = self._nvml("nvmlDeviceGetConfComputeGpuAttestationReport", handle, nonce)
        report = _sized(answer.attestationReport, answer.attestationReportSize, "report_size")
        try:
            stated = parse_report(report).nonce
            parse_chain(chain)
        except AttestationError as error:
            raise _fault("evidence_unusable", f"{error.code}: {error.detail}") from error
        if stated != nonce:
            raise _fault("evidence_unusable", "the report answers another nonce", nonce.hex(), stated.hex())
        return GpuEvidence(architecture, nonce, report, chain)


def read_state(nvml: NvmlCalls) -> ConfidentialState:
    """The machine's confidential-computing state. Raises `GpuFault`.

    Drivers since 550 tell it whole; from older ones the mode of several GPUs stays unknown.
    """
    settings_type = getattr(nvml.library, "c_nvmlSystemConfComputeSettings_v1_t", None)
    if settings_type is not None:
        settings = settings_type()
        try:
            # This one call gives the library's code back instead of raising it.
            code = nvml("nvmlSystemGetConfComputeSettings", ctypes.byref(settings))
        except GpuFault as error:
            if error.code != "nvml_function_missing":
                raise
        else:
            if code != SUCCESS:
                raise explain("nvmlSystemGetConfComputeSettings", code)
            return ConfidentialState(
                settings.environment, settings.ccFeature, settings.devToolsMode, settings.multiGpuMode
            )
    state = nvml("nvmlSystemGetConfComputeState")
    return ConfidentialState(state.environment, state.ccFeature, state.devToolsMode, None)


def _sized(buffer: Any, size: object, code: str) -> bytes:
    """The part of a buffer that the library says it filled, which must lie inside it."""
    if type(size) is not int or not 0 < size <= len(buffer):
        raise _fault(code, "the library states a size outside its own buffer", f"1 to {len(buffer)}", size)
    return bytes(buffer[:size])


def _fault(code: str, detail: str, expected: object = None, found: object = None) -> GpuFault:
    return GpuFault(code=code, stage=_STAGE, detail=detail, expected=expected, found=found)
