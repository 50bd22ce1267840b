"""Stored CPU evidence of every kind, judged as `cloister verify --cpu-evidence` does: content, folder, policy, time."""

import base64
import json
import random
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from software_tpm import REQUIRED, SoftwareTpm
from tdx_cases import cases as tdx_cases
from typer.testing import CliRunner

from attestation.collateral_folder import read_collateral, write_collateral
from attestation.errors import EvidenceMalformed
from attestation.evidence_kind import recognise
from attestation.policy import AttestationPolicy
from attestation.sev_snp_policy import SnpPolicy
from attestation.sev_snp_report import REPORT_LENGTH
from attestation.tdx.chain import read_pem
from attestation.tdx.policy import TdxPolicy
from attestation.tees import AZURE_SNP, AZURE_TDX, SEV_SNP, TDX, TEES, TPM
from attestation.tpm.ak import spki_sha256
from attestation.tpm.evidence import AzureEvidence, Quote
from attestation.tpm.policy import AzurePolicy, TpmPolicy
from client_sdk.cli import build_app
from client_sdk.verify_cpu import CpuPolicy, CpuVerification, verify_cpu_evidence

POLICY = AttestationPolicy(tees=TEES, snp=SnpPolicy(require_crl=False, bulletins=(), min_report_version=2))
DIGEST = bytes(32)
AT = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def judged(evidence: bytes, collateral: Mapping[str, bytes], at: datetime, **changes: Any) -> CpuVerification:
    policy = replace(POLICY, **changes)
    return verify_cpu_evidence(evidence, collateral, CpuPolicy(policy, DIGEST), at)


def snp_cases(vectors: Path) -> list[tuple[dict[str, Any], bytes, dict[str, bytes]]]:
    found = []
    for case in json.loads((vectors / "snp/real/cases.json").read_text()):
        if case.get("mutations") or case.get("policy"):
            continue
        ek = (vectors / "snp" / case["ek"]).read_bytes()
        kind = "vlek" if case["kind"].lower() == "vlek" else "vcek"
        chain = (vectors / "snp/trust" / f"{case['product'].lower()}_{kind}_chain.pem").read_bytes()
        evidence = (vectors / "snp" / case["report"]).read_bytes() if case.get("report") else b""
        found.append((case, evidence, {"vek": ek, "cert_chain": chain}))
    return [entry for entry in found if entry[1]]


def test_real_snp_reports_as_stored(vectors: Path, tmp_path: Path) -> None:
    count = 0
    for number, (case, evidence, pieces) in enumerate(snp_cases(vectors)):
        write_collateral(tmp_path / str(number), pieces)
        at = datetime.fromtimestamp(case["time"], UTC)
        result = judged(evidence, read_collateral(tmp_path / str(number)), at)
        assert result.tee == SEV_SNP
        accepted = case["expect"]["verdict"] == "accept"
        assert (result.error is None) == accepted, f"{case['id']}: {result.error}"
        if not accepted and result.error is not None:
            assert result.error.code in case["expect"]["code"].split("|"), case["id"]
        submodule = result.to_ear("test")["submods"]["cpu"]
        assert submodule["cloister.verdict"] == ("accept" if accepted else "reject")
        assert (submodule["ear.status"] == "affirming") == accepted
        assert ("ueid" in submodule) == accepted
        count += 1
    assert count


def test_line_ends_of_a_pem_change_no_verdict(vectors: Path) -> None:
    case, evidence, pieces = snp_cases(vectors)[0]
    at = datetime.fromtimestamp(case["time"], UTC)
    unix, dos = (
        judged(evidence, {**pieces, "cert_chain": text}, at).rows
        for text in (pieces["cert_chain"], pieces["cert_chain"].replace(b"\n", b"\r\n"))
    )
    assert unix == dos


@pytest.mark.parametrize("kind", ["real", "synth"])
def test_tdx_quotes_as_stored(vectors: Path, kind: str) -> None:
    count = 0
    for case in tdx_cases(vectors, kind):
        if case.members is None or case.expect.get("either_verdict_conforms") or len(case.quote) < 100:
            continue
        if case.expect["verdict"] == "reject" and recognised(case.quote) != TDX:
            continue
        collateral = {"collateral": json.dumps(case.members).encode()}
        result = judged(case.quote, collateral, case.at, tdx=case.policy)
        accepted = case.expect["verdict"] == "accept"
        assert (result.error is None) == accepted, f"{case.id}: {result.error}"
        if not accepted and result.error is not None:
            assert result.error.code in case.expect["code"].split("|"), case.id
        submodule = result.to_ear("test")["submods"]["cpu"]
        if accepted:
            assert submodule["cloister.collateral"]["earliest-expiry"] >= case.at.timestamp(), case.id
        if not accepted:
            assert submodule["ear.status"] in ("warning", "contraindicated", "none"), case.id
            assert "ueid" not in submodule
        elif case.expect.get("tcb_status") == "UpToDate" and submodule["dbgstat"] != "enabled":
            assert submodule["ear.status"] == "affirming", case.id
        elif case.expect.get("tcb_status", "UpToDate") != "UpToDate":
            # What a policy permits is still told as what it is.
            assert submodule["ear.status"] != "affirming", case.id
        count += 1
    assert count


def test_an_outdated_platform_is_a_warning_whatever_the_policy_permits(vectors: Path) -> None:
    case = next(
        case
        for case in tdx_cases(vectors, "real")
        if (case.expect["verdict"], case.expect.get("tcb_status")) == ("accept", "OutOfDate")
        and not case.policy.allow_debug
    )
    collateral = {"collateral": json.dumps(case.members).encode()}
    result = judged(case.quote, collateral, case.at, tdx=case.policy)
    assert result.error is None
    submodule = result.to_ear("test")["submods"]["cpu"]
    assert submodule["ear.status"] == "warning"
    assert submodule["ear.trustworthiness-vector"]["hardware"] == 32
    assert submodule["cloister.tcb-status"] == "OutOfDate"


def test_a_kind_that_the_policy_does_not_accept_is_refused(vectors: Path) -> None:
    case, evidence, pieces = snp_cases(vectors)[0]
    at = datetime.fromtimestamp(case["time"], UTC)
    refused = judged(evidence, pieces, at, tees=frozenset({TDX}))
    assert refused.error is not None
    assert refused.error.code == "tee_not_accepted"
    assert refused.status == 3
    wrong = verify_cpu_evidence(evidence, pieces, CpuPolicy(POLICY, DIGEST), at, tee=AZURE_SNP)
    assert wrong.error is not None
    assert wrong.error.stage == "parse"
    for text in (b"", b"{}", b"nothing", b"\xff" * 2000):
        unknown = judged(text, {}, at)
        assert unknown.error is not None
        assert unknown.error.code == "evidence_unknown"


def test_report_data_is_compared_where_it_is_asked_for(vectors: Path) -> None:
    case, evidence, pieces = next(
        entry for entry in snp_cases(vectors) if entry[0]["expect"]["verdict"] == "accept"
    )
    at = datetime.fromtimestamp(case["time"], UTC)
    for nonce, accepted in ((evidence[0x50:0x90], True), (bytes(64), False), (evidence[0x50:0x70], False)):
        result = verify_cpu_evidence(evidence, pieces, CpuPolicy(POLICY, DIGEST), at, nonce=nonce)
        assert (result.error is None) == accepted
        assert accepted or result.rows[-1].code == "report_data_mismatch"


def test_the_command(vectors: Path, tmp_path: Path) -> None:
    case, evidence, pieces = next(
        entry
        for entry in snp_cases(vectors)
        if entry[0]["expect"]["verdict"] == "accept" and entry[1][0] == 2  # of report version 2
    )
    at = f"{datetime.fromtimestamp(case['time'], UTC):%Y-%m-%dT%H:%M:%SZ}"
    (tmp_path / "evidence").write_bytes(evidence)
    write_collateral(tmp_path / "collateral", pieces)
    waived = sorted({bulletin.id for bulletin in SnpPolicy().bulletins})
    (tmp_path / "policy.toml").write_text(
        "version = 1\n[cpu.snp]\nrequire_crl = false\nmin_report_version = 2\n"
        f"waive_bulletins = {json.dumps(waived)}\n"
    )
    options = ["--collateral", str(tmp_path / "collateral"), "--at", at]
    options = ["verify", "--cpu-evidence", str(tmp_path / "evidence"), *options]
    lenient = [*options, "--policy", str(tmp_path / "policy.toml")]
    runner = CliRunner()

    def run(*arguments: str) -> tuple[int, str]:
        outcome = runner.invoke(build_app(), list(arguments), standalone_mode=False)
        return int(outcome.return_value if outcome.exception is None else 1), outcome.output

    status, text = run(*lenient, "--json")
    assert status == 0, text
    said = json.loads(text)
    assert said["verified"] is True
    assert said["registers"]["launchDigest"] == evidence[0x90:0xC0].hex()
    status, text = run(*lenient, "--ear")
    assert json.loads(text)["submods"]["cpu"]["ear.status"] == "affirming"
    status, text = run(*options)
    assert status == 3
    assert "report_version_below_minimum" in text
    assert run(*lenient[:3], "--collateral", str(tmp_path / "absent"))[0] == 1
    assert run("verify", "--ear")[0] == 1


def test_text_of_another_encoding_is_no_evidence() -> None:
    for text in (b'{"ak": 1}', b'{"hcl_report": 1, "hcl_report": 2}', base64.b64encode(bytes(99))):
        assert recognised(text) == ""


@pytest.mark.parametrize("version", [2, 3, 4, 5])
@pytest.mark.parametrize("guest_svn", [0, 0x81, 0xFFFFFFFF])
def test_a_report_is_one_whatever_its_guest_counts(version: int, guest_svn: int) -> None:
    head = version.to_bytes(4, "little") + guest_svn.to_bytes(4, "little")
    assert recognised(head + bytes(REPORT_LENGTH - len(head))) == SEV_SNP


def recognised(data: bytes) -> str:
    try:
        return recognise(data)
    except EvidenceMalformed:
        return ""


def test_a_tpms_quote_as_stored() -> None:
    tpm, nonce = SoftwareTpm().boot(), b"challenge of the verifier"
    evidence = tpm.evidence(nonce).encode()
    assert recognised(evidence) == TPM
    trusted = TpmPolicy(pinned_spki=frozenset({spki_sha256(tpm.key.public_key())}))
    policy = CpuPolicy(replace(POLICY, tpm=trusted), DIGEST)
    log = {"eventlog": tpm.event_log()}
    result = verify_cpu_evidence(evidence, log, policy, AT, nonce=nonce)
    assert result.error is None, result.rows
    submodule = result.to_ear("test")["submods"]["vtpm"]
    assert submodule["ear.status"] == "affirming"
    assert submodule["oemboot"] is True
    assert submodule["cloister.registers"] == {
        f"pcr{index}": tpm.pcr("sha256", index).hex() for index in sorted(REQUIRED)
    }
    for pieces, asked, code in (
        (log, b"another challenge", "nonce_mismatch"),
        (log, b"", "nonce_mismatch"),
        ({}, nonce, "eventlog_missing"),
        ({**log, "tcb_info": b""}, nonce, "collateral_unknown"),
    ):
        refused = verify_cpu_evidence(evidence, pieces, policy, AT, nonce=asked)
        assert refused.error is not None
        assert refused.error.code == code
        assert refused.to_ear("test")["submods"]["vtpm"]["cloister.verdict"] == "reject"


@pytest.mark.parametrize("kind", ["SNP", "TDX"])
def test_azures_machines_as_stored(vectors: Path, kind: str) -> None:
    count = 0
    for case in json.loads((vectors / "tpm/azure/cases.json").read_text()):
        if case["report_type"] != kind:
            continue
        document = json.loads((vectors / "tpm" / case["file"]).read_text())
        document = document.get("evidence", document)
        evidence = azure_evidence(document)
        assert recognised(evidence) == (AZURE_SNP if kind == "SNP" else AZURE_TDX)
        tpm = TpmPolicy(
            replay_eventlog=False, secure_boot=False, required_pcrs={"sha256": frozenset(range(24))}
        )
        azure = AzurePolicy(secure_boot=case["secure_boot"])
        if kind == "SNP":
            chain = vectors / "snp/trust" / f"{case['expect']['product']}_vcek_chain.pem"
            pieces = {"vek": piece_of(document["vcek"]), "cert_chain": chain.read_bytes()}
            changes: dict[str, Any] = {"snp": replace(POLICY.snp, **case["policy"])}
            at = datetime.fromtimestamp(case["time"], UTC)
        else:
            pieces = {"collateral": (vectors / case["collateral"]).read_bytes()}
            changes = {"tdx": TdxPolicy(**case["policy"])}
            at = datetime.fromtimestamp(case["collateral_time"], UTC)
        policy = CpuPolicy(replace(POLICY, tpm=tpm, azure=azure, **changes), DIGEST)
        nonce = bytes.fromhex(case["nonce_hex"])
        result = verify_cpu_evidence(evidence, pieces, policy, at, nonce=nonce)
        found = None if result.error is None else result.error.code
        accepted = case["expect"]["verdict"] == "accept"
        assert found in ([None] if accepted else case["expect"]["code"].split("|")), case["id"]
        other = verify_cpu_evidence(evidence, pieces, policy, at, nonce=b"another")
        assert other.error is not None
        count += 1
    assert count


def azure_evidence(document: Mapping[str, Any]) -> bytes:
    """Evidence in our form, out of what other collectors recorded."""
    quote = document.get("quote") or document["tpm_quote"]
    signature = bytes.fromhex("0014000b0100") + piece_of(quote["signature"])
    pcrs = {"sha256": dict(enumerate(map(piece_of, quote["pcrs"])))}
    return AzureEvidence(
        Quote(piece_of(quote["message"]), signature, pcrs),
        piece_of(document.get("report") or document["hcl_report"]),
        piece_of(document["td_quote"]) if "td_quote" in document else None,
    ).encode()


def piece_of(value: Any) -> bytes:
    """Bytes as collectors write them: numbers, hexadecimal, PEM, or base64 of either alphabet."""
    if isinstance(value, list):
        return bytes(value)
    if value.startswith("-----BEGIN"):
        return read_pem(value.encode())[0]
    if re.fullmatch("[0-9a-f]+", value):
        return bytes.fromhex(value)
    return base64.urlsafe_b64decode(value.replace("+", "-").replace("/", "_") + "=" * (-len(value) % 4))


def test_no_evidence_however_broken_ends_in_anything_but_a_verdict(vectors: Path) -> None:
    case, report, pieces = snp_cases(vectors)[0]
    quote = (vectors / "tdx/real/goog_cos113.quote.bin").read_bytes()
    tpm = SoftwareTpm().boot().evidence(b"nonce").encode()
    at = datetime.fromtimestamp(case["time"], UTC)
    rng = random.Random(5)
    for good in (report, quote, tpm):
        inputs = [good[: rng.randrange(len(good))] for _ in range(12)]
        for _ in range(40):
            changed = bytearray(good)
            changed[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
            inputs.append(bytes(changed))
        for evidence in inputs:
            for tee in (None, rng.choice(sorted(TEES)), "other"):
                given = pieces if rng.random() < 0.7 else {"vek": rng.randbytes(30), "eventlog": b""}
                result = verify_cpu_evidence(evidence, given, CpuPolicy(POLICY, DIGEST), at, tee=tee)
                assert result.error is not None
                assert result.to_json()["error"]["code"]
                assert result.to_ear("x")["submods"]
