"""The appraisal of a node's CPU evidence, whatever kind of trusted execution environment it comes from.

Each kind has its own checks; all end in the same facts, and all must vouch for the bundle's claims. What a
kind needs is imported with the first evidence of that kind.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, TypeAlias

from .bundle import CpuSection, EvidenceBundle
from .claims import Claims, quote_nonce, report_data
from .cpu_memory import CpuMemory
from .errors import AttestationError, BindingMismatch, ChainUntrusted, NotAvailable, PolicyRejected
from .policy import AttestationPolicy
from .results import Appraisal, Checklist, Outcome, Row
from .tees import AZURE_SNP, AZURE_TDX, SEV_SNP, TDX, TPM

if TYPE_CHECKING:
    from .sev_snp import SnpCollateral, VerifiedSnp
    from .sev_snp_report import Report
    from .tdx.quote import Quote
    from .tdx.verify import VerifiedTdx
    from .tpm.verify import VerifiedQuote
    from .tpm.verify_azure import VerifiedAzure

SNP_CHECKS: Final = (
    "cpu.format",
    "cpu.chain",
    "cpu.revocation",
    "cpu.tcb",
    "cpu.signature",
    "cpu.guest_policy",
)
"""Ids of the rows about SEV-SNP evidence, in order."""

REPORT_DATA: Final = "cpu.report_data"
"""Id of the row that says whether the CPU vouches for the claims."""

CPU_CHECKS: Final = (*SNP_CHECKS, REPORT_DATA)
"""Ids of the rows of ``appraise_cpu`` on SEV-SNP evidence, in order."""

Evidence: TypeAlias = (
    "Report | Quote | VerifiedQuote | VerifiedAzure[VerifiedSnp] | VerifiedAzure[VerifiedTdx]"
)

_SNP_COLLATERAL: Final = frozenset({"vek", "ask", "ark", "crl"})


@dataclass(frozen=True, slots=True)
class VerifiedCpu:
    """A CPU whose evidence is genuine, accepted, and vouches for ``claims``.

    ``measurement`` is the launch measurement, 48 bytes: SEV-SNP's launch digest, TDX's MRTD; empty where a
    TPM stands alone. ``registers`` are all measured values by name in hexadecimal: ``launchDigest``; ``mrtd``
    and ``rtmr0`` to ``rtmr3``; ``pcr<n>``. ``tcb`` are the platform's levels by name, where its kind has
    names for them. ``product`` names the processor line, and ``report`` is what was verified.
    """

    tee: str
    measurement: bytes
    registers: Mapping[str, str]
    claims: Claims
    product: str
    tcb: Mapping[str, int] | None
    simulated: bool
    report: Evidence


@dataclass(frozen=True, slots=True)
class CpuFacts:
    """What verified evidence says, before the claims: the fields are those of ``VerifiedCpu``."""

    measurement: bytes
    registers: Mapping[str, str]
    product: str
    tcb: Mapping[str, int] | None
    report: Evidence


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of evidence: the ids of its rows, and how it is checked against claims."""

    checks: tuple[str, ...]
    appraise: Callable[[CpuSection, bytes, AttestationPolicy, datetime, CpuMemory], Appraisal[CpuFacts]]


def appraise_cpu(
    bundle: EvidenceBundle, policy: AttestationPolicy, at: datetime, memory: CpuMemory | None = None
) -> Appraisal[VerifiedCpu]:
    """Check the CPU's evidence at the time ``at`` (aware), and that it vouches for the bundle's claims.

    ``memory`` is what the caller keeps from one appraisal to the next. It saves time and changes no verdict.
    """
    checks = Checklist()
    kind_of = _KINDS.get(bundle.cpu.tee)
    kind = kind_of() if kind_of else None
    try:
        _require_accepted(bundle.cpu.tee, policy)
        if kind is None:
            raise NotAvailable(f"evidence of the kind {bundle.cpu.tee}")
        found = kind.appraise(bundle.cpu, bundle.claims, policy, at, memory or CpuMemory())
    except AttestationError as refusal:
        ids = kind.checks if kind else SNP_CHECKS
        checks.failed(ids[0], refusal)
        for id in (*ids[1:], REPORT_DATA):
            checks.not_evaluated(id, "the evidence cannot be read")
        return Appraisal(checks.rows, checks.error, None)
    facts = found.value
    if facts is None:
        return Appraisal(found.rows, found.error, None, found.simulated)
    claims = Claims.parse(bundle.claims)  # which the report data row has read before
    verified = VerifiedCpu(
        tee=bundle.cpu.tee,
        measurement=facts.measurement,
        registers=facts.registers,
        claims=claims,
        product=facts.product,
        tcb=facts.tcb,
        simulated=found.simulated,
        report=facts.report,
    )
    return Appraisal(found.rows, None, verified, found.simulated)


def _require_accepted(tee: str, policy: AttestationPolicy) -> None:
    if not policy.tees & _KINDS.keys():
        raise NotAvailable(
            f"evidence of the kinds that the policy accepts ({', '.join(sorted(policy.tees))})"
        )
    if tee not in policy.tees:
        raise PolicyRejected(code="tee_not_accepted", expected=sorted(policy.tees), found=tee)


def _appraise_snp(
    cpu: CpuSection, claims: bytes, policy: AttestationPolicy, at: datetime, _: CpuMemory
) -> Appraisal[CpuFacts]:
    from .sev_snp import appraise as appraise_snp
    from .sev_snp_report import parse_report

    snp = appraise_snp(cpu.evidence, _snp_collateral(cpu), policy.snp, at)
    bound = _report_data_row(claims, snp.rows[0], lambda: parse_report(cpu.evidence).report_data)
    facts = None
    if snp.value is not None:
        report = snp.value.report
        facts = CpuFacts(
            measurement=report.measurement,
            registers={"launchDigest": report.measurement.hex()},
            product=snp.value.product,
            tcb=asdict(snp.value.tcb),
            report=report,
        )
    return _joined(snp.rows, snp.error, facts, snp.simulated, bound)


def _appraise_tdx(
    cpu: CpuSection, claims: bytes, policy: AttestationPolicy, at: datetime, memory: CpuMemory
) -> Appraisal[CpuFacts]:
    from .tdx.collateral import TdxCollateral
    from .tdx.quote import parse_quote
    from .tdx.verify import appraise as appraise_tdx

    collateral = TdxCollateral.from_members(cpu.collateral)
    tdx = appraise_tdx(cpu.evidence, collateral, policy.tdx, at, memory.tdx)
    bound = _report_data_row(claims, tdx.rows[0], lambda: parse_quote(cpu.evidence).body.report_data)
    facts = None
    if tdx.value is not None:
        memory.learn_tdx(collateral, tdx.value.quote.pck_chain, policy.tdx.trusted_roots)
        body = tdx.value.quote.body
        facts = CpuFacts(
            measurement=body.mrtd,
            registers={name: value.hex() for name, value in body.registers.items()},
            product=TDX,
            tcb=None,
            report=tdx.value.quote,
        )
    return _joined(tdx.rows, tdx.error, facts, tdx.simulated, bound)


def _appraise_tpm(
    cpu: CpuSection, claims: bytes, policy: AttestationPolicy, at: datetime, _: CpuMemory
) -> Appraisal[CpuFacts]:
    from .tpm.section import appraise_tpm_section

    tpm = appraise_tpm_section(cpu, policy.tpm, policy.gcp, quote_nonce(claims), at)
    bound = _nonce_row(claims, tpm.rows)
    facts = None
    if tpm.value is not None:
        facts = CpuFacts(
            measurement=b"", registers=tpm.value.registers, product=TPM, tcb=None, report=tpm.value
        )
    return _joined(tpm.rows, tpm.error, facts, tpm.simulated, bound)


def _appraise_azure_snp(
    cpu: CpuSection, claims: bytes, policy: AttestationPolicy, at: datetime, _: CpuMemory
) -> Appraisal[CpuFacts]:
    from .tpm.section import appraise_azure_snp_section

    nonce = quote_nonce(claims)
    azure = appraise_azure_snp_section(cpu, policy.snp, policy.tpm, policy.azure, nonce, at)
    bound = _nonce_row(claims, azure.rows)
    facts = None
    if azure.value is not None:
        hardware = azure.value.hardware
        facts = CpuFacts(
            measurement=hardware.report.measurement,
            registers=azure.value.registers,
            product=hardware.product,
            tcb=asdict(hardware.tcb),
            report=azure.value,
        )
    return _joined(azure.rows, azure.error, facts, azure.simulated, bound)


def _appraise_azure_tdx(
    cpu: CpuSection, claims: bytes, policy: AttestationPolicy, at: datetime, _: CpuMemory
) -> Appraisal[CpuFacts]:
    from .tpm.section import appraise_azure_tdx_section

    nonce = quote_nonce(claims)
    azure = appraise_azure_tdx_section(cpu, policy.tdx, policy.tpm, policy.azure, nonce, at)
    bound = _nonce_row(claims, azure.rows)
    facts = None
    if azure.value is not None:
        facts = CpuFacts(
            measurement=azure.value.hardware.quote.body.mrtd,
            registers=azure.value.registers,
            product=TDX,
            tcb=None,
            report=azure.value,
        )
    return _joined(azure.rows, azure.error, facts, azure.simulated, bound)


def _snp() -> _Kind:
    return _Kind(SNP_CHECKS, _appraise_snp)


def _tdx() -> _Kind:
    from .tdx.verify import TDX_CHECKS

    return _Kind(TDX_CHECKS, _appraise_tdx)


def _tpm() -> _Kind:
    from .tpm.verify import TPM_CHECKS

    return _Kind(TPM_CHECKS, _appraise_tpm)


def _azure_snp() -> _Kind:
    from .tpm.verify import QUOTE_CHECKS
    from .tpm.verify_azure import PARAVISOR_CHECKS

    return _Kind((*PARAVISOR_CHECKS, *QUOTE_CHECKS, *SNP_CHECKS), _appraise_azure_snp)


def _azure_tdx() -> _Kind:
    from .tdx.verify import TDX_CHECKS
    from .tpm.verify import QUOTE_CHECKS
    from .tpm.verify_azure import PARAVISOR_CHECKS, TD_REPORT

    return _Kind((*PARAVISOR_CHECKS, *QUOTE_CHECKS, TD_REPORT, *TDX_CHECKS), _appraise_azure_tdx)


_KINDS: Final[Mapping[str, Callable[[], _Kind]]] = {
    SEV_SNP: _snp,
    TDX: _tdx,
    TPM: _tpm,
    AZURE_SNP: _azure_snp,
    AZURE_TDX: _azure_tdx,
}


def _report_data_row(claims: bytes, format_row: Row, found: Callable[[], bytes]) -> Checklist:
    checks = Checklist()
    if format_row.code is not None:
        checks.not_evaluated(REPORT_DATA, "the evidence cannot be read")
        return checks
    checks.check(
        REPORT_DATA,
        lambda: _check_report_data(claims, found()),
        _until,
    )
    return checks


def _nonce_row(claims: bytes, rows: tuple[Row, ...]) -> Checklist:
    checks = Checklist()
    if any(row.id == "tpm.nonce" and row.outcome is Outcome.PASS for row in rows):
        checks.check(REPORT_DATA, lambda: Claims.parse(claims), _until)
    else:
        checks.not_evaluated(REPORT_DATA, "no quote answers for these claims")
    return checks


def _until(claims: Claims) -> str:
    return f"vouches for claims until {claims.not_after:%Y-%m-%dT%H:%M:%SZ}"


def _check_report_data(claims: bytes, found: bytes) -> Claims:
    expected = report_data(claims)
    if found != expected:
        raise BindingMismatch(
            code="report_data_mismatch",
            expected=expected,
            found=found,
            detail="the CPU does not vouch for these claims",
        )
    return Claims.parse(claims)


def _joined(
    rows: tuple[Row, ...],
    error: AttestationError | None,
    facts: CpuFacts | None,
    simulated: bool,
    bound: Checklist,
) -> Appraisal[CpuFacts]:
    first = error or bound.error
    return Appraisal((*rows, *bound.rows), first, None if first else facts, simulated)


def _snp_collateral(cpu: CpuSection) -> "SnpCollateral":
    from .sev_snp import SnpCollateral

    given = dict(cpu.collateral)
    unknown = sorted(given.keys() - _SNP_COLLATERAL)
    if unknown:
        raise ChainUntrusted(code="collateral_unknown", stage="collateral", found=unknown[0])
    for name in ("vek", "ask", "ark"):
        if name not in given:
            raise ChainUntrusted(code="collateral_missing", stage="collateral", expected=name, retryable=True)
    return SnpCollateral(given["vek"], given["ask"], given["ark"], given.get("crl"))
