"""What is said of a machine that cannot give GPU evidence, and of one that can."""

import sys
from typing import Any

import pynvml
import pytest
from fake_nvml import FakeNvml, Minted

from attestation.nvidia.machine import CHECKS, Machine, inspect_machine
from attestation.nvidia.nvml import load_library
from attestation.results import NOT_EVALUATED, Outcome
from attestation.simulated.nvidia import SimulatedDevicePki

DEVICES = [Minted(SimulatedDevicePki.create().make_gpu()) for _ in range(2)]


def look(**settings: Any) -> Machine:
    nvml = FakeNvml(devices=settings.pop("devices", DEVICES), **settings)
    machine = inspect_machine(lambda: nvml)
    assert [row.id for row in machine.rows] == list(CHECKS)
    assert "nvmlSystemSetConfComputeGpusReadyState" not in nvml.calls
    return machine


def failing(machine: Machine) -> dict[str, str | None]:
    return {row.id: row.code for row in machine.rows if row.outcome is not Outcome.PASS}


def test_a_machine_that_is_ready() -> None:
    machine = look(is_ready=1)
    assert failing(machine) == {}
    assert (machine.error, machine.gpus, machine.attestable) == (None, 2, True)


@pytest.mark.parametrize(
    ("settings", "row", "code", "says"),
    [
        ({"failures": {"nvmlInit": pynvml.NVMLError(9)}}, "local.library", "nvml_driver_not_loaded", "kernel driver"),
        ({"devices": []}, "local.gpus", "gpu_none", "pass one through"),
        ({"architecture": 8}, "local.architecture", "gpu_architecture", "Hopper and Blackwell"),
        ({"cpu_capability": 0}, "local.capability", "cc_cpu_incapable", "SEV-SNP or Intel TDX"),
        ({"gpu_capability": 0}, "local.capability", "cc_gpu_incapable", "no confidential computing"),
        ({"feature": 0}, "local.confidential", "cc_off", "--set-cc-mode=on"),
        ({"environment": 1}, "local.confidential", "cc_environment", "production"),
        ({"settings_code": 3}, "local.confidential", "nvml_not_supported", "cannot do it"),
        ({"devtools": 1}, "local.devtools", "cc_devtools", "the host can read the GPU"),
        ({"is_ready": 0}, "local.ready", "cc_not_ready", "not verified since the driver started"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(settings: dict[str, Any], row: str, code: str, says: str) -> None:
    machine = look(**{"is_ready": 1, **settings})
    (first, *rest) = failing(machine).items()
    assert first == (row, code)
    assert set(dict(rest).values()) <= {NOT_EVALUATED}
    assert says in next(one.detail for one in machine.rows if one.id == row)
    assert machine.error is not None
    assert machine.attestable is (row == "local.ready")


def test_devtools_and_ready_state_are_both_told() -> None:
    machine = look(devtools=1, is_ready=0)
    assert failing(machine) == {"local.devtools": "cc_devtools", "local.ready": "cc_not_ready"}
    assert not machine.attestable


def test_protected_pcie_counts_as_on() -> None:
    machine = look(feature=0, multi_gpu_mode=1, is_ready=1)
    assert machine.attestable
    assert "protected PCIe" in machine.rows[5].detail


def test_a_machine_without_the_library() -> None:
    machine = look(devices=[], failures={"nvmlInit": pynvml.NVMLError(12)})
    assert machine.rows[0].code == "nvml_library_missing"
    assert "no NVIDIA driver here" in machine.rows[0].detail
    assert {row.code for row in machine.rows[1:]} == {NOT_EVALUATED}


def test_a_python_without_the_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert inspect_machine(load_library).rows[0].code == "nvml_bindings_missing"


def test_a_library_that_fails_at_its_end_has_still_answered() -> None:
    assert look(is_ready=1, failures={"nvmlShutdown": pynvml.NVMLError(999)}).error is None
