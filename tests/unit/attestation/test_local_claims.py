"""NVIDIA's own policy files, run over results of ours: they accept what was checked, and nothing that was not."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from attestation.errors import AttestationError
from attestation.nvidia.claim_rules import ClaimRules
from attestation.nvidia.evidence import encode_evidence_list
from attestation.nvidia.local_claims import LocalClaims, local_claims
from attestation.nvidia.opaque import Mode
from attestation.nvidia.policy import GpuPolicy
from attestation.nvidia.verify import appraise_gpu_section, verify_gpus
from attestation.results import Outcome
from attestation.simulated.nvidia import SimulatedDevicePki
from attestation.simulated.nvidia_report import GpuSettings, board_settings
from attestation.simulated.nvidia_rim import SimulatedRimPki

AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
NONCE = bytes(range(32))
PKI, RIMS = SimulatedDevicePki.create(), SimulatedRimPki.create()
GPUS = [PKI.make_gpu() for _ in range(2)]
SECTION = encode_evidence_list([gpu.evidence(NONCE) for gpu in GPUS])
PIECES = {**RIMS.gpu_rims(GpuSettings()), **RIMS.ocsp(AT)}
for gpu in GPUS:
    PIECES.update(PKI.ocsp(gpu.certificate, AT))
POLICY = GpuPolicy(count=2, simulated_root=PKI.root_sha256, simulated_rim_root=RIMS.root_sha256)


def policy_file(vectors: Path, name: str) -> ClaimRules:
    return ClaimRules.parse((vectors / "nvidia" / "policies" / name).read_bytes())


def codes(policy: GpuPolicy) -> dict[str, str | None]:
    appraisal = appraise_gpu_section(SECTION, NONCE, policy, AT, PIECES)
    return {row.id: row.code for row in appraisal.rows if row.outcome is Outcome.FAIL}


@pytest.mark.parametrize(
    "name", ["local_NVGPULocalv4PolicyExample.json", "remote_v4_NVGPURemotePolicyExample.json"]
)
def test_nvidias_policies_accept_a_full_appraisal(vectors: Path, name: str) -> None:
    assert codes(replace(POLICY, claim_rules=policy_file(vectors, name))) == {}


@pytest.mark.parametrize(
    "left_out", [{"rim": "off"}, {"revocation": "off"}, {"rim": "off", "revocation": "off"}]
)
def test_and_none_with_a_check_left_out(vectors: Path, left_out: dict[str, str]) -> None:
    rules = policy_file(vectors, "local_NVGPULocalv4PolicyExample.json")
    policy = replace(POLICY, claim_rules=rules, **left_out)  # type: ignore[arg-type]
    assert codes(replace(policy, claim_rules=None)) == {}  # control
    assert codes(policy) == {"gpu.claims": "claim_mismatch"}


def test_rules_that_cannot_be_looked_at_have_failed(vectors: Path) -> None:
    rules = policy_file(vectors, "local_NVGPULocalv4PolicyExample.json")
    failed = codes(replace(POLICY, claim_rules=rules, count=3))
    assert failed == {"gpu.count": "policy_gpu_count", "gpu.claims": "not_evaluated"}


def test_no_device_follows_no_rules() -> None:
    with pytest.raises(AttestationError, match="policy_gpu_count"):
        LocalClaims({}, {}).follow(ClaimRules())
    assert local_claims([], [], AT).overall["x-nvidia-overall-att-result"] is False


def test_claims_name_every_device() -> None:
    claims = local_claims(verify_gpus(SECTION, NONCE, POLICY, AT, PIECES), [], AT)
    assert list(claims.devices) == ["GPU-0", "GPU-1"]
    assert len({one["ueid"] for one in claims.devices.values()}) == 2
    assert claims.overall["x-nvidia-overall-att-result"] is True
    assert claims.to_json()["overall"]["iat"] == int(AT.timestamp())


PROTECTED, WIRINGS = board_settings()
BOARD_GPUS = [PKI.make_gpu() for _ in range(8)]
SWITCHES = [PKI.make_switch(wiring) for wiring in WIRINGS]
BOARD_PIECES = {**PIECES, **RIMS.gpu_rims(PROTECTED), **RIMS.switch_rims(WIRINGS[0])}
for device in (*BOARD_GPUS, *SWITCHES):
    BOARD_PIECES.update(PKI.ocsp(device.certificate, AT))
BOARD = replace(POLICY, count=8, modes=frozenset({Mode.PPCIE}))


def board_codes(policy: GpuPolicy, reported_fwid: bytes | None = None) -> dict[str, str | None]:
    entries = [gpu.evidence(NONCE, PROTECTED) for gpu in BOARD_GPUS]
    for switch, wiring in zip(SWITCHES, WIRINGS, strict=True):
        entries.append(switch.evidence(NONCE, replace(wiring, reported_fwid=reported_fwid)))
    appraisal = appraise_gpu_section(encode_evidence_list(entries), NONCE, policy, AT, BOARD_PIECES)
    return {row.id: row.code for row in appraisal.rows if row.outcome is Outcome.FAIL}


GPU_FILE, SWITCH_FILE = "local_NVGPULocalv4PolicyExample.json", "remote_v4_NVSwitchRemotePolicyExample.json"


@pytest.mark.parametrize("name", [GPU_FILE, SWITCH_FILE])
def test_nvidias_policies_accept_a_board_of_gpus_and_switches(vectors: Path, name: str) -> None:
    rules = policy_file(vectors, name)
    assert board_codes(replace(BOARD, claim_rules=rules)) == {}
    left_out = replace(BOARD, claim_rules=rules, revocation="off")
    assert board_codes(left_out) == {"gpu.claims": "claim_mismatch"}


def test_rules_about_switches_are_not_met_by_gpus_alone(vectors: Path) -> None:
    rules = policy_file(vectors, SWITCH_FILE)
    assert codes(replace(POLICY, claim_rules=rules)) == {"gpu.claims": "claim_missing"}


def test_a_switch_that_names_a_firmware_must_name_its_certificates() -> None:
    assert board_codes(BOARD) == {}
    assert board_codes(BOARD, reported_fwid=WIRINGS[0].fwid) == {}
    assert board_codes(BOARD, reported_fwid=bytes(48)) == {"gpu.fwid": "fwid_mismatch"}
