"""TPM evidence in a bundle: its quote answers for the claims, and its registers go to the release."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from software_tpm import SoftwareTpm

from attestation.bundle import CpuSection, EvidenceBundle, TransparencySection
from attestation.claims import Claims, quote_nonce, report_data
from attestation.cpu_appraisal import appraise_cpu
from attestation.policy import AttestationPolicy
from attestation.results import Outcome
from attestation.tpm.ak import spki_sha256
from attestation.tpm.policy import TpmPolicy
from attestation.tpm.verify import TPM_CHECKS

AT = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
NOTHING = TransparencySection(b"", b"", b"", b"")


def claims_until(not_after: datetime) -> Claims:
    return Claims.build(
        ohttp_keys=b"keys",
        gpu_section=b"",
        runtime=b"{}",
        checkpoint=b"checkpoint",
        nonce=b"",
        not_before=AT - timedelta(minutes=1),
        not_after=not_after,
    )


@pytest.fixture(scope="module")
def tpm() -> SoftwareTpm:
    return SoftwareTpm().boot()


CLAIMS = claims_until(AT + timedelta(days=1))


def bundle_of(section: CpuSection, claims: Claims = CLAIMS) -> EvidenceBundle:
    bundle = EvidenceBundle(claims.raw, section, b"", {}, b"keys", b"{}", NOTHING, b"checkpoint")
    return EvidenceBundle.parse(bundle.encode())


def section_of(tpm: SoftwareTpm, nonce: bytes) -> CpuSection:
    return CpuSection("tpm", tpm.evidence(nonce).encode(), {"eventlog": tpm.event_log()})


def policy_for(tpm: SoftwareTpm) -> AttestationPolicy:
    pins = frozenset({spki_sha256(tpm.key.public_key())})
    return AttestationPolicy(tees=frozenset({"tpm"}), tpm=TpmPolicy(pinned_spki=pins))


def test_a_quote_answers_for_the_claims(tpm: SoftwareTpm) -> None:
    found = appraise_cpu(bundle_of(section_of(tpm, quote_nonce(CLAIMS.raw))), policy_for(tpm), AT)
    cpu = found.require()
    assert [row.id for row in found.rows] == [*TPM_CHECKS, "cpu.report_data"]
    assert {row.outcome for row in found.rows} == {Outcome.PASS, Outcome.NOT_REQUIRED}
    assert cpu.tee == "tpm"
    assert cpu.claims == CLAIMS
    assert cpu.registers["pcr11"] == tpm.pcr("sha256", 11).hex()


def test_other_claims_are_refused(tpm: SoftwareTpm) -> None:
    section = section_of(tpm, quote_nonce(CLAIMS.raw))
    other = bundle_of(section, claims_until(AT + timedelta(days=2)))
    found = appraise_cpu(other, policy_for(tpm), AT)
    assert found.error is not None
    assert found.error.code == "nonce_mismatch"
    failed = {row.id for row in found.rows if row.outcome is Outcome.FAIL}
    assert failed == {"tpm.nonce", "cpu.report_data"}


def test_the_other_kinds_binding_does_not_count(tpm: SoftwareTpm) -> None:
    section = section_of(tpm, report_data(CLAIMS.raw))
    found = appraise_cpu(bundle_of(section), policy_for(tpm), AT)
    assert found.error is not None
    assert found.error.code == "nonce_mismatch"


def test_the_production_policy_takes_no_tpm_alone(tpm: SoftwareTpm) -> None:
    section = section_of(tpm, quote_nonce(CLAIMS.raw))
    found = appraise_cpu(bundle_of(section), AttestationPolicy.production(), AT)
    assert found.error is not None
    assert found.error.code == "tee_not_accepted"
    accepting = replace(AttestationPolicy.production(), tees=frozenset({"tpm"}))
    found = appraise_cpu(bundle_of(section), accepting, AT)
    assert found.error is not None
    assert found.error.code == "ak_untrusted"


def test_collateral_is_of_known_names(tpm: SoftwareTpm) -> None:
    section = section_of(tpm, quote_nonce(CLAIMS.raw))
    for tee, collateral, code in (
        ("tpm", {"vek": b""}, "collateral_unknown"),
        ("azure-snp", {"eventlog": b""}, "collateral_missing"),
        ("azure-snp", {"vek": b"", "ask": b"", "ark": b"", "ak_chain": b""}, "collateral_unknown"),
        ("azure-tdx", {"eventlog": b"", "vek": b""}, "collateral_unknown"),
        ("azure-tdx", {}, "collateral_missing"),
    ):
        policy = replace(policy_for(tpm), tees=frozenset({tee}))
        found = appraise_cpu(bundle_of(replace(section, tee=tee, collateral=collateral)), policy, AT)
        assert found.error is not None
        assert found.error.code == code
