"""NVIDIA's answer beside the evidence: only for these GPUs, only for this nonce, only on top of our own checks."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from attestation.errors import AttestationError
from attestation.nvidia.claim_rules import ClaimRules
from attestation.nvidia.evidence import encode_evidence_list
from attestation.nvidia.nras_keys import NRAS_AUTHORITIES_SHA256
from attestation.nvidia.policy import GpuPolicy
from attestation.nvidia.second_opinion import ANSWER_NAME, KEYS_NAME
from attestation.nvidia.verify import appraise_gpu_section, verify_gpus
from attestation.policy import AttestationPolicy
from attestation.results import Outcome
from attestation.simulated.nras import SimulatedService, good_gpu
from attestation.simulated.nvidia import SimulatedDevicePki

AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
NONCE = bytes(range(32))
PKI = SimulatedDevicePki.create()
GPUS = [PKI.make_gpu() for _ in range(2)]
SECTION = encode_evidence_list([gpu.evidence(NONCE) for gpu in GPUS])
SERVICE = SimulatedService.create(AT)
LOCAL = GpuPolicy(count=2, rim="off", revocation="off", simulated_root=PKI.root_sha256)
POLICY = replace(LOCAL, nras="required", simulated_nras=SERVICE.authority_sha256)
VERIFIED = verify_gpus(SECTION, NONCE, LOCAL, AT)
GOOD = [good_gpu(gpu.ueid, gpu.driver_version, gpu.vbios_version) for gpu in VERIFIED]

OTHER_DRIVER = {**GOOD[1], "x-nvidia-gpu-driver-version": "1.0"}


def stapled(answer: bytes, keys: bytes | None = None) -> dict[str, bytes]:
    return {ANSWER_NAME: answer, KEYS_NAME: SERVICE.key_set() if keys is None else keys}


def codes(
    pieces: Mapping[str, bytes],
    policy: GpuPolicy = POLICY,
    section: bytes = SECTION,
    nonce: bytes | None = NONCE,
    at: datetime = AT,
) -> dict[str, str | None]:
    appraisal = appraise_gpu_section(section, nonce, policy, at, pieces)
    assert (appraisal.error is None) == bool(appraisal.gpus)
    return {row.id: row.code for row in appraisal.rows if row.outcome is Outcome.FAIL}


def test_both_agree() -> None:
    assert codes(stapled(SERVICE.answer(GOOD, NONCE, AT))) == {}
    assert codes(stapled(SERVICE.answer(GOOD[::-1], NONCE, AT))) == {}


def test_off_by_default_and_then_not_looked_at() -> None:
    assert GpuPolicy.production().nras == "off"
    appraisal = appraise_gpu_section(SECTION, NONCE, LOCAL, AT, stapled(b"nonsense"))
    assert appraisal.error is None
    rows = {row.id: row.outcome for row in appraisal.rows}
    assert rows["gpu.nras"] is Outcome.NOT_REQUIRED


@pytest.mark.parametrize(
    ("pieces", "code"),
    [
        ({}, "token_missing"),
        ({ANSWER_NAME: SERVICE.answer(GOOD, NONCE, AT)}, "token_missing"),
        (stapled(SERVICE.answer(GOOD[:1], NONCE, AT)), "policy_gpu_count"),
        (stapled(SERVICE.answer([GOOD[0], good_gpu("1")], NONCE, AT)), "claim_mismatch"),
        (stapled(SERVICE.answer([GOOD[0], {**GOOD[1], "measres": "fail"}], NONCE, AT)), "claim_mismatch"),
        (stapled(SERVICE.answer([GOOD[0], OTHER_DRIVER], NONCE, AT)), "claim_mismatch"),
        (stapled(SERVICE.answer(GOOD, bytes(32), AT)), "nonce_mismatch"),
        (stapled(SERVICE.answer(GOOD, NONCE, AT - timedelta(hours=2))), "token_expired"),
        (stapled(SERVICE.answer(GOOD, NONCE, AT), SimulatedService.create(AT).key_set()), "key_untrusted"),
    ],
)  # fmt: skip
def test_answers_that_do_not_count(pieces: Mapping[str, bytes], code: str) -> None:
    assert codes(pieces) == {"gpu.nras": code}


def test_a_good_answer_does_not_heal_bad_evidence() -> None:
    bad = encode_evidence_list([replace(GPUS[0].evidence(NONCE), nonce=bytes(32)), GPUS[1].evidence(NONCE)])
    assert codes(stapled(SERVICE.answer(GOOD, NONCE, AT)), section=bad) == {"gpu.nonce": "nonce_mismatch"}


def test_not_evaluated_without_nonce_or_devices() -> None:
    pieces = stapled(SERVICE.answer(GOOD, NONCE, AT))
    assert codes(pieces, nonce=None)["gpu.nras"] == "not_evaluated"
    other = SimulatedDevicePki.create().make_gpu().evidence(NONCE)
    mixed = encode_evidence_list([GPUS[0].evidence(NONCE), other])
    assert codes(pieces, section=mixed)["gpu.nras"] == "not_evaluated"


def test_a_simulated_service_vouches_for_no_real_gpu() -> None:
    assert POLICY.nras_authorities(simulated=False) == NRAS_AUTHORITIES_SHA256
    assert LOCAL.nras_authorities(simulated=True) == frozenset()
    with pytest.raises(AttestationError, match="an authority other than NVIDIA's"):
        GpuPolicy(simulated_nras=next(iter(NRAS_AUTHORITIES_SHA256)))


RULES = """{"version": "4.0", "authorization-rules": {"type": "JWT",
 "overall-claims": {"x-nvidia-ver": "3.0"}, "detached-claims": {"hwmodel": "%s"}}}"""


def table(**changed: Any) -> AttestationPolicy:
    simulated = {"nvidia_root_sha256": PKI.root_sha256, "nvidia_nras_sha256": SERVICE.authority_sha256}
    return AttestationPolicy.from_table(
        {"gpu": {"count": 2, "rim": "off", "revocation": "off", **changed}, "simulated": simulated}
    )


def test_rules_from_the_policy_file() -> None:
    pieces = stapled(SERVICE.answer(GOOD, NONCE, AT))
    model = "GH100 A01 GSP BROM"
    assert codes(pieces, table(nras="required", nras_rules=RULES % model).gpu) == {}
    assert codes(pieces, table(nras="required", nras_rules=RULES % "GB100").gpu) == {
        "gpu.nras": "claim_mismatch"
    }
    assert codes({}, table(claim_rules=RULES % model).gpu) == {}
    assert codes({}, table(claim_rules=RULES % "GB100").gpu) == {"gpu.claims": "claim_mismatch"}
    assert codes(pieces, table(nras="required", nras_claims=["2.0"]).gpu) == {"gpu.nras": "claims_version"}


@pytest.mark.parametrize(
    "changed",
    [
        {"nras": "maybe"},
        {"nras_claims": []},
        {"nras_claims": ["1.0"]},
        {"nras_rules": {}},
        {"claim_rules": "{}"},
    ],
)
def test_policies_that_are_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(AttestationError) as caught:
        table(**changed)
    assert caught.value.code == "policy_invalid"


def test_nvidias_policy_for_local_results_takes_no_result_without_reference_measurements(
    vectors: Path,
) -> None:
    path = vectors / "nvidia" / "policies" / "local_NVGPULocalv4PolicyExample.json"
    rules = ClaimRules.parse(path.read_bytes())
    failed = codes({}, replace(LOCAL, claim_rules=rules))
    assert failed == {"gpu.claims": "claim_mismatch"}
