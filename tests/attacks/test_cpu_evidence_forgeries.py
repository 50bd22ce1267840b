"""A CPU, or a key, that is not what a node says: each attempt is made for real and must fail.

Beside each stands the control: the same bytes, judged without the one defence, do pass.
"""

import dataclasses
import socket
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from attestation.appraisal import appraise_bindings, appraise_cpu, appraise_gpus
from attestation.bundle import CpuSection, EvidenceBundle, TransparencySection
from attestation.claims import Claims, gpu_nonce, report_data
from attestation.device_socket import DeviceSocket
from attestation.errors import AttestationError, PolicyMalformed
from attestation.policy import AttestationPolicy
from attestation.results import Appraisal, Outcome
from attestation.sev_snp_report import Tcb
from attestation.simulated.amd import GUEST_POLICY, SimulatedAmd
from attestation.simulated.launch import measure_launch
from attestation.simulated.nvidia import SimulatedGpus
from attestation.simulated.platform import Platform

AT = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
KEYS, RUNTIME, CHECKPOINT = b"key configs", b"{}", b"checkpoint"
MEASUREMENT = b"\x42" * 48
_NOTHING = TransparencySection(b"", b"", b"", b"")


@pytest.fixture(scope="module")
def amd(tmp_path_factory: pytest.TempPathFactory) -> SimulatedAmd:
    return SimulatedAmd.open(tmp_path_factory.mktemp("platform"), lambda: AT)


@pytest.fixture(scope="module")
def gpus(tmp_path_factory: pytest.TempPathFactory) -> SimulatedGpus:
    return SimulatedGpus.open(tmp_path_factory.mktemp("gpus"), 1)


@pytest.fixture(scope="module")
def policy(amd: SimulatedAmd, gpus: SimulatedGpus) -> AttestationPolicy:
    """Production demands on the CPU, with the simulated roots named."""
    table = Platform(amd, gpus).policy_table() + '[gpu]\nrim = "off"\nrevocation = "off"\n'
    return AttestationPolicy.from_table(tomllib.loads(table))


def claims_over(gpu_section: bytes = b"", keys: bytes = KEYS) -> Claims:
    return Claims.build(
        ohttp_keys=keys,
        gpu_section=gpu_section,
        runtime=RUNTIME,
        checkpoint=CHECKPOINT,
        nonce=b"",
        not_before=AT - timedelta(minutes=1),
        not_after=AT + timedelta(days=1),
    )


def bundle_of(
    claims: Claims, cpu: CpuSection, gpu_section: bytes = b"", keys: bytes = KEYS
) -> EvidenceBundle:
    bundle = EvidenceBundle(claims.raw, cpu, gpu_section, {}, keys, RUNTIME, _NOTHING, CHECKPOINT)
    return EvidenceBundle.parse(bundle.encode())


def evidence(amd: SimulatedAmd, claims: Claims, **changes: object) -> CpuSection:
    settings = dataclasses.replace(amd.settings(MEASUREMENT), **changes)  # type: ignore[arg-type]
    return amd.section(report_data(claims.raw), settings)


def refused_at(appraisal: Appraisal[Any], row: str, code: str) -> None:
    """The appraisal failed at this row, with this code, and at no other row."""
    assert appraisal.error is not None
    assert appraisal.value is None
    assert appraisal.error.code == code
    assert [r.id for r in appraisal.rows if r.outcome is Outcome.FAIL] == [row]
    with pytest.raises(AttestationError):
        appraisal.require()


def test_simulated_evidence_under_a_production_policy(amd: SimulatedAmd, policy: AttestationPolicy) -> None:
    claims = claims_over()
    bundle = bundle_of(claims, evidence(amd, claims))
    control = appraise_cpu(bundle, policy, AT)
    assert control.require().measurement == MEASUREMENT
    assert control.simulated
    # The root is the only thing that gives the simulation away: everything else is format-exact.
    refused_at(appraise_cpu(bundle, AttestationPolicy.production(), AT), "cpu.chain", "chain_untrusted")


def test_evidence_of_another_simulated_platform(policy: AttestationPolicy, tmp_path: Path) -> None:
    stranger = SimulatedAmd.open(tmp_path, lambda: AT)
    claims = claims_over()
    bundle = bundle_of(claims, evidence(stranger, claims))
    refused_at(appraise_cpu(bundle, policy, AT), "cpu.chain", "chain_untrusted")
    knowing = AttestationPolicy(snp=dataclasses.replace(policy.snp, simulated_root=stranger.root_sha256))
    appraise_cpu(bundle, knowing, AT).require()  # control


def test_claims_for_a_key_the_cpu_did_not_vouch_for(amd: SimulatedAmd, policy: AttestationPolicy) -> None:
    honest, forged = claims_over(), claims_over(keys=b"the attacker's key configs")
    section = evidence(amd, honest)
    appraise_cpu(bundle_of(honest, section), policy, AT).require()  # control
    bundle = bundle_of(forged, section, keys=b"the attacker's key configs")
    refused_at(appraise_cpu(bundle, policy, AT), "cpu.report_data", "report_data_mismatch")


def test_key_configs_swapped_beneath_honest_claims(amd: SimulatedAmd, policy: AttestationPolicy) -> None:
    claims = claims_over()
    section = evidence(amd, claims)
    swapped = bundle_of(claims, section, keys=b"the attacker's key configs")
    vouched = appraise_cpu(swapped, policy, AT).require().claims
    refused_at(appraise_bindings(swapped, vouched, AT), "keys.ohttp", "ohttp_keys_mismatch")
    appraise_bindings(bundle_of(claims, section), vouched, AT).require()  # control


def test_a_debuggable_guest_with_genuine_evidence(amd: SimulatedAmd, policy: AttestationPolicy) -> None:
    claims = claims_over()
    bundle = bundle_of(claims, evidence(amd, claims, policy=GUEST_POLICY | 1 << 19))
    refused_at(appraise_cpu(bundle, policy, AT), "cpu.guest_policy", "debug_enabled")
    lax = AttestationPolicy(snp=dataclasses.replace(policy.snp, allow_debug=True))
    appraise_cpu(bundle, lax, AT).require()  # control


def test_the_debug_bit_cleared_after_signing(amd: SimulatedAmd, policy: AttestationPolicy) -> None:
    claims = claims_over()
    debuggable = evidence(amd, claims, policy=GUEST_POLICY | 1 << 19)
    report = bytearray(debuggable.evidence)
    report[0x008:0x010] = GUEST_POLICY.to_bytes(8, "little")
    bundle = bundle_of(claims, dataclasses.replace(debuggable, evidence=bytes(report)))
    refused_at(appraise_cpu(bundle, policy, AT), "cpu.signature", "report_signature")
    appraise_cpu(bundle_of(claims, evidence(amd, claims)), policy, AT).require()  # control


def test_old_firmware_that_claims_to_be_new(amd: SimulatedAmd, policy: AttestationPolicy) -> None:
    claims = claims_over()
    newer = Tcb(bl=10, tee=0, snp=0x30, ucode=0x70)
    bundle = bundle_of(claims, evidence(amd, claims, tcb=newer))
    refused_at(appraise_cpu(bundle, policy, AT), "cpu.tcb", "tcb_cert_mismatch")
    appraise_cpu(bundle_of(claims, evidence(amd, claims)), policy, AT).require()  # control


def test_unchecked_memory_modules(amd: SimulatedAmd, policy: AttestationPolicy) -> None:
    claims = claims_over()
    bundle = bundle_of(claims, evidence(amd, claims, platform_info=0x15))  # no alias check
    refused_at(appraise_cpu(bundle, policy, AT), "cpu.tcb", "platform_info")
    waived = AttestationPolicy(snp=dataclasses.replace(policy.snp, bulletins=()))
    appraise_cpu(bundle, waived, AT).require()  # control


def test_a_report_from_outside_vmpl_0(amd: SimulatedAmd, policy: AttestationPolicy) -> None:
    claims = claims_over()
    bundle = bundle_of(claims, evidence(amd, claims, vmpl=1))
    refused_at(appraise_cpu(bundle, policy, AT), "cpu.guest_policy", "vmpl")
    lax = AttestationPolicy(snp=dataclasses.replace(policy.snp, vmpl=frozenset({1})))
    appraise_cpu(bundle, lax, AT).require()  # control


def test_revocation_list_withheld(amd: SimulatedAmd, policy: AttestationPolicy) -> None:
    claims = claims_over()
    section = evidence(amd, claims)
    kept = {name: data for name, data in section.collateral.items() if name != "crl"}
    bundle = bundle_of(claims, dataclasses.replace(section, collateral=kept))
    refused_at(appraise_cpu(bundle, policy, AT), "cpu.revocation", "crl_missing")
    lax = AttestationPolicy(snp=dataclasses.replace(policy.snp, require_crl=False))
    control = appraise_cpu(bundle, lax, AT)
    control.require()
    assert {r.outcome for r in control.rows if r.id == "cpu.revocation"} == {Outcome.NOT_REQUIRED}


def test_a_changed_file_launched_under_an_honest_name(
    amd: SimulatedAmd, gpus: SimulatedGpus, policy: AttestationPolicy, tmp_path: Path
) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"honest")
    released = measure_launch(b"serve", {"image": program})
    pinned = AttestationPolicy(
        snp=dataclasses.replace(policy.snp, pins={"measurement": frozenset({released})})
    )
    platform, claims = Platform(amd, gpus), claims_over()

    def launch_and_judge() -> Appraisal[Any]:
        ours, theirs = socket.socketpair()
        with theirs:
            platform.serve(ours, measure_launch(b"serve", {"image": program}))
            section = DeviceSocket(theirs).report(report_data(claims.raw))
        return appraise_cpu(bundle_of(claims, section), pinned, AT)

    assert launch_and_judge().error is None  # control
    program.write_bytes(b"honesT")
    refused_at(launch_and_judge(), "cpu.guest_policy", "measurement_mismatch")


def test_genuine_chip_that_nobody_registered(amd: SimulatedAmd, policy: AttestationPolicy) -> None:
    claims = claims_over()
    bundle = bundle_of(claims, evidence(amd, claims))
    appraise_cpu(bundle, policy, AT).require()  # control: without a register any genuine chip will do

    def register(chip: bytes) -> AttestationPolicy:
        return AttestationPolicy(snp=dataclasses.replace(policy.snp, pins={"chip_id": frozenset({chip})}))

    appraise_cpu(bundle, register(amd.chip_id), AT).require()
    refused_at(appraise_cpu(bundle, register(bytes(63) + b"\1"), AT), "cpu.guest_policy", "chip_id_mismatch")


def test_evidence_replayed_for_a_later_epoch(amd: SimulatedAmd, policy: AttestationPolicy) -> None:
    claims = claims_over()
    bundle = bundle_of(claims, evidence(amd, claims))
    vouched = appraise_cpu(bundle, policy, AT).require().claims
    appraise_bindings(bundle, vouched, AT).require()  # control
    later = AT + timedelta(days=1)
    refused_at(appraise_bindings(bundle, vouched, later), "keys.epoch", "epoch_expired")


def test_gpu_evidence_swapped_beneath_honest_claims(
    amd: SimulatedAmd, gpus: SimulatedGpus, policy: AttestationPolicy
) -> None:
    nonce = gpu_nonce(ohttp_keys=KEYS, checkpoint=CHECKPOINT, nonce=b"", gpu_count=1)
    vouched, other = gpus.evidence(nonce), gpus.evidence(nonce)
    claims = claims_over(vouched)
    section = evidence(amd, claims)
    appraise_gpus(bundle_of(claims, section, vouched), claims, policy, AT).require()  # control
    swapped = appraise_gpus(bundle_of(claims, section, other), claims, policy, AT)
    refused_at(swapped, "gpu.binding", "gpu_evidence_mismatch")


def test_gpu_evidence_removed(amd: SimulatedAmd, gpus: SimulatedGpus, policy: AttestationPolicy) -> None:
    claims = claims_over(b"")
    bundle = bundle_of(claims, evidence(amd, claims))
    found = appraise_gpus(bundle, claims, policy, AT)
    assert found.error is not None
    assert found.error.code == "policy_gpu_count"
    none_wanted = AttestationPolicy(snp=policy.snp, gpu=dataclasses.replace(policy.gpu, count=0))
    assert appraise_gpus(bundle, claims, none_wanted, AT).require().gpus == ()  # control


@pytest.mark.parametrize("tee", ["tdx", "tpm", "azure-snp", "azure-tdx"])
def test_a_report_passed_off_as_evidence_of_another_kind(
    amd: SimulatedAmd, policy: AttestationPolicy, tee: str
) -> None:
    claims = claims_over()
    section = evidence(amd, claims)
    appraise_cpu(bundle_of(claims, section), policy, AT).require()  # control
    accepting = dataclasses.replace(policy, tees=frozenset({"sev-snp", tee}))
    for collateral in (section.collateral, {}):
        other = dataclasses.replace(section, tee=tee, collateral=collateral)
        found = appraise_cpu(bundle_of(claims, other), accepting, AT)
        assert found.value is None
        assert found.error is not None


@pytest.mark.parametrize("tee", ["another-kind"])
def test_evidence_of_a_kind_that_cannot_be_checked(
    amd: SimulatedAmd, policy: AttestationPolicy, tee: str
) -> None:
    claims = claims_over()
    section = evidence(amd, claims)
    appraise_cpu(bundle_of(claims, section), policy, AT).require()  # control
    renamed = bundle_of(claims, dataclasses.replace(section, tee=tee))
    for tees, code in (
        ({"sev-snp"}, "tee_not_accepted"),
        ({"sev-snp", tee}, "not_available"),
        ({tee}, "not_available"),
    ):
        found = appraise_cpu(renamed, dataclasses.replace(policy, tees=frozenset(tees)), AT)
        assert found.error is not None
        assert found.error.code == code
        assert {row.outcome for row in found.rows} == {Outcome.FAIL}


def test_a_policy_whose_demand_is_misspelt() -> None:
    honest = {"cpu": {"snp": {"require_single_socket": True}}}
    assert AttestationPolicy.from_table(honest).snp.require_guest_policy == {"single_socket"}  # control
    with pytest.raises(PolicyMalformed):
        AttestationPolicy.from_table({"cpu": {"snp": {"require_single_soket": True}}})
