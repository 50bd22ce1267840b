"""Azure's confidential VMs, appraised: CPU, then paravisor, then vTPM, each vouching for the next.

The hardware's report vouches for the paravisor's data, that data names the vTPM's AK, and the AK signs the quote
with the challenge. The rows come in the order of that chain read backwards, as an attacker would have to break
it: binding, quote, hardware.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Final

from ..errors import PolicyRejected
from ..results import Appraisal, Checklist
from ..sev_snp import SnpCollateral, VerifiedSnp
from ..sev_snp import appraise as appraise_snp
from ..sev_snp_policy import SnpPolicy
from .azure import HclKind, HclReport, RuntimeClaims, check_binding, parse_hcl_report, read_runtime_claims
from .evidence import AzureEvidence
from .policy import AzurePolicy, TpmPolicy
from .verify import QUOTE_CHECKS, VerifiedQuote, appraise_quote

PARAVISOR_CHECKS: Final = ("azure.format", "azure.binding", "azure.configuration")
"""Ids of the rows about the paravisor, in order."""

HARDWARE_CHECKS: Final = (
    "cpu.format",
    "cpu.chain",
    "cpu.revocation",
    "cpu.tcb",
    "cpu.signature",
    "cpu.guest_policy",
)
"""Ids of the rows about the hardware below, in order."""


@dataclass(frozen=True, slots=True)
class VerifiedAzure:
    """A confidential VM of Azure's. ``hardware`` is the verified report below the paravisor."""

    hardware: VerifiedSnp
    paravisor: RuntimeClaims
    quote: VerifiedQuote

    @property
    def registers(self) -> Mapping[str, str]:
        """The paravisor's launch digest, and the quoted PCRs, in hexadecimal."""
        return {"launchDigest": self.hardware.report.measurement.hex(), **self.quote.registers}


def appraise_azure_snp(
    evidence: bytes,
    collateral: SnpCollateral,
    eventlog: bytes | None,
    *,
    snp: SnpPolicy,
    tpm: TpmPolicy,
    azure: AzurePolicy,
    nonce: bytes,
    at: datetime,
) -> Appraisal[VerifiedAzure]:
    """Check evidence of kind ``azure-snp`` at the time ``at`` (aware) against the challenge ``nonce``."""
    checks = Checklist()
    found = _appraise_vtpm(checks, evidence, HclKind.SNP, eventlog, tpm, azure, nonce)
    if found is None:
        for id in HARDWARE_CHECKS:
            checks.not_evaluated(id, "the evidence cannot be read")
        return Appraisal(checks.rows, checks.error, None)
    report, claims, quote = found
    # The paravisor is the guest's own most trusted part; a report of a lower level speaks for no paravisor.
    hardware = appraise_snp(report.hardware, collateral, replace(snp, vmpl=snp.vmpl & {0}), at)
    rows, error = (*checks.rows, *hardware.rows), checks.error or hardware.error
    if error is not None or hardware.value is None or claims is None or quote is None:
        return Appraisal(rows, error, None, hardware.simulated)
    return Appraisal(rows, None, VerifiedAzure(hardware.value, claims, quote), hardware.simulated)


def _appraise_vtpm(
    checks: Checklist,
    data: bytes,
    kind: HclKind,
    eventlog: bytes | None,
    tpm: TpmPolicy,
    azure: AzurePolicy,
    nonce: bytes,
) -> tuple[HclReport, RuntimeClaims | None, VerifiedQuote | None] | None:
    found = checks.check("azure.format", lambda: _read(data, kind), f"a report on {kind.name}, and a quote")
    if found is None:
        for id in (*PARAVISOR_CHECKS[1:], *QUOTE_CHECKS):
            checks.not_evaluated(id, "the evidence cannot be read")
        return None
    evidence, report = found
    claims = checks.check(
        "azure.binding", lambda: _bound_claims(report), "the hardware vouches for the paravisor's data"
    )
    if claims is None:
        for id in (*PARAVISOR_CHECKS[2:], *QUOTE_CHECKS):
            checks.not_evaluated(id, "no attestation key that the hardware vouches for")
        return report, None, None
    checks.check("azure.configuration", partial(_check_configuration, claims, azure), "as the policy asks")
    return report, claims, appraise_quote(checks, evidence.quote, claims.ak, None, eventlog, tpm, nonce)


def _read(data: bytes, kind: HclKind) -> tuple[AzureEvidence, HclReport]:
    evidence = AzureEvidence.parse(data, tdx=kind is HclKind.TDX)
    report = parse_hcl_report(evidence.hcl_report)
    if report.kind is not kind:
        raise PolicyRejected(code="hcl_kind", expected=kind.name, found=report.kind.name)
    return evidence, report


def _bound_claims(report: HclReport) -> RuntimeClaims:
    check_binding(report)
    return read_runtime_claims(report)


def _check_configuration(claims: RuntimeClaims, policy: AzurePolicy) -> None:
    if not claims.tpm_enabled:
        raise PolicyRejected(code="hcl_configuration", detail="the paravisor offers no vTPM")
    if policy.secure_boot and not claims.secure_boot:
        raise PolicyRejected(code="secure_boot", expected="on", found="off")
    if claims.console_enabled and not policy.allow_console:
        raise PolicyRejected(code="hcl_configuration", detail="the host's serial console is on")
    if policy.user_data is not None and claims.user_data not in policy.user_data:
        raise PolicyRejected(
            code="hcl_user_data",
            expected=", ".join(sorted(value.hex() for value in policy.user_data)),
            found=claims.user_data,
        )
