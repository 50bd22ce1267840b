"""The appraisal of a node's evidence, in the order of docs/protocol.md §4: CPU, GPUs, what both vouch for.

Nothing here raises for what a node sent: each function gives rows with stable ids, the first error, and a
value only where all of them passed. After a failure, every row that can still be evaluated is.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final

from . import sev_snp
from .bundle import CpuSection, EvidenceBundle
from .claims import Claims, report_data
from .errors import AttestationError, BindingMismatch, ChainUntrusted, NotAvailable, PolicyRejected
from .nvidia.verify import VerifiedGpu, VerifiedSwitch, appraise_gpu_section, count_gpus
from .policy import SEV_SNP, AttestationPolicy
from .results import NOT_EVALUATED, Appraisal, Checklist
from .sev_snp_report import Product, Report, parse_report

CPU_CHECKS: Final = (
    "cpu.format",
    "cpu.chain",
    "cpu.revocation",
    "cpu.tcb",
    "cpu.signature",
    "cpu.guest_policy",
    "cpu.report_data",
)
"""Ids of the rows of ``appraise_cpu``, in order."""

_COLLATERAL: Final = frozenset({"vek", "ask", "ark", "crl"})


@dataclass(frozen=True, slots=True)
class VerifiedCpu:
    """A CPU whose evidence is genuine, accepted, and vouches for ``claims``.

    ``measurement`` is the launch digest, 48 bytes.
    """

    tee: str
    measurement: bytes
    claims: Claims
    product: Product
    simulated: bool
    report: Report


@dataclass(frozen=True, slots=True)
class VerifiedGpus:
    """All GPUs of a node, genuine, accepted and bound to its key; none where the policy takes none."""

    gpus: tuple[VerifiedGpu, ...]
    simulated: bool
    switches: tuple[VerifiedSwitch, ...] = ()


def appraise_cpu(bundle: EvidenceBundle, policy: AttestationPolicy, at: datetime) -> Appraisal[VerifiedCpu]:
    """Check the CPU's evidence at the time ``at`` (aware), and that it vouches for the bundle's claims."""
    checks = Checklist()
    try:
        snp = sev_snp.appraise(bundle.cpu.evidence, _snp_collateral(bundle.cpu, policy), policy.snp, at)
    except AttestationError as refusal:
        checks.failed(CPU_CHECKS[0], refusal)
        for id in CPU_CHECKS[1:]:
            checks.not_evaluated(id, "the evidence cannot be read")
        return Appraisal(checks.rows, checks.error, None)
    claims = None
    if snp.rows[0].code is not None:
        checks.not_evaluated("cpu.report_data", "the evidence cannot be read")
    else:
        claims = checks.check(
            "cpu.report_data",
            lambda: _check_report_data(bundle.claims, parse_report(bundle.cpu.evidence)),
            lambda found: f"vouches for claims until {found.not_after:%Y-%m-%dT%H:%M:%SZ}",
        )
    rows, error = snp.rows + checks.rows, snp.error or checks.error
    if error is not None or snp.value is None or claims is None:
        return Appraisal(rows, error, None, snp.simulated)
    verified = VerifiedCpu(
        tee=bundle.cpu.tee,
        measurement=snp.value.report.measurement,
        claims=claims,
        product=snp.value.product,
        simulated=snp.value.simulated,
        report=snp.value.report,
    )
    return Appraisal(rows, None, verified, snp.simulated)


def appraise_gpus(
    bundle: EvidenceBundle, claims: Claims | None, policy: AttestationPolicy, at: datetime
) -> Appraisal[VerifiedGpus]:
    """Check all GPUs' evidence, that each answers this node's nonce, and that the claims name this evidence.

    ``claims`` come from ``appraise_cpu``; without them nonce and binding are not evaluated: a failure.
    """
    nonce = None if claims is None else _expected_nonce(bundle, claims)
    section = appraise_gpu_section(bundle.gpus, nonce, policy.gpu, at, bundle.gpu_collateral)
    checks = Checklist()
    if claims is None:
        checks.not_evaluated("gpu.binding", "needs claims that CPU evidence vouches for")
    else:
        checks.check(
            "gpu.binding",
            lambda: _require_digest("gpu_evidence", claims.gpu_evidence, bundle.gpus),
            "the CPU vouches for this GPU evidence",
        )
    rows, error = section.rows + checks.rows, _first_found(section.error, checks.error)
    if error is not None:
        return Appraisal(rows, error, None, section.simulated)
    gpus = VerifiedGpus(section.gpus, section.simulated, section.switches)
    return Appraisal(rows, None, gpus, section.simulated)


def appraise_bindings(bundle: EvidenceBundle, claims: Claims | None, at: datetime) -> Appraisal[Claims]:
    """Check that the claims name the keys, runtime and checkpoint beside them, and hold at ``at``."""
    checks = Checklist()
    ids = ("keys.ohttp", "keys.runtime", "keys.checkpoint", "keys.epoch")
    if claims is None:
        for id in ids:
            checks.not_evaluated(id, "needs claims that CPU evidence vouches for")
        return Appraisal(checks.rows, checks.error, None)
    for id, name, claimed, data in (
        (ids[0], "ohttp_keys", claims.ohttp_keys, bundle.ohttp_keys),
        (ids[1], "runtime", claims.runtime, bundle.runtime),
        (ids[2], "checkpoint", claims.checkpoint, bundle.checkpoint),
    ):
        checks.check(id, partial(_require_digest, name, claimed, data), f"sha256 {claimed.hex()[:16]}…")
    checks.check(ids[3], lambda: _require_epoch(claims, at), f"until {claims.not_after:%Y-%m-%dT%H:%M:%SZ}")
    return Appraisal(checks.rows, checks.error, None if checks.error else claims)


def _snp_collateral(cpu: CpuSection, policy: AttestationPolicy) -> sev_snp.SnpCollateral:
    if SEV_SNP not in policy.tees:
        raise NotAvailable(
            f"evidence of the kinds that the policy accepts ({', '.join(sorted(policy.tees))})"
        )
    if cpu.tee not in policy.tees:
        raise PolicyRejected(code="tee_not_accepted", expected=sorted(policy.tees), found=cpu.tee)
    if cpu.tee != SEV_SNP:
        raise NotAvailable(f"evidence of the kind {cpu.tee}")
    given = dict(cpu.collateral)
    unknown = sorted(given.keys() - _COLLATERAL)
    if unknown:
        raise ChainUntrusted(code="collateral_unknown", stage="collateral", found=unknown[0])
    for name in ("vek", "ask", "ark"):
        if name not in given:
            raise ChainUntrusted(code="collateral_missing", stage="collateral", expected=name, retryable=True)
    return sev_snp.SnpCollateral(given["vek"], given["ask"], given["ark"], given.get("crl"))


def _check_report_data(claims: bytes, report: Report) -> Claims:
    expected = report_data(claims)
    if report.report_data != expected:
        raise BindingMismatch(
            code="report_data_mismatch",
            expected=expected,
            found=report.report_data,
            detail="the CPU does not vouch for these claims",
        )
    return Claims.parse(claims)


def _expected_nonce(bundle: EvidenceBundle, claims: Claims) -> bytes | None:
    try:
        return claims.gpu_nonce(count_gpus(bundle.gpus))
    except AttestationError:
        return None  # the row gpu.count says why


def _require_digest(name: str, claimed: bytes, data: bytes) -> None:
    found = hashlib.sha256(data).digest()
    if found != claimed:
        raise BindingMismatch(
            code=f"{name}_mismatch",
            expected=claimed,
            found=found,
            detail=f"the claims are of other bytes than {name}",
        )


def _require_epoch(claims: Claims, at: datetime) -> None:
    if at < claims.not_before:
        raise BindingMismatch(
            code="epoch_not_yet_valid", expected=claims.not_before, found=at, retryable=True
        )
    if at >= claims.not_after:
        raise BindingMismatch(code="epoch_expired", expected=claims.not_after, found=at, retryable=True)


def _first_found(*errors: AttestationError | None) -> AttestationError | None:
    given = [error for error in errors if error is not None]
    found = [error for error in given if error.code != NOT_EVALUATED] or given
    return found[0] if found else None
