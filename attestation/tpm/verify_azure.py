"""Azure's confidential VMs, appraised: CPU, then paravisor, then vTPM, each vouching for the next.

The hardware's report vouches for the paravisor's data, that data names the vTPM's AK, and the AK signs the quote
with the challenge. The rows come in the order of that chain read backwards, as an attacker would have to break
it: binding, quote, hardware.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Final, Generic, TypeVar

from ..errors import BindingMismatch, PolicyRejected
from ..results import Appraisal, Checklist
from ..sev_snp import SnpCollateral, VerifiedSnp
from ..sev_snp import appraise as appraise_snp
from ..sev_snp_policy import SnpPolicy
from ..tdx.collateral import TdxCollateral
from ..tdx.policy import TdxPolicy
from ..tdx.quote import parse_quote
from ..tdx.verify import TDX_CHECKS, VerifiedTdx
from ..tdx.verify import appraise as appraise_tdx
from .azure import HclKind, HclReport, RuntimeClaims, check_binding, parse_hcl_report, read_runtime_claims
from .evidence import AzureEvidence
from .policy import AzurePolicy, TpmPolicy
from .verify import QUOTE_CHECKS, VerifiedQuote, appraise_quote

PARAVISOR_CHECKS: Final = ("azure.format", "azure.binding", "azure.configuration")
"""Ids of the rows about the paravisor, in order."""

SNP_CHECKS: Final = (
    "cpu.format",
    "cpu.chain",
    "cpu.revocation",
    "cpu.tcb",
    "cpu.signature",
    "cpu.guest_policy",
)
"""Ids of the rows about SEV-SNP below the paravisor, in order."""


TD_REPORT: Final = "azure.td_report"
"""Id of the row that says whether the TD quote is of the paravisor's own TDREPORT; TDX alone has it."""

_H = TypeVar("_H", VerifiedSnp, VerifiedTdx)


@dataclass(frozen=True, slots=True)
class VerifiedAzure(Generic[_H]):
    """A confidential VM of Azure's. ``hardware`` is the verified evidence below the paravisor."""

    hardware: _H
    paravisor: RuntimeClaims
    quote: VerifiedQuote

    @property
    def registers(self) -> Mapping[str, str]:
        """The paravisor's launch registers, and the quoted PCRs, in hexadecimal."""
        if isinstance(self.hardware, VerifiedTdx):
            launch = {name: value.hex() for name, value in self.hardware.quote.body.registers.items()}
        else:
            launch = {"launchDigest": self.hardware.report.measurement.hex()}
        return {**launch, **self.quote.registers}


@dataclass(frozen=True, slots=True)
class AzureDemands:
    """What is asked of a machine's vTPM and paravisor: policies, challenge, and the event log beside it."""

    tpm: TpmPolicy
    azure: AzurePolicy
    nonce: bytes
    eventlog: bytes | None


def appraise_azure_snp(
    evidence: bytes, collateral: SnpCollateral, policy: SnpPolicy, demands: AzureDemands, at: datetime
) -> Appraisal[VerifiedAzure[VerifiedSnp]]:
    """Check evidence of kind ``azure-snp`` at the time ``at`` (aware)."""
    checks = Checklist()
    found = _appraise_vtpm(checks, evidence, HclKind.SNP, demands)
    if found is None:
        return _unread(checks, SNP_CHECKS)
    # The paravisor is the guest's own most trusted part; a report of a lower level speaks for no paravisor.
    policy = replace(policy, vmpl=policy.vmpl & {0})
    return _joined(checks, found, appraise_snp(found.report.hardware, collateral, policy, at))


def appraise_azure_tdx(
    evidence: bytes, collateral: TdxCollateral, policy: TdxPolicy, demands: AzureDemands, at: datetime
) -> Appraisal[VerifiedAzure[VerifiedTdx]]:
    """Check evidence of kind ``azure-tdx`` at the time ``at`` (aware).

    The TDREPORT has a code that only its own machine can check. So it counts for nothing but its report
    data, and only because a quote that Intel's chain vouches for has the same.
    """
    checks = Checklist()
    found = _appraise_vtpm(checks, evidence, HclKind.TDX, demands)
    if found is None:
        return _unread(checks, (TD_REPORT, *TDX_CHECKS))
    quote = found.evidence.td_quote or b""
    checks.check(TD_REPORT, partial(_check_td_report, found.report, quote), "quoted as the paravisor has it")
    return _joined(checks, found, appraise_tdx(quote, collateral, policy, at))


@dataclass(frozen=True, slots=True)
class _Vtpm:
    """What could be read of the vTPM's part; claims and quote only where their rows passed."""

    evidence: AzureEvidence
    report: HclReport
    claims: RuntimeClaims | None
    quote: VerifiedQuote | None


def _joined(checks: Checklist, vtpm: _Vtpm, hardware: Appraisal[_H]) -> Appraisal[VerifiedAzure[_H]]:
    rows, error = (*checks.rows, *hardware.rows), checks.error or hardware.error
    if error is not None or hardware.value is None or vtpm.claims is None or vtpm.quote is None:
        return Appraisal(rows, error, None, hardware.simulated)
    value = VerifiedAzure(hardware.value, vtpm.claims, vtpm.quote)
    return Appraisal(rows, None, value, hardware.simulated)


def _unread(checks: Checklist, ids: tuple[str, ...]) -> Appraisal[VerifiedAzure[_H]]:
    for id in ids:
        checks.not_evaluated(id, "the evidence cannot be read")
    return Appraisal(checks.rows, checks.error, None)


def _check_td_report(report: HclReport, quote: bytes) -> None:
    found = parse_quote(quote).body.report_data
    if found != report.report_data:
        raise BindingMismatch(
            code="hcl_binding",
            expected=report.report_data,
            found=found,
            detail="the TD quote is not of the paravisor's report",
        )


def _appraise_vtpm(checks: Checklist, data: bytes, kind: HclKind, demands: AzureDemands) -> _Vtpm | None:
    read = checks.check("azure.format", lambda: _read(data, kind), f"a report on {kind.name}, and a quote")
    if read is None:
        for id in (*PARAVISOR_CHECKS[1:], *QUOTE_CHECKS):
            checks.not_evaluated(id, "the evidence cannot be read")
        return None
    evidence, report = read
    claims = checks.check(
        "azure.binding", lambda: _bound_claims(report), "the hardware vouches for the paravisor's data"
    )
    if claims is None:
        for id in (*PARAVISOR_CHECKS[2:], *QUOTE_CHECKS):
            checks.not_evaluated(id, "no attestation key that the hardware vouches for")
        return _Vtpm(evidence, report, None, None)
    checks.check(
        "azure.configuration", partial(_check_configuration, claims, demands.azure), "as the policy asks"
    )
    quote = appraise_quote(
        checks, evidence.quote, claims.ak, None, demands.eventlog, demands.tpm, demands.nonce
    )
    return _Vtpm(evidence, report, claims, quote)


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
