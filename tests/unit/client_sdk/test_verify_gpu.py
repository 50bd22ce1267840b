"""``cloister verify --gpu-evidence`` and ``--local-gpu``: rows, JSON, exit status and what they refuse to guess."""

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pynvml
import pytest
from fake_nvml import FakeNvml, Minted
from rich.console import Console

from attestation.nvidia.evidence import GpuEvidence, encode_evidence_list
from attestation.nvidia.policy import GpuPolicy
from attestation.simulated.nvidia import SimulatedDevicePki
from client_sdk.cli import run
from client_sdk.verify_gpu import GpuVerification, show_gpu_verification, verify_evidence, verify_local

AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
NONCE = bytes(range(32))
PKI = SimulatedDevicePki.create()
GPUS = [PKI.make_gpu() for _ in range(2)]
SECTION = encode_evidence_list([gpu.evidence(NONCE) for gpu in GPUS])
POLICY = GpuPolicy(rim="off", revocation="off", simulated_root=PKI.root_sha256)
POLICY_FILE = f"""version = 1
name = "two simulated GPUs"
[gpu]
count = 2
rim = "off"
revocation = "off"
[simulated]
nvidia_root_sha256 = "{PKI.root_sha256}"
"""
RULES = {
    "version": "4.0",
    "authorization-rules": {
        "type": "JWT",
        "overall-claims": {"x-nvidia-ver": "3.0"},
        "detached-claims": {"hwmodel": "GH100 A01 GSP BROM"},
    },
}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "evidence.json").write_bytes(SECTION)
    (tmp_path / "policy.toml").write_text(POLICY_FILE)
    (tmp_path / "rules.json").write_text(json.dumps(RULES))
    return {path.stem: str(path) for path in tmp_path.iterdir()}


def arguments(files: dict[str, str], *more: str) -> list[str]:
    return ["verify", "--gpu-evidence", files["evidence"], "--policy", files["policy"], *more]


def test_stored_evidence_by_a_policy_file(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments(files, "--nonce", NONCE.hex(), "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["verified"], told["simulated"], told["error"]) == (True, True, None)
    assert list(told["claims"]["devices"]) == ["GPU-0", "GPU-1"]
    assert told["claims"]["overall"]["x-nvidia-overall-att-result"] is False  # nothing was compared
    assert run(arguments(files, "--nonce", NONCE.hex())) == 0
    shown = capsys.readouterr().out
    assert "SIMULATED" in shown
    assert "2 devices" in shown


def test_another_nonce_is_refused(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments(files, "--nonce", "00" * 32, "--json")) == 3
    told = json.loads(capsys.readouterr().out)
    assert told["error"]["code"] == "nonce_mismatch"
    assert told["claims"] is None
    assert run(arguments(files, "--nonce", "00" * 32)) == 3
    assert "refused" in capsys.readouterr().out


def test_strict_production_trusts_no_simulated_root(
    files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    strict = ["verify", "--gpu-evidence", files["evidence"], "--nonce", NONCE.hex(), "--json"]
    assert run(strict) == 3
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "chain_untrusted"


def test_rules_of_nvidias_tools(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    nonce = ("--nonce", NONCE.hex())
    assert run(arguments(files, *nonce, "--claim-rules", files["rules"])) == 0
    rules = json.loads(json.dumps(RULES))
    rules["authorization-rules"]["detached-claims"]["hwmodel"] = "another"
    Path(files["rules"]).write_text(json.dumps(rules))
    assert run(arguments(files, *nonce, "--claim-rules", files["rules"])) == 3
    assert "claim_mismatch" in capsys.readouterr().out
    Path(files["rules"]).write_text("{}")
    assert run(arguments(files, *nonce, "--claim-rules", files["rules"])) == 1


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--nonce", "12"),
        ("--nonce", "zz" * 32),
        ("--nonce", " " + "00" * 31 + "0"),
        ("--nonce", "00" * 32, "--local-gpu"),
        ("--nonce", "00" * 32, "--relay", "http://localhost"),
        ("--nonce", "00" * 32, "--rim-dir", "/nowhere/at/all"),
        ("--nonce", "00" * 32, "--at", "yesterday"),
    ],
)
def test_usage(files: dict[str, str], more: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments(files, *more)) == 1
    assert "error" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "x = ", "[gpu]\nrim = 1", "[gpu]\nunknown = 1", "[other]\n"])
def test_policies_that_cannot_be_used(
    files: dict[str, str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(files["policy"]).write_text(text)
    status = run(arguments(files, "--nonce", NONCE.hex()))
    assert status == (1 if text else 3)  # an empty one is strict production
    capsys.readouterr()


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b"[1]", SECTION[:-9]])
def test_files_that_hold_no_evidence(
    files: dict[str, str], data: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(files["evidence"]).write_bytes(data)
    assert run(arguments(files, "--nonce", NONCE.hex())) == 3
    capsys.readouterr()


def test_real_evidence_with_its_manifests_by_rim_dir(vectors: Path, tmp_path: Path) -> None:
    folder = vectors / "nvidia" / "evidence" / "hopper_550.90.07"
    report = bytes.fromhex((folder / "report.hex").read_text().strip())
    entry = GpuEvidence("HOPPER", None, report, (folder / "chain.pem").read_bytes())
    section, policy = encode_evidence_list([entry]), GpuPolicy(revocation="off")

    def judge(at: datetime, rim_dir: Path | None = folder) -> GpuVerification:
        return verify_evidence(section, report[4:36], policy, at, rim_dir=rim_dir)

    good = judge(datetime(2026, 3, 1, tzinfo=UTC))
    assert good.error is None
    assert good.claims is not None
    assert good.claims.overall["x-nvidia-overall-att-result"] is True
    expired = judge(datetime(2026, 11, 21, tzinfo=UTC))
    assert expired.error is not None
    assert expired.error.code == "rim_chain_expired"
    without = judge(datetime(2026, 3, 1, tzinfo=UTC), None)
    assert without.error is not None
    assert without.error.code == "rim_not_found"
    strict = verify_evidence(
        section, report[4:36], GpuPolicy(), datetime(2026, 3, 1, tzinfo=UTC), rim_dir=folder
    )
    assert strict.error is not None
    assert strict.error.code == "revocation_missing"


def test_a_whole_board_from_the_two_files_that_nvidias_tools_write(
    vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = vectors / "nvidia" / "evidence" / "json"
    gpus, switches = str(folder / "ppcie_8gpu.json"), str(folder / "ppcie_4switch.json")
    policy = tmp_path / "board.toml"
    policy.write_text('[gpu]\ncount = 8\nmodes = ["PPCIE"]\nrim = "off"\nrevocation = "off"\n')
    nonce = json.loads(Path(gpus).read_text())[0]["nonce"]
    judged = ["verify", "--policy", str(policy), "--nonce", nonce, "--json", "--at", "2026-11-21T12:00:00Z"]
    assert run([*judged, "--gpu-evidence", gpus, "--gpu-evidence", switches]) == 0
    assert len(json.loads(capsys.readouterr().out)["claims"]["devices"]) == 12
    assert run([*judged, "--gpu-evidence", gpus]) == 3
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "topology"


def local(policy: GpuPolicy = POLICY, **settings: Any) -> GpuVerification:
    nvml = FakeNvml(devices=[Minted(gpu) for gpu in GPUS], **settings)
    result = verify_local(policy, lambda: AT, load=lambda: nvml, entropy=bytes)
    assert "nvmlSystemSetConfComputeGpusReadyState" not in nvml.calls
    show_gpu_verification(Console(quiet=True), result)
    json.dumps(result.to_json())
    return result


def test_a_machine_that_is_all_right() -> None:
    result = local(is_ready=1)
    assert (result.status, result.error) == (0, None)
    assert result.claims is not None
    assert {claims["eat_nonce"] for claims in result.claims.devices.values()} == {"00" * 32}


def test_a_machine_that_is_not_ready_still_gives_evidence() -> None:
    result = local()
    assert result.error is not None
    assert (result.status, result.error.code) == (3, "cc_not_ready")
    assert result.claims is not None


@pytest.mark.parametrize(
    ("settings", "status", "code"),
    [
        ({"failures": {"nvmlInit": pynvml.NVMLError(12)}}, 2, "nvml_library_missing"),
        ({"feature": 0}, 2, "cc_off"),
        ({"devtools": 1}, 2, "cc_devtools"),
        ({"failures": {"nvmlDeviceGetConfComputeGpuAttestationReport": pynvml.NVMLError(3)}}, 2, "nvml_not_supported"),
        ({"report_size": 9000}, 2, "report_size"),
        ({"is_ready": 1, "policy": replace(POLICY, simulated_root=None)}, 3, "chain_untrusted"),
    ],
)  # fmt: skip
def test_machines_that_lack_something(settings: dict[str, Any], status: int, code: str) -> None:
    result = local(**settings)
    assert result.error is not None
    assert (result.status, result.error.code) == (status, code)
    assert result.claims is None


def test_this_very_machine(capsys: pytest.CaptureFixture[str]) -> None:
    status = run(["verify", "--local-gpu", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert status in (0, 2, 3)
    assert told["rows"][0]["id"] == "local.library"
    assert (told["error"] is None) == (status == 0)


def test_evidence_as_nvidias_tools_write_it(
    files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    entries = json.loads(SECTION)
    for entry in entries:
        entry.update(version="1.0", driver_version="590.12", vbios_version="96.00.A5.00.01")
        assert base64.b64decode(entry["evidence"])
    Path(files["evidence"]).write_text(json.dumps(entries, indent=2))
    assert run(arguments(files, "--nonce", NONCE.hex().upper(), "--at", "2026-11-21T12:00:00Z")) == 0
    capsys.readouterr()
