"""Answers of NVIDIA's attestation service, real and synthetic, with the verdict that is right for each."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.errors import AttestationError
from attestation.nvidia.claim_rules import ClaimRules
from attestation.nvidia.nras import NrasPolicy, VerifiedAnswer, verify_answer
from attestation.nvidia.nras_keys import NRAS_AUTHORITIES_SHA256


@pytest.fixture(scope="module")
def nvidia(vectors: Path) -> Path:
    return vectors / "nvidia"


def moment(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def judge(case: dict[str, Any], answer: bytes, key_set: bytes, policy: NrasPolicy) -> str:
    """The error's code, or "" where the answer is accepted."""
    try:
        verified = verify_answer(
            answer,
            key_set,
            nonce=bytes.fromhex(case["nonce"]),
            count=case["expected_gpus"],
            at=moment(case["at"]),
            policy=policy,
        )
    except AttestationError as error:
        return error.code
    assert len(verified.devices) == case["expected_gpus"]
    return ""


def disagreement(case: dict[str, Any], reason: str, code: str) -> str | None:
    if case["expect"] == "accept":
        return f"{case['id']}: refused with {code}" if code else None
    if not code:
        return f"{case['id']}: accepted, though {reason}"
    classes = [word.strip(":,").lower() for word in reason.split() if word[:3].isupper() and word != "EAT"]
    named = any(known and known in code for known in classes)
    return None if named else f"{case['id']}: refused with {code}, though for {reason}"


def test_real_answers(nvidia: Path) -> None:
    suite = json.loads((nvidia / "nras" / "nras_real_cases.json").read_text())
    assert frozenset(suite["pinned_spki_sha256"]) == NRAS_AUTHORITIES_SHA256
    wrong = []
    for case in suite["cases"]:
        name, _, member = case["token"].partition("#")
        answer = (nvidia / "nras" / name).read_bytes()
        if member:
            answer = json.dumps(json.loads(answer)[member]).encode()
        key_set = (nvidia / "nras" / case["jwks"]).read_bytes()
        wrong.append(disagreement(case, case["reason"], judge(case, answer, key_set, NrasPolicy())))
    assert suite["cases"]
    assert [line for line in wrong if line] == []


def test_synthetic_answers(nvidia: Path) -> None:
    folder = nvidia / "synthetic_nras"
    suite = json.loads((folder / "nras_cases.json").read_text())
    authority = x509.load_pem_x509_certificate((folder / "test_intermediate.pem").read_bytes())
    pin = digest_of_key(authority)
    wrong = []
    for case in suite["cases"]:
        asked = case["policy"]
        if asked.keys() - {"claims_version"}:
            wrong.append(f"{case['id']}: this policy is not understood: {asked}")
            continue
        policy = NrasPolicy(authorities=frozenset({pin}))
        if "claims_version" in asked:
            policy = NrasPolicy(
                authorities=frozenset({pin}), claims_versions=frozenset({asked["claims_version"]})
            )
        answer, key_set = json.dumps(case["token"]).encode(), json.dumps(case["jwks"]).encode()
        code = judge(case, answer, key_set, policy)
        wrong.append(disagreement(case, case["why"], code))
    assert suite["cases"]
    assert [line for line in wrong if line] == []


def real_answer(nvidia: Path, policy: NrasPolicy) -> VerifiedAnswer:
    """The real answer about eight GPUs in claims 2.0, at a time when it was good."""
    suite = json.loads((nvidia / "nras" / "nras_real_cases.json").read_text())
    case = next(case for case in suite["cases"] if (case["expect"], case["expected_gpus"]) == ("accept", 8))
    return verify_answer(
        (nvidia / "nras" / case["token"]).read_bytes(),
        (nvidia / "nras" / case["jwks"]).read_bytes(),
        nonce=bytes.fromhex(case["nonce"]),
        count=8,
        at=moment(case["at"]),
        policy=policy,
    )


def test_policy_files_of_nvidia_are_read_as_they_are(nvidia: Path) -> None:
    for path in sorted((nvidia / "policies").glob("*.json")):
        data = path.read_bytes()
        if json.loads(data)["version"] in ("3.0", "4.0"):
            assert ClaimRules.parse(data).device
        else:
            with pytest.raises(AttestationError, match=r"version of the policy file|lacks|unknown member"):
                ClaimRules.parse(data)


def test_nvidias_policy_for_claims_2_on_a_real_answer(nvidia: Path) -> None:
    rules = ClaimRules.parse((nvidia / "policies" / "remote_v3_NVGPURemotePolicyExample.json").read_bytes())
    answer = real_answer(nvidia, NrasPolicy(rules=rules))
    assert {device.claims["x-nvidia-gpu-driver-version"] for device in answer.devices} == {"595.71.05"}
    assert len({device.ueid for device in answer.devices}) == 8


def test_nvidias_policy_for_claims_3_refuses_an_answer_in_claims_2(nvidia: Path) -> None:
    rules = ClaimRules.parse((nvidia / "policies" / "remote_v4_NVGPURemotePolicyExample.json").read_bytes())
    with pytest.raises(AttestationError, match="claim_mismatch: x-nvidia-ver"):
        real_answer(nvidia, NrasPolicy(rules=rules))


@pytest.mark.parametrize(
    ("file", "policy"),
    [
        ("hopper_v3_2025-06-11_decoded.json", "remote_v4_NVGPURemotePolicyExample.json"),
        ("switch_v3_staging_decoded.json", "remote_v4_NVSwitchRemotePolicyExample.json"),
    ],
)
def test_nvidias_policies_accept_the_claims_that_nvidia_publishes(
    nvidia: Path, file: str, policy: str
) -> None:
    rules = ClaimRules.parse((nvidia / "policies" / policy).read_bytes())
    for device in devices_in(json.loads((nvidia / "nras" / file).read_text())):
        rules.check_device(device)


def devices_in(document: object) -> list[dict[str, Any]]:
    if isinstance(document, dict):
        if "measres" in document:
            return [document]
        return [device for value in document.values() for device in devices_in(value)]
    if isinstance(document, list):
        return [device for value in document for device in devices_in(value)]
    return []


def digest_of_key(certificate: x509.Certificate) -> str:
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()
