"""Appraisals as EAR: the vector says what the rows say, and no failure ever reads as affirming."""

import base64
import hashlib
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

from attestation.ear import Facts, SigningKey, Submodule, attestation_result, sign
from attestation.ear_draft import as_ietf_draft
from attestation.errors import AttestationError, NotAvailable
from attestation.results import NOT_EVALUATED, Appraisal, Outcome, Row
from attestation.sev_snp import SnpCollateral, appraise
from attestation.sev_snp_policy import SnpPolicy
from attestation.simulated.amd import SimulatedAmd
from attestation.trustworthiness import Tier, status, tier, trustworthiness

AT = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
POLICY = hashlib.sha256(b"policy").digest()


def passed(*ids: str) -> list[Row]:
    return [Row(id, Outcome.PASS, "fine") for id in ids]


def failed(id: str, code: str) -> Row:
    return Row(id, Outcome.FAIL, "not fine", code)


SNP = ("cpu.format", "cpu.chain", "cpu.tcb", "cpu.signature", "cpu.guest_policy", "cpu.report_data")


def test_the_tiers_of_values() -> None:
    assert [tier(value) for value in (0, 1, 2, 31, 32, 95, 96, 127, 128, -1)] == [
        Tier.NONE,
        Tier.NONE,
        Tier.AFFIRMING,
        Tier.AFFIRMING,
        Tier.WARNING,
        Tier.WARNING,
        Tier.CONTRAINDICATED,
        Tier.CONTRAINDICATED,
        Tier.NONE,
        Tier.NONE,
    ]


def test_a_good_appraisal_affirms_what_was_checked_and_nothing_else() -> None:
    vector = trustworthiness(passed(*SNP))
    assert vector == {"hardware": 2, "configuration": 2, "runtime-opaque": 2, "instance-identity": 2}
    assert status(vector, passed(*SNP)) is Tier.AFFIRMING
    assert trustworthiness(passed(*SNP), approved=True)["executables"] == 3
    assert status({}, ()) is Tier.NONE


@pytest.mark.parametrize(
    ("row", "aspect", "value", "worst"),
    [
        (failed("cpu.chain", "chain_untrusted"), "hardware", 97, Tier.CONTRAINDICATED),
        (failed("cpu.revocation", "cert_revoked"), "hardware", 96, Tier.CONTRAINDICATED),
        (failed("cpu.tcb", "tcb_below_minimum"), "hardware", 32, Tier.WARNING),
        (failed("cpu.tcb", "hwid_mismatch"), "instance-identity", 96, Tier.CONTRAINDICATED),
        (failed("cpu.signature", "report_signature"), "hardware", 99, Tier.CONTRAINDICATED),
        (failed("cpu.guest_policy", "debug_enabled"), "runtime-opaque", 96, Tier.CONTRAINDICATED),
        (failed("cpu.guest_policy", "measurement_mismatch"), "executables", 33, Tier.WARNING),
        (failed("cpu.guest_policy", "some_new_code"), "configuration", 96, Tier.CONTRAINDICATED),
        (failed("cpu.report_data", "report_data_mismatch"), "instance-identity", 96, Tier.CONTRAINDICATED),
        (failed("tpm.nonce", "nonce_mismatch"), "instance-identity", 96, Tier.CONTRAINDICATED),
        (failed("tpm.eventlog", "eventlog_replay_mismatch"), "executables", 33, Tier.WARNING),
        (failed("gpu.measurements", "measurement_mismatch"), "executables", 33, Tier.WARNING),
        (failed("a.new.row", "a_new_code"), "hardware", 97, Tier.CONTRAINDICATED),
    ],
)
def test_what_a_failure_says(row: Row, aspect: str, value: int, worst: Tier) -> None:
    rows = [*(entry for entry in passed(*SNP) if entry.id != row.id), row]
    vector = trustworthiness(rows)
    assert vector[aspect] == value
    assert status(vector, rows) is worst


def test_a_state_speaks_even_where_the_policy_permits_it() -> None:
    for state, aspect, value in (
        ("OutOfDate", "hardware", 32),
        ("TDRelaunchAdvised", "hardware", 32),
        ("ConfigurationNeeded", "configuration", 32),
        ("Revoked", "hardware", 96),
    ):
        assert trustworthiness(passed(*SNP), state=state)[aspect] == value
    assert trustworthiness(passed(*SNP), state="UpToDate") == trustworthiness(passed(*SNP))
    debug = trustworthiness(passed(*SNP), visible=True)
    assert (debug["runtime-opaque"], debug["configuration"]) == (96, 96)


def test_a_fault_of_the_verifier_is_no_claim() -> None:
    rows = [failed("cpu.format", "internal")]
    assert status(trustworthiness(rows), rows) is Tier.NONE


@given(
    st.lists(
        st.builds(
            Row,
            st.sampled_from([*SNP, "tpm.pcrs", "gpu.mode", "x"]),
            st.sampled_from(Outcome),
            st.just(""),
            st.sampled_from([None, NOT_EVALUATED, "tcb_status_not_accepted", "secure_boot", "x"]),
        ),
        max_size=9,
    ),
    st.sampled_from(["", "UpToDate", "OutOfDate", "Revoked", "?"]),
)
def test_no_failure_ever_reads_as_affirming(rows: list[Row], state: str) -> None:
    vector = trustworthiness(rows, state=state)
    found = status(vector, rows)
    if any(row.outcome is Outcome.FAIL for row in rows):
        assert found is not Tier.AFFIRMING
    assert all(0 <= value <= 127 for value in vector.values())


def submodule(rows: list[Row], error: AttestationError | None, facts: Facts) -> Submodule:
    value = None if error else object()
    appraisal: Appraisal[object] = Appraisal(tuple(rows), error, value, simulated=True)
    expires = AT + timedelta(days=1)
    return Submodule.of(
        "sev-snp", appraisal, b"evidence", collateral={"vek": b"v"}, expires=expires, facts=facts
    )


def test_the_document() -> None:
    facts = Facts(chip=b"chip", model="Genoa", registers={"launchDigest": "00"}, debug=False)
    result = attestation_result(
        {"cpu": submodule(passed(*SNP), None, facts)},
        at=AT,
        build="cloister 1",
        policy_digest=POLICY,
        nonce=b"nonce",
        lifetime=timedelta(minutes=5),
    )
    assert result["eat_profile"] == "tag:github.com,2023:veraison/ear"
    assert result["exp"] - result["iat"] == 300
    assert result["eat_nonce"] == base64.urlsafe_b64encode(b"nonce").rstrip(b"=").decode()
    cpu = result["submods"]["cpu"]
    assert cpu["ear.appraisal-policy-id"] == f"sha-256:{POLICY.hex()}"
    assert cpu["cloister.evidence-digest"] == f"sha-256:{hashlib.sha256(b'evidence').hexdigest()}"
    assert cpu["cloister.collateral"]["earliest-expiry"] == int((AT + timedelta(days=1)).timestamp())
    assert cpu["cloister.simulated"] is True
    assert cpu["dbgstat"] == "disabled-since-boot"
    assert cpu["oemid"] == 3704
    assert base64.urlsafe_b64decode(cpu["ueid"] + "=") != b"chip"
    assert b"chip" not in base64.urlsafe_b64decode(cpu["ueid"] + "===")


def test_refused_evidence_identifies_no_machine() -> None:
    facts = Facts(chip=b"chip", model="Genoa", registers={"launchDigest": "00"}, state="OutOfDate")
    error = AttestationError(code="tcb_status_not_accepted")
    rows = [*passed(*SNP), failed("cpu.tcb", error.code)]
    result = attestation_result(
        {"cpu": submodule(rows, error, facts)}, at=AT, build="x", policy_digest=POLICY
    )
    cpu = result["submods"]["cpu"]
    assert cpu["cloister.verdict"] == "reject"
    assert cpu["ear.status"] == "warning"
    assert cpu["cloister.tcb-status"] == "OutOfDate"
    assert not {"ueid", "hwmodel", "cloister.registers", "dbgstat"} & cpu.keys()
    assert cpu["cloister.checks"][-1]["code"] == "tcb_status_not_accepted"


def test_an_appraised_report_end_to_end(amd: SimulatedAmd) -> None:
    section = amd.section(bytes(64), amd.settings(bytes(48)))
    policy = SnpPolicy(simulated_root=amd.root_sha256)
    found = appraise(section.evidence, SnpCollateral(**section.collateral), policy, AT)
    assert found.error is None
    result = attestation_result(
        {"cpu": Submodule.of(section.tee, found, section.evidence)}, at=AT, build="x", policy_digest=POLICY
    )
    assert result["submods"]["cpu"]["ear.status"] == "affirming"
    assert result["submods"]["cpu"]["cloister.simulated"] is True


def test_a_signed_result_is_a_jwt_that_its_key_verifies() -> None:
    jwt = pytest.importorskip("jwt", reason="the package pyjwt is not installed (signing alone needs it)")
    result = attestation_result({}, at=AT, build="x", policy_digest=POLICY)
    p256, p384 = (ec.generate_private_key(curve) for curve in (ec.SECP256R1(), ec.SECP384R1()))
    keys: dict[str, SigningKey] = {
        "ES256": p256,
        "ES384": p384,
        "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    }
    for algorithm, key in keys.items():
        token = sign(result, key, key_id="k1")
        assert jwt.get_unverified_header(token) == {"typ": "eat+jwt", "kid": "k1", "alg": algorithm}
        options = {"verify_iat": False}
        assert jwt.decode(token, key.public_key(), algorithms=[algorithm], options=options) == result
    for (_, key), (algorithm, other) in product(keys.items(), keys.items()):
        if key is not other:
            with pytest.raises(jwt.exceptions.PyJWTError):
                jwt.decode(sign(result, key), other.public_key(), algorithms=[algorithm])
    with pytest.raises(NotAvailable):
        sign(result, ec.generate_private_key(ec.SECP521R1()))


def test_the_same_in_the_names_of_the_ietfs_draft() -> None:
    submodule = Submodule(
        "sev-snp", tuple(passed(*SNP)), True, True, b"evidence", facts=Facts(chip=b"c", debug=False)
    )
    result = attestation_result({"cpu": submodule}, at=AT, build="b", policy_digest=POLICY, nonce=b"n" * 32)
    draft = as_ietf_draft(result)
    assert draft["eat_profile"] == "tag:ietf.org,2026:rats/ear#04"
    assert draft["ear_verifier_id"] == result["ear.verifier-id"]
    assert (draft["iat"], draft["eat_nonce"]) == (result["iat"], result["eat_nonce"])
    old, new = result["submods"]["cpu"], draft["submods"]["cpu"]
    assert set(new) == {
        "ear_status",
        "ear_trustworthiness_vector",
        "ear_appraisal_policy_ids",
        "ear_attester_claims",
        "ear_verifier_claims",
    }
    assert (new["ear_status"], new["ear_trustworthiness_vector"]) == (
        old["ear.status"],
        old["ear.trustworthiness-vector"],
    )
    assert new["ear_appraisal_policy_ids"] == [old["ear.appraisal-policy-id"]]
    assert new["ear_attester_claims"]["dbgstat"] == "disabled-since-boot"
    assert new["ear_verifier_claims"]["cloister.simulated"] is True
    # Nothing is lost and nothing is said twice.
    told = {**new["ear_attester_claims"], **new["ear_verifier_claims"]}
    assert told == {name: value for name, value in old.items() if not name.startswith("ear.")}
    assert len(told) == len(new["ear_attester_claims"]) + len(new["ear_verifier_claims"])


def test_a_refusal_can_be_told_however_deep_what_was_found() -> None:
    found: list[Any] = []
    for _ in range(200_000):
        found = [found]
    assert "nested too deep" in str(AttestationError(code="bundle_version", expected=1, found=found))


def test_a_refusal_carries_nothing_that_a_terminal_obeys() -> None:
    error = AttestationError(
        code="cert_kind", expected="SEV-VCEK", found="\x1b[2JSEV-VCEK\u202e", detail="a\nb"
    )
    assert str(error) == "cert_kind: a\\nb (expected SEV-VCEK, found \\x1b[2JSEV-VCEK\\u202e)"
    assert str(AttestationError(code="x", found="Zürich…")) == "x (expected None, found Zürich…)"
