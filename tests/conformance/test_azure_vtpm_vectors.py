"""Azure's confidential VMs: every case of the vectors, and the changes to each that its manifest says to try."""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from attestation.results import Appraisal
from attestation.sev_snp import SnpCollateral, VerifiedSnp
from attestation.sev_snp_policy import SnpPolicy
from attestation.sev_snp_report import Product
from attestation.tdx.collateral import TdxCollateral
from attestation.tdx.policy import TdxPolicy
from attestation.tdx.verify import VerifiedTdx
from attestation.tpm.evidence import AzureEvidence, Quote
from attestation.tpm.policy import AzurePolicy, TpmPolicy
from attestation.tpm.verify_azure import (
    AzureDemands,
    VerifiedAzure,
    appraise_azure_snp,
    appraise_azure_tdx,
)


@dataclass(frozen=True)
class Recorded:
    """A case's evidence as it was recorded, in the parts that its recorders agree on."""

    hcl_report: bytes
    message: bytes
    signature: bytes
    pcrs: tuple[bytes, ...]
    vcek: bytes | None
    td_quote: bytes | None

    def encode(self) -> bytes:
        quote = Quote(
            self.message,
            bytes.fromhex("0014000b0100") + self.signature,
            {"sha256": dict(enumerate(self.pcrs))},
        )
        return AzureEvidence(quote, self.hcl_report, self.td_quote).encode()


def data_of(value: Any) -> bytes:
    """Bytes as the recorders write them: a list of numbers, hexadecimal, PEM, or base64 of either alphabet."""
    if isinstance(value, list):
        return bytes(value)
    pem = re.search("-----BEGIN CERTIFICATE-----(.+?)-----END", value, re.S)
    if pem:
        return base64.b64decode(pem[1])
    if re.fullmatch("[0-9a-f]+", value):
        return bytes.fromhex(value)
    return base64.urlsafe_b64decode(value.replace("+", "-").replace("/", "_") + "=" * (-len(value) % 4))


def recorded(path: Path) -> Recorded:
    document = json.loads(path.read_text())
    document = document.get("evidence", document)
    quote = document.get("quote") or document["tpm_quote"]
    return Recorded(
        hcl_report=data_of(document.get("report") or document["hcl_report"]),
        message=data_of(quote["message"]),
        signature=data_of(quote["signature"]),
        pcrs=tuple(map(data_of, quote["pcrs"])),
        vcek=data_of(document["vcek"]) if "vcek" in document else None,
        td_quote=data_of(document["td_quote"]) if "td_quote" in document else None,
    )


def cases(vectors: Path, kind: str) -> list[dict[str, Any]]:
    found = [
        case
        for case in json.loads((vectors / "tpm" / "azure" / "cases.json").read_text())
        if case["report_type"] == kind
    ]
    assert found
    return found


def of_another_machine(vectors: Path, case: Mapping[str, Any], every: list[dict[str, Any]]) -> "Recorded":
    """Evidence of the same kind whose hardware report is of another boot than this case's."""
    hcl_report = recorded(vectors / "tpm" / case["file"]).hcl_report
    others = (recorded(vectors / "tpm" / other["file"]) for other in every)
    return next(other for other in others if other.hcl_report[0x20:0x4C0] != hcl_report[0x20:0x4C0])


TPM = TpmPolicy(replay_eventlog=False, secure_boot=False, required_pcrs={"sha256": frozenset(range(24))})


def demands(case: Mapping[str, Any], nonce: bytes | None) -> AzureDemands:
    challenge = bytes.fromhex(case["nonce_hex"]) if nonce is None else nonce
    return AzureDemands(TPM, AzurePolicy(secure_boot=case["secure_boot"]), challenge, None)


def appraised_snp(
    vectors: Path, case: Mapping[str, Any], evidence: Recorded, nonce: bytes | None = None
) -> Appraisal[VerifiedAzure[VerifiedSnp]]:
    product = case["expect"]["product"]
    chain = (vectors / "snp" / "trust" / f"{product}_vcek_chain.pem").read_text()
    ask, ark = (
        base64.b64decode(text)
        for text in re.findall("-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", chain, re.S)
    )
    assert evidence.vcek is not None
    policy = SnpPolicy(bulletins=(), min_report_version=2, require_crl=False, **case["policy"])
    at = datetime.fromtimestamp(case["time"], UTC)
    collateral = SnpCollateral(evidence.vcek, ask, ark)
    return appraise_azure_snp(evidence.encode(), collateral, policy, demands(case, nonce), at)


def appraised_tdx(
    vectors: Path, case: Mapping[str, Any], evidence: Recorded, nonce: bytes | None = None
) -> Appraisal[VerifiedAzure[VerifiedTdx]]:
    collateral = TdxCollateral.from_json((vectors / case["collateral"]).read_bytes())
    policy, at = TdxPolicy(**case["policy"]), datetime.fromtimestamp(case["collateral_time"], UTC)
    return appraise_azure_tdx(evidence.encode(), collateral, policy, demands(case, nonce), at)


def appraised(
    vectors: Path, case: Mapping[str, Any], evidence: Recorded, nonce: bytes | None = None
) -> Appraisal[Any]:
    judge = appraised_snp if case["report_type"] == "SNP" else appraised_tdx
    return judge(vectors, case, evidence, nonce)


def test_every_snp_case_has_its_verdict(vectors: Path) -> None:
    for case in cases(vectors, "SNP"):
        appraisal = appraised_snp(vectors, case, recorded(vectors / "tpm" / case["file"]))
        accepted = case["expect"]["verdict"] == "accept"
        wanted = [None] if accepted else case["expect"]["code"].split("|")
        assert code(appraisal) in wanted, case["id"]
        if not accepted:
            continue
        found = appraisal.require()
        assert found.hardware.product is Product(case["expect"]["product"]), case["id"]
        assert found.hardware.report.vmpl == case["expect"]["vmpl"]
        assert found.paravisor.user_data.hex() == case["user_data"]
        assert found.quote.attest.selections[0].indices == tuple(case["quote_pcr_selection"])


def test_every_tdx_case_has_its_verdict(vectors: Path) -> None:
    for case in cases(vectors, "TDX"):
        appraisal = appraised_tdx(vectors, case, recorded(vectors / "tpm" / case["file"]))
        accepted = case["expect"]["verdict"] == "accept"
        assert code(appraisal) in ([None] if accepted else case["expect"]["code"].split("|")), case["id"]
        if case["expect"]["verdict"] == "accept":
            found = appraisal.require()
            assert found.hardware.tcb.status == case["expect"]["tcb_status"]
            assert found.paravisor.user_data.hex() == case["user_data"]
            assert {"mrtd", "rtmr3", "pcr0"} <= found.registers.keys()


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def code(appraisal: Appraisal[Any]) -> str | None:
    return None if appraisal.error is None else appraisal.error.code


@pytest.mark.parametrize("kind", ["SNP", "TDX"])
def test_every_change_that_the_manifest_names_is_refused(vectors: Path, kind: str) -> None:
    every = cases(vectors, kind)
    for case in every:
        evidence = recorded(vectors / "tpm" / case["file"])
        nonce = bytes.fromhex(case["nonce_hex"])
        other = of_another_machine(vectors, case, every)
        pcrs = (*evidence.pcrs[:7], flipped(evidence.pcrs[7], 0), *evidence.pcrs[8:])
        attempts = {
            "nonce_mismatch": appraised(vectors, case, evidence, flipped(nonce, 0)),
            "pcr_digest_mismatch": appraised(vectors, case, replace(evidence, pcrs=pcrs)),
            "signature": appraised(vectors, case, replace(evidence, message=flipped(evidence.message, 20))),
            "hcl_malformed": appraised(
                vectors, case, replace(evidence, hcl_report=flipped(evidence.hcl_report, 0x4C8))
            ),
        }
        assert {expected: code(found) for expected, found in attempts.items()} == {
            expected: expected for expected in attempts
        }, case["id"]
        assert code(appraised(vectors, case, replace(evidence, hcl_report=other.hcl_report))) == "signature"


def test_a_td_quote_of_another_machine_is_refused(vectors: Path) -> None:
    every = cases(vectors, "TDX")
    for case in every:
        evidence, other = recorded(vectors / "tpm" / case["file"]), of_another_machine(vectors, case, every)
        assert code(appraised(vectors, case, replace(evidence, td_quote=other.td_quote))) == "hcl_binding"


@pytest.mark.parametrize("kind", ["SNP", "TDX"])
def test_no_byte_of_the_paravisors_data_can_change(vectors: Path, kind: str) -> None:
    for case in cases(vectors, kind):
        evidence = recorded(vectors / "tpm" / case["file"])
        length = int.from_bytes(evidence.hcl_report[0x4D0:0x4D4], "little")
        for position in range(0x4D4, 0x4D4 + length, 37):
            changed = replace(evidence, hcl_report=flipped(evidence.hcl_report, position))
            assert code(appraised(vectors, case, changed)) == "hcl_binding"


def test_the_order_of_members_changes_no_verdict(vectors: Path) -> None:
    case = cases(vectors, "SNP")[0]
    evidence = recorded(vectors / "tpm" / case["file"]).encode()
    backwards = json.dumps(dict(reversed(json.loads(evidence).items())), indent=1).encode()
    assert AzureEvidence.parse(backwards, tdx=False) == AzureEvidence.parse(evidence, tdx=False)


def test_the_default_policy_asks_for_an_event_log(vectors: Path) -> None:
    case = cases(vectors, "SNP")[0]
    evidence = recorded(vectors / "tpm" / case["file"]).encode()
    asked = replace(demands(case, None), tpm=TpmPolicy())
    at = datetime.fromtimestamp(case["time"], UTC)
    found = appraise_azure_snp(evidence, SnpCollateral(b"", b"", b""), SnpPolicy(), asked, at)
    assert code(found) == "eventlog_missing"
