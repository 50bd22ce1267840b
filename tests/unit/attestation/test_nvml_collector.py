"""The collector of a machine's own GPUs, against a library that answers, fails, hangs and lies."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pynvml
import pytest
from fake_nvml import BLACKWELL, FakeNvml, Minted, Stored

from attestation.collect import GpuDevices
from attestation.errors import AttestationError
from attestation.nvidia.collect import NvmlGpus
from attestation.nvidia.errors import GpuFault
from attestation.nvidia.evidence import parse_evidence_list
from attestation.nvidia.nvml import NvmlCalls
from attestation.nvidia.opaque import Mode
from attestation.nvidia.policy import GpuPolicy
from attestation.nvidia.verify import verify_gpu, verify_gpus
from attestation.simulated.nvidia import SimulatedDevicePki

AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
NONCE = bytes(range(32))
PKI = SimulatedDevicePki.create()
MINTED = [Minted(PKI.make_gpu()) for _ in range(2)]
POLICY = GpuPolicy(count=2, rim="off", revocation="off", simulated_root=PKI.root_sha256)


def machine(**settings: Any) -> FakeNvml:
    return FakeNvml(devices=settings.pop("devices", MINTED), **settings)


def refusal(nvml: FakeNvml, count: int = 2) -> GpuFault:
    with pytest.raises(GpuFault) as caught:
        NvmlGpus(nvml, count).evidence(NONCE)
    return caught.value


def test_evidence_of_every_gpu_over_our_nonce() -> None:
    nvml = machine()
    gpus: GpuDevices = NvmlGpus(nvml, 2)
    section = gpus.evidence(NONCE)
    assert len(verify_gpus(section, NONCE, POLICY, AT)) == gpus.count() == 2
    assert nvml.is_ready == 0
    # The machine's state was asked for before any device.
    first_device = nvml.calls.index("nvmlDeviceGetHandleByIndex")
    assert nvml.calls.index("nvmlSystemGetConfComputeSettings") < first_device
    assert nvml.calls.index("nvmlDeviceGetCount") < first_device


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"environment": 0}, "cc_environment"),
        ({"environment": 1}, "cc_environment"),
        ({"feature": 0}, "cc_off"),
        ({"feature": 0, "multi_gpu_mode": 2}, "cc_off"),
        ({"devtools": 1}, "cc_devtools"),
        ({"multi_gpu_mode": 1, "devtools": 1}, "cc_devtools"),
        ({"multi_gpu_mode": 3}, "cc_multi_gpu_mode"),
        ({"architecture": 8}, "gpu_architecture"),
        ({"devices": MINTED[:1]}, "gpu_count"),
        ({"devices": []}, "gpu_count"),
        ({"devices": [*MINTED, MINTED[0]]}, "gpu_count"),
        ({"devices": [MINTED[0], MINTED[0]]}, "duplicate_gpu"),
        ({"nonce_swap": bytes(32)}, "evidence_unusable"),
        ({"report_size": 0}, "report_size"),
        ({"report_size": 8193}, "report_size"),
        ({"report_size": 0xFFFFFFFF}, "report_size"),
        ({"report_size": 8192}, "evidence_unusable"),
        ({"report_size": 100}, "evidence_unusable"),
        ({"certificate_size": 0}, "certificate_size"),
        ({"certificate_size": 5121}, "certificate_size"),
        ({"certificate_size": 5120}, "evidence_unusable"),
        ({"certificate_size": 1}, "evidence_unusable"),
    ],
)
def test_state_and_answers_that_mean_nothing(settings: dict[str, Any], code: str) -> None:
    nvml = machine(**settings)
    assert refusal(nvml).code == code
    if code.startswith("cc_") or code == "gpu_count":
        assert "nvmlDeviceGetHandleByIndex" not in nvml.calls


@pytest.mark.parametrize("multi_gpu_mode", [0, 1, 2])
def test_every_mode_of_several_gpus(multi_gpu_mode: int) -> None:
    feature = 0 if multi_gpu_mode == 1 else 1
    section = NvmlGpus(machine(multi_gpu_mode=multi_gpu_mode, feature=feature), 2).evidence(NONCE)
    assert len(parse_evidence_list(section)) == 2


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (1, "nvml_uninitialized"),
        (3, "nvml_not_supported"),
        (4, "nvml_no_permission"),
        (25, "nvml_struct_version"),
        (999, "nvml_failed"),
    ],
)
def test_the_settings_call_gives_its_code_back_instead_of_raising(raw: int, code: str) -> None:
    # Every field of the structure still says "off" or zero, or whatever the driver left there.
    error = refusal(machine(settings_code=raw))
    assert (error.code, error.found) == (code, raw)


def test_a_driver_that_only_knows_the_older_call() -> None:
    old = frozenset({"nvmlSystemGetConfComputeSettings"})
    gpus = NvmlGpus(machine(missing=old), 2)
    assert gpus.state().multi_gpu_mode is None
    assert len(parse_evidence_list(gpus.evidence(NONCE))) == 2
    failing = machine(failures={"nvmlSystemGetConfComputeSettings": pynvml.NVMLError(13)})
    assert NvmlGpus(failing, 2).evidence(NONCE)
    assert refusal(machine(missing=old, feature=0)).code == "cc_off"
    neither = old | {"nvmlSystemGetConfComputeState"}
    assert refusal(machine(missing=neither)).code == "nvml_function_missing"


ASKED = (
    "nvmlInit",
    "nvmlSystemGetConfComputeSettings",
    "nvmlDeviceGetCount",
    "nvmlDeviceGetHandleByIndex",
    "nvmlDeviceGetArchitecture",
    "nvmlDeviceGetConfComputeGpuCertificate",
    "nvmlDeviceGetConfComputeGpuAttestationReport",
)


@pytest.mark.parametrize("function", ASKED)
@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (pynvml.NVMLError(3), "nvml_not_supported"),
        (pynvml.NVMLError(4), "nvml_no_permission"),
        (pynvml.NVMLError(15), "nvml_gpu_lost"),
        (pynvml.NVMLError(999), "nvml_failed"),
        (OSError("no device"), "nvml_failed"),
        (RuntimeError("secret text of a peer"), "nvml_failed"),
    ],
)
def test_errors_of_the_library(function: str, failure: Exception, code: str) -> None:
    error = refusal(machine(failures={function: failure}))
    assert error.code == code
    assert "secret" not in str(error)


@pytest.mark.parametrize("function", [name for name in ASKED if name != "nvmlSystemGetConfComputeSettings"])
def test_a_function_that_the_driver_lacks(function: str) -> None:
    assert refusal(machine(missing=frozenset({function}))).code == "nvml_function_missing"


@pytest.fixture
def release() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize("function", ASKED[1:])
def test_a_call_that_never_comes_back(function: str, release: threading.Event) -> None:
    nvml = machine(hang={function: release})
    gpus = NvmlGpus(nvml, 2, call_seconds=0.2)
    with pytest.raises(GpuFault, match="nvml_timeout"):
        gpus.evidence(NONCE)
    asked = len(nvml.calls)
    with pytest.raises(GpuFault, match="never came back"):
        gpus.count()
    with pytest.raises(GpuFault, match="never came back"):
        gpus.ready()
    assert len(nvml.calls) == asked


def test_ready_only_with_the_verified_result_in_hand() -> None:
    nvml = machine()
    gpus = NvmlGpus(nvml, 2)
    verified = verify_gpus(gpus.evidence(NONCE), NONCE, POLICY, AT)
    gpus.set_ready(verified)
    assert nvml.is_ready == 1
    assert gpus.ready()


def test_ready_is_not_set_for_less() -> None:
    nvml = machine()
    gpus = NvmlGpus(nvml, 2)
    verified = verify_gpus(gpus.evidence(NONCE), NONCE, POLICY, AT)
    earlier = verify_gpus(gpus.evidence(bytes(32)), bytes(32), POLICY, AT)
    wrong: list[Any] = [
        [],
        verified,  # of the evidence before the last
        earlier[:1],
        [earlier[0], earlier[0]],
        [earlier[0], verified[1]],
        [*earlier, verified[0]],
        [True, True],
    ]
    for result in wrong:
        with pytest.raises(GpuFault, match="ready_not_verified"):
            gpus.set_ready(result)
    assert nvml.is_ready == 0
    gpus.set_ready(earlier)  # control: the last result, whole, is taken
    assert nvml.is_ready == 1


def test_ready_is_not_set_before_any_evidence_or_after_evidence_failed() -> None:
    nvml = machine()
    verified = verify_gpus(NvmlGpus(nvml, 2).evidence(NONCE), NONCE, POLICY, AT)
    with pytest.raises(GpuFault, match="ready_not_verified"):
        NvmlGpus(nvml, 2).set_ready(verified)
    gpus = NvmlGpus(nvml, 2)
    again = verify_gpus(gpus.evidence(NONCE), NONCE, POLICY, AT)
    nvml.feature = 0
    with pytest.raises(GpuFault, match="cc_off"):
        gpus.evidence(NONCE)
    nvml.feature = 1
    with pytest.raises(GpuFault, match="ready_not_verified"):
        gpus.set_ready(again)
    assert nvml.is_ready == 0


def test_ready_is_not_set_in_developer_mode_although_the_evidence_verified() -> None:
    nvml = machine()
    gpus = NvmlGpus(nvml, 2)
    verified = verify_gpus(gpus.evidence(NONCE), NONCE, POLICY, AT)
    nvml.devtools = 1
    with pytest.raises(GpuFault, match="cc_devtools"):
        gpus.set_ready(verified)
    assert nvml.is_ready == 0


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"failures": {"nvmlSystemSetConfComputeGpusReadyState": pynvml.NVMLError(2)}}, "ready_refused"),
        ({"failures": {"nvmlSystemSetConfComputeGpusReadyState": pynvml.NVMLError(4)}}, "nvml_no_permission"),
        ({"missing": frozenset({"nvmlSystemSetConfComputeGpusReadyState"})}, "nvml_function_missing"),
        ({"keeps_ready": False}, "ready_refused"),
    ],
)
def test_a_driver_that_does_not_take_the_ready_state(settings: dict[str, Any], code: str) -> None:
    gpus = NvmlGpus(machine(**settings), 2)
    verified = verify_gpus(gpus.evidence(NONCE), NONCE, POLICY, AT)
    with pytest.raises(GpuFault) as caught:
        gpus.set_ready(verified)
    assert caught.value.code == code


def test_a_stored_report_answers_no_other_nonce(vectors: Path) -> None:
    folder = vectors / "nvidia" / "evidence" / "json"
    entries = parse_evidence_list((folder / "hopper_590.12_4gpu.json").read_bytes())
    nvml = FakeNvml(devices=[Stored(entry) for entry in entries])
    nonce = entries[0].nonce
    assert nonce is not None
    section = NvmlGpus(nvml, 4).evidence(nonce)
    real = replace(POLICY, modes=frozenset(Mode), simulated_root=None)
    verified = [verify_gpu(entry, nonce, real, AT) for entry in parse_evidence_list(section)]
    assert len({gpu.ueid for gpu in verified}) == 4
    with pytest.raises(GpuFault, match="another nonce"):
        NvmlGpus(nvml, 4).evidence(NONCE)


def test_blackwell_is_named_as_what_the_library_says() -> None:
    nvml = machine(architecture=BLACKWELL)
    assert {entry.arch for entry in parse_evidence_list(NvmlGpus(nvml, 2).evidence(NONCE))} == {"BLACKWELL"}


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="1 to"):
        NvmlGpus(machine(), 0)
    with pytest.raises(AttestationError, match="nonce_length"):
        NvmlGpus(machine(), 2).evidence(b"short")


def test_calls_end_with_their_thread() -> None:
    calls = NvmlCalls(machine())
    assert calls("nvmlDeviceGetCount") == 2
    calls.close()
    calls._thread.join(5)
    assert not calls._thread.is_alive()
