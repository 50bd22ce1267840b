"""GPUs that are not what a node says: each attempt is made for real and must fail.

Beside each stands the control: the same bytes, judged without the one defence, do pass.
"""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from attestation.claims import gpu_nonce
from attestation.errors import AttestationError
from attestation.nvidia.device import check_chain, check_fwid, check_nonce, check_signature
from attestation.nvidia.evidence import GpuEvidence, encode_evidence_list
from attestation.nvidia.opaque import Mode
from attestation.nvidia.policy import GpuPolicy
from attestation.nvidia.verify import verify_gpu, verify_gpus
from attestation.simulated.nvidia import SimulatedDevicePki
from attestation.simulated.nvidia_report import GpuSettings

AT = datetime(2026, 11, 21, tzinfo=UTC)
CHECKPOINT = b"checkpoint"
PKI = SimulatedDevicePki.create()
POLICY = GpuPolicy(rim="off", revocation="off", simulated_root=PKI.root_sha256)


def nonce_of(keys: bytes, count: int) -> bytes:
    return gpu_nonce(ohttp_keys=keys, checkpoint=CHECKPOINT, nonce=b"", gpu_count=count)


NONCE = nonce_of(b"this node's keys", 1)
PAIR_NONCE = nonce_of(b"this node's keys", 2)


def refused(code: str, evidence: list[GpuEvidence], nonce: bytes, policy: GpuPolicy = POLICY) -> None:
    with pytest.raises(AttestationError) as caught:
        verify_gpus(encode_evidence_list(evidence), nonce, policy, AT)
    assert caught.value.code == code


def test_same_gpu_twice() -> None:
    gpu = PKI.make_gpu()
    pair = [gpu.evidence(PAIR_NONCE), gpu.evidence(PAIR_NONCE)]
    for evidence in pair:  # control: each answer is genuine and fresh
        verify_gpu(evidence, PAIR_NONCE, POLICY, AT)
    refused("duplicate_gpu", pair, PAIR_NONCE, replace(POLICY, count=2))


def test_same_gpu_twice_with_other_firmware_between() -> None:
    identity = PKI.make_identity()
    pair = [PKI.make_gpu(identity=identity).evidence(PAIR_NONCE) for _ in range(2)]
    one, two = (verify_gpu(evidence, PAIR_NONCE, POLICY, AT) for evidence in pair)
    assert one.ueid != two.ueid  # control: by serial numbers these are two GPUs
    refused("duplicate_gpu", pair, PAIR_NONCE, replace(POLICY, count=2))


def test_gpu_of_another_machine() -> None:
    gpu = PKI.make_gpu()
    theirs = nonce_of(b"another node's keys", 1)
    evidence = gpu.evidence(theirs)
    verify_gpu(evidence, theirs, POLICY, AT)  # control: it is good evidence for the other node's keys
    refused("nonce_mismatch", [evidence], NONCE)
    # The unsigned nonce beside the report does not help.
    refused("nonce_mismatch", [replace(evidence, nonce=NONCE)], NONCE)


def test_report_rewritten_to_our_nonce() -> None:
    gpu = PKI.make_gpu()
    theirs = gpu.evidence(nonce_of(b"another node's keys", 1))
    report = theirs.evidence[:4] + NONCE + theirs.evidence[36:]
    verify_gpu(gpu.evidence(NONCE), NONCE, POLICY, AT)  # control: signed over our nonce it passes
    refused("report_signature_invalid", [GpuEvidence("HOPPER", NONCE, report, theirs.certificate)], NONCE)


def test_genuine_gpu_that_nobody_registered() -> None:
    ours, theirs = PKI.make_gpu(), PKI.make_gpu()
    known = verify_gpu(ours.evidence(NONCE), NONCE, POLICY, AT).identity_sha256
    verify_gpu(theirs.evidence(NONCE), NONCE, POLICY, AT)  # control: without a register it is as good as ours
    register = replace(POLICY, identities=frozenset({known}))
    verify_gpu(ours.evidence(NONCE), NONCE, register, AT)
    refused("policy_identity", [theirs.evidence(NONCE)], NONCE, register)


def test_gpu_left_out() -> None:
    entries = [PKI.make_gpu().evidence(PAIR_NONCE) for _ in range(2)]
    verify_gpus(encode_evidence_list(entries), PAIR_NONCE, replace(POLICY, count=2), AT)  # control
    refused("policy_gpu_count", entries[:1], PAIR_NONCE, replace(POLICY, count=2))
    # Without an exact count in the policy, the count inside the nonce still shows it.
    refused("nonce_mismatch", entries[:1], NONCE)


@pytest.mark.parametrize(
    ("settings", "mode"),
    [
        (GpuSettings(feature_flag=1), Mode.MPT),
        (GpuSettings(feature_flag=2, protected_pcie=True), Mode.PPCIE),
    ],
)
def test_mode_that_the_policy_does_not_allow(settings: GpuSettings, mode: Mode) -> None:
    evidence = PKI.make_gpu().evidence(NONCE, settings)
    verify_gpu(evidence, NONCE, replace(POLICY, modes=frozenset({mode})), AT)  # control
    refused("mode_not_allowed", [evidence], NONCE)


@pytest.mark.parametrize(
    "settings",
    [
        GpuSettings(feature_flag=3),
        GpuSettings(feature_flag=0xFFFF),
        GpuSettings(feature_flag=0, protected_pcie=True),
        GpuSettings(feature_flag=2, protected_pcie=False),
    ],
)
def test_mode_off_or_in_contradiction(settings: GpuSettings) -> None:
    evidence = PKI.make_gpu().evidence(NONCE, settings)
    report = check_signature(evidence, check_chain(evidence, POLICY, AT))
    check_nonce(evidence, report, NONCE)  # control: chain, signature and nonce alone would accept it
    refused("mode_unknown", [evidence], NONCE, replace(POLICY, modes=frozenset(Mode)))


def test_one_gpu_of_another_mode_among_several() -> None:
    protected, plain = PKI.make_gpu(), PKI.make_gpu()
    entries = [
        protected.evidence(PAIR_NONCE, GpuSettings(feature_flag=1)),
        plain.evidence(PAIR_NONCE, GpuSettings(feature_flag=0)),
    ]
    policy = replace(POLICY, count=2, modes=frozenset({Mode.SPT, Mode.MPT}))
    for evidence in entries:  # control: each by itself is allowed
        verify_gpu(evidence, PAIR_NONCE, policy, AT)
    refused("mode_mixed", entries, PAIR_NONCE, policy)


def test_look_alike_root() -> None:
    look_alike = SimulatedDevicePki.create()  # same names, same format, other keys
    evidence = look_alike.make_gpu().evidence(NONCE)
    trusting = replace(POLICY, simulated_root=look_alike.root_sha256)
    assert verify_gpu(evidence, NONCE, trusting, AT).simulated  # control: pinned, it passes
    refused("chain_untrusted", [evidence], NONCE)
    refused("chain_untrusted", [evidence], NONCE, GpuPolicy(rim="off", revocation="off"))


def test_pinned_root_put_over_a_look_alike_chain() -> None:
    look_alike = SimulatedDevicePki.create()
    evidence = look_alike.make_gpu().evidence(NONCE)
    genuine = PKI.make_gpu().certificate
    root = genuine[genuine.rindex(b"-----BEGIN") :]
    forged = evidence.certificate[: evidence.certificate.rindex(b"-----BEGIN")] + root
    trusting = replace(POLICY, simulated_root=look_alike.root_sha256)
    verify_gpu(evidence, NONCE, trusting, AT)  # control: under its own pinned root the chain passes
    refused("chain_untrusted", [replace(evidence, certificate=forged)], NONCE)


def test_chain_of_a_genuine_gpu_over_a_forged_report() -> None:
    genuine = PKI.make_gpu()
    forger = SimulatedDevicePki.create()
    forged = forger.make_gpu().evidence(NONCE)
    trusting = replace(POLICY, simulated_root=forger.root_sha256)
    verify_gpu(forged, NONCE, trusting, AT)  # control: with its own chain pinned the report passes
    refused("report_signature_invalid", [replace(forged, certificate=genuine.certificate)], NONCE)


def test_firmware_other_than_the_certified_one() -> None:
    gpu = PKI.make_gpu()
    evidence = gpu.evidence(NONCE, GpuSettings(fwid=bytes(48)))
    report = check_signature(evidence, check_chain(evidence, POLICY, AT))
    check_nonce(evidence, report, NONCE)  # control: without the firmware id nothing is amiss
    refused("fwid_mismatch", [evidence], NONCE)


def test_firmware_that_no_certificate_names() -> None:
    evidence = PKI.make_gpu().evidence(NONCE)
    chain = check_chain(evidence, POLICY, AT)
    report = check_signature(evidence, chain)
    assert check_fwid(report, chain, POLICY) == chain.fwid  # control
    for policy in (POLICY, replace(POLICY, require_fwid=False)):
        with pytest.raises(AttestationError) as caught:
            check_fwid(report, replace(chain, fwid=None), policy)
        assert caught.value.code == "fwid_mismatch"


def test_simulated_gpu_in_production() -> None:
    evidence = PKI.make_gpu().evidence(NONCE)
    assert verify_gpu(evidence, NONCE, POLICY, AT).simulated  # control: the policy names its root
    refused("chain_untrusted", [evidence], NONCE, GpuPolicy.production())
