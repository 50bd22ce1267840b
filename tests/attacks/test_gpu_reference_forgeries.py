"""Reference values, revocation answers and boards that are not what a node says: each made for real, each refused.

Beside each stands the control: without the one change, the same evidence and collateral pass.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from attestation.errors import AttestationError
from attestation.nvidia.claim_rules import ClaimRules
from attestation.nvidia.evidence import GpuEvidence, encode_evidence_list
from attestation.nvidia.opaque import Mode
from attestation.nvidia.policy import GpuPolicy
from attestation.nvidia.verified import gpu_claims, switch_claims
from attestation.nvidia.verify import appraise_gpu_section, verify_gpu, verify_gpus, verify_switch
from attestation.simulated.nvidia import SimulatedDevicePki
from attestation.simulated.nvidia_ocsp import Answer
from attestation.simulated.nvidia_report import BLACKWELL, GpuSettings, board_settings, measurement
from attestation.simulated.nvidia_rim import Manifest, SimulatedRimPki, document

AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
NONCE = bytes(range(32))
PKI = SimulatedDevicePki.create()
RIMS = SimulatedRimPki.create()
POLICY = GpuPolicy(simulated_root=PKI.root_sha256, simulated_rim_root=RIMS.root_sha256)
HELD = x509.ReasonFlags.certificate_hold
STOLEN = x509.ReasonFlags.key_compromise
GPU = PKI.make_gpu()
SETTINGS = GpuSettings()
DRIVER, VBIOS = RIMS.gpu_rims(SETTINGS)
COLLATERAL = {**RIMS.gpu_rims(SETTINGS), **RIMS.ocsp(AT), **PKI.ocsp(GPU.certificate, AT)}
EVIDENCE = GPU.evidence(NONCE)


def code_of(
    evidence: GpuEvidence = EVIDENCE,
    policy: GpuPolicy = POLICY,
    collateral: Mapping[str, bytes] = COLLATERAL,
    at: datetime = AT,
) -> str:
    try:
        verify_gpu(evidence, NONCE, policy, at, collateral)
    except AttestationError as error:
        return error.code
    return ""


def test_the_control_of_all_of_these() -> None:
    gpu = verify_gpu(EVIDENCE, NONCE, POLICY, AT, COLLATERAL)
    assert gpu.warnings == ()
    claims = gpu_claims(gpu)
    assert claims["measres"] == "success"
    chain = claims["x-nvidia-gpu-driver-rim-cert-chain"]
    assert isinstance(chain, dict)
    assert chain["x-nvidia-cert-ocsp-status"] == "good"


def test_one_device_cannot_stand_for_what_only_a_node_can_show() -> None:
    assert code_of(policy=replace(POLICY, nras="required")) == "not_available"
    assert code_of(policy=replace(POLICY, claim_rules=ClaimRules())) == "not_available"


def test_blackwell_by_its_own_manifests() -> None:
    settings = GpuSettings(arch=BLACKWELL)
    gpu = PKI.make_gpu(settings)
    evidence = gpu.evidence(NONCE, settings)
    collateral = {**RIMS.gpu_rims(settings), **RIMS.ocsp(AT), **PKI.ocsp(gpu.certificate, AT)}
    assert code_of(evidence, collateral=collateral) == ""
    assert code_of(evidence) == "rim_not_found"  # those of a Hopper GPU do not count


@pytest.mark.parametrize("index", [7, 9, 30])
def test_firmware_that_measures_otherwise(index: int) -> None:
    evidence = GPU.evidence(NONCE, GpuSettings(changed=((index, b"\x66" * 48),)))
    assert code_of(evidence, replace(POLICY, rim="off")) == ""  # control
    assert code_of(evidence) == "measurement_mismatch"


def test_firmware_of_a_decoder_that_runs() -> None:
    other = ((35, b"\x66" * 48),)
    off, on = GpuSettings(changed=other), GpuSettings(changed=other, nvdec_enabled=True)
    assert code_of(GPU.evidence(NONCE, off)) == ""  # control: nothing runs it
    assert code_of(GPU.evidence(NONCE, on)) == "measurement_mismatch"
    assert code_of(GPU.evidence(NONCE, off), replace(POLICY, strict_msr35=True)) == "measurement_mismatch"


def test_something_that_nobody_vouches_for() -> None:
    evidence = GPU.evidence(NONCE, GpuSettings(changed=((41, b"\x66" * 48),)))
    gpu = verify_gpu(evidence, NONCE, POLICY, AT, COLLATERAL)  # control: NVIDIA's rule takes it, and says so
    assert gpu.warnings == ("no reference value covers measurement 41",)
    assert code_of(evidence, replace(POLICY, reject_uncovered=True)) == "measurement_uncovered"


def test_manifest_made_for_the_changed_firmware() -> None:
    settings = GpuSettings(changed=((30, b"\x66" * 48),))
    evidence = GPU.evidence(NONCE, settings)
    forger = SimulatedRimPki.create()
    forged = {**COLLATERAL, **forger.gpu_rims(settings), **forger.ocsp(AT)}
    trusting = replace(POLICY, simulated_rim_root=forger.root_sha256)
    assert code_of(evidence, trusting, forged) == ""  # control: under its own root it would pass
    assert code_of(evidence, collateral=forged) == "rim_chain_untrusted"


def test_manifest_signed_by_another_key_beside_the_genuine_chain() -> None:
    settings = GpuSettings(changed=((30, b"\x66" * 48),))
    values = {index: (measurement(index, settings),) for index in (7, *range(21, 41))}
    unsigned = document(Manifest(settings.driver_version, "GH100", values))
    evidence = GPU.evidence(NONCE, settings)
    genuine = {**COLLATERAL, DRIVER: RIMS.sign(unsigned)}
    assert code_of(evidence, collateral=genuine) == ""  # control: had the signer signed it
    forged = {**COLLATERAL, DRIVER: RIMS.sign(unsigned, SimulatedRimPki.create().signer.key)}
    assert code_of(evidence, collateral=forged) == "rim_signature_invalid"


def test_manifest_of_an_older_driver() -> None:
    older = RIMS.gpu_rims(GpuSettings(driver_version="580.65.06"))
    stale = {**COLLATERAL, DRIVER: older["rim/NV_GPU_DRIVER_GH100_580.65.06"]}
    assert code_of(collateral=stale) == "rim_version_mismatch"
    assert code_of(collateral={**COLLATERAL, DRIVER: COLLATERAL[VBIOS]}) == "rim_version_mismatch"


def test_genuine_manifest_hidden_under_a_forged_one() -> None:
    forged = document(Manifest("590.12", "GH100", {7: [b"\x66" * 48]}))
    wrapped = forged.replace("<ns0:Entity", COLLATERAL[DRIVER].decode() + "<ns0:Entity", 1).encode()
    assert code_of(collateral={**COLLATERAL, DRIVER: wrapped}) == "rim_profile"


def test_collateral_withheld() -> None:
    stapled = replace(POLICY, revocation="stapled")
    for name in COLLATERAL:
        left = {key: data for key, data in COLLATERAL.items() if key != name}
        if name.startswith("rim/"):
            assert code_of(collateral=left) == "rim_not_found"
            continue
        assert code_of(collateral=left) == "revocation_missing"
        gpu = verify_gpu(EVIDENCE, NONCE, stapled, AT, left)  # control: a policy that takes what is there
        assert gpu.warnings[0].startswith("revocation is known of ")


def test_revoked_device() -> None:
    for reason in (HELD, STOLEN):
        collateral = {**COLLATERAL, **PKI.ocsp(GPU.certificate, AT, Answer(reason=reason))}
        tolerant = replace(POLICY, allow_rim_cert_hold=True)
        assert code_of(collateral=collateral) == "revoked"
        assert code_of(policy=tolerant, collateral=collateral) == "revoked"
        assert code_of(policy=replace(POLICY, revocation="stapled"), collateral=collateral) == "revoked"
        assert code_of(policy=replace(POLICY, revocation="off"), collateral=collateral) == ""  # control


def test_revoked_manifest_signer() -> None:
    held = {**COLLATERAL, **RIMS.ocsp(AT, Answer(reason=HELD))}
    stolen = {**COLLATERAL, **RIMS.ocsp(AT, Answer(reason=STOLEN))}
    tolerant = replace(POLICY, allow_rim_cert_hold=True)
    assert code_of(collateral=held) == "revoked"
    gpu = verify_gpu(EVIDENCE, NONCE, tolerant, AT, held)  # control: the policy may wait for NVIDIA
    assert "on hold" in gpu.warnings[0]
    assert code_of(policy=tolerant, collateral=stolen) == "revoked"


def test_old_answers_kept_for_later() -> None:
    assert code_of(at=AT + timedelta(days=6)) == ""  # control
    assert code_of(at=AT + timedelta(days=8)) == "revocation_stale"


def test_failures_name_the_gpu_that_failed() -> None:
    entries = [PKI.make_gpu().evidence(NONCE) for _ in range(3)]
    entries[1] = PKI.make_gpu().evidence(NONCE, GpuSettings(changed=((30, b"\x66" * 48),)))
    policy = replace(POLICY, revocation="off")
    section = encode_evidence_list(entries)
    with pytest.raises(AttestationError) as caught:
        verify_gpus(section, NONCE, policy, AT, COLLATERAL)
    assert (caught.value.code, getattr(caught.value, "gpu", None)) == ("measurement_mismatch", 1)


class Board:
    """Eight GPUs and four switches in protected PCIe mode, with their collateral."""

    def __init__(self) -> None:
        settings, switches = board_settings()
        self.settings = settings
        made = [PKI.make_gpu() for _ in range(8)]
        wired = [PKI.make_switch(switch) for switch in switches]
        self.gpus = [gpu.evidence(NONCE, settings) for gpu in made]
        self.switches = [
            switch.evidence(NONCE, wiring) for switch, wiring in zip(wired, switches, strict=True)
        ]
        self.collateral = {**RIMS.gpu_rims(settings), **RIMS.ocsp(AT), **RIMS.switch_rims(switches[0])}
        for certificate in (*(gpu.certificate for gpu in made), *(switch.certificate for switch in wired)):
            self.collateral.update(PKI.ocsp(certificate, AT))


BOARD = Board()
PROTECTED = replace(POLICY, modes=frozenset({Mode.PPCIE}), count=8)


def board_code(entries: list[GpuEvidence], policy: GpuPolicy = PROTECTED) -> str | None:
    error = appraise_gpu_section(encode_evidence_list(entries), NONCE, policy, AT, BOARD.collateral).error
    return None if error is None else error.code


def test_a_whole_board() -> None:
    section = encode_evidence_list([*BOARD.gpus, *BOARD.switches])
    appraisal = appraise_gpu_section(section, NONCE, PROTECTED, AT, BOARD.collateral)
    assert appraisal.error is None
    assert (len(appraisal.gpus), len(appraisal.switches)) == (8, 4)
    assert switch_claims(appraisal.switches[0])["measres"] == "success"
    with pytest.raises(AttestationError):
        verify_gpu(BOARD.switches[0], NONCE, POLICY, AT, BOARD.collateral)
    with pytest.raises(AttestationError):
        verify_switch(BOARD.gpus[0], NONCE, POLICY, AT, BOARD.collateral)


def test_a_switch_that_is_not_there() -> None:
    for count in range(4):
        assert board_code([*BOARD.gpus, *BOARD.switches[:count]]) == "topology"


def test_a_switch_twice() -> None:
    twice = [*BOARD.gpus, *BOARD.switches[:3], BOARD.switches[0]]
    assert board_code(twice) == "duplicate_gpu"


def test_a_gpu_of_another_board() -> None:
    elsewhere = tuple(bytes([place]) * 8 for place in range(1, 5))
    stranger = PKI.make_gpu().evidence(NONCE, replace(BOARD.settings, switch_pdis=elsewhere))
    swapped = [*BOARD.gpus[:7], stranger, *BOARD.switches]
    assert board_code(swapped, replace(PROTECTED, revocation="off")) == "topology"


def test_a_switch_that_sees_a_ninth_gpu() -> None:
    _, wirings = board_settings()
    ninth = replace(wirings[3], gpu_pdis=(*wirings[3].gpu_pdis[:7], b"\x77" * 8))
    other = PKI.make_switch(ninth).evidence(NONCE, ninth)
    entries = [*BOARD.gpus, *BOARD.switches[:3], other]
    assert board_code(entries, replace(PROTECTED, revocation="off")) == "topology"


def test_seven_gpus_of_a_board() -> None:
    entries = [*BOARD.gpus[:7], *BOARD.switches]
    assert board_code(entries) == "policy_gpu_count"
    assert board_code(entries, replace(PROTECTED, count=None)) == "topology"


def test_switches_beside_gpus_that_encrypt_nothing_on_them() -> None:
    plain = PKI.make_gpu().evidence(NONCE)
    policy = replace(POLICY, revocation="off")
    assert board_code([plain], policy) is None  # control
    assert board_code([plain, BOARD.switches[0]], policy) == "topology"
