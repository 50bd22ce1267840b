"""Each kind of stored CPU evidence, handed to its own verifier with the collateral that it takes.

Collateral comes by name, as out of a folder: certificates in DER or PEM, AMD's chain also as the one piece
``cert_chain``, Intel's pieces also as the one piece ``collateral``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from attestation import sev_snp
from attestation.bundle import CpuSection
from attestation.certificate import Certificate, RevocationList
from attestation.ear import Facts, snp_facts
from attestation.errors import (
    AttestationError,
    BindingMismatch,
    ChainUntrusted,
    EvidenceMalformed,
    NotAvailable,
    PolicyRejected,
)
from attestation.policy import AttestationPolicy
from attestation.results import Appraisal, Checklist, Outcome
from attestation.sev_snp_report import parse_report
from attestation.tdx import verify as tdx
from attestation.tdx.chain import read_pem
from attestation.tdx.collateral import COLLATERAL_NAMES as TDX_NAMES
from attestation.tdx.collateral import TdxCollateral
from attestation.tdx.quote import parse_quote
from attestation.tees import AZURE_SNP, AZURE_TDX, SEV_SNP, TDX, TEES, TPM
from attestation.tpm.section import (
    appraise_azure_snp_section,
    appraise_azure_tdx_section,
    appraise_tpm_section,
)

_TD_DEBUG: Final = 1
_PEM: Final = b"-----BEGIN CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class Judged:
    """An appraisal, what it found where it was accepted, and when the first piece of collateral expires."""

    appraisal: Appraisal[Any]
    facts: Facts
    expires: datetime | None = None


def judge(
    kind: str,
    evidence: bytes,
    collateral: Mapping[str, bytes],
    policy: AttestationPolicy,
    nonce: bytes,
    at: datetime,
) -> Judged:
    """Appraise evidence of this kind at the time ``at``; without a ``nonce`` none is asked for, but of a TPM.

    Raises AttestationError where the policy does not accept the kind, or its collateral cannot be used.
    """
    _require_accepted(kind, policy)
    return _JUDGES[kind](CpuSection(kind, evidence, collateral), policy, nonce, at)


def _require_accepted(kind: str, policy: AttestationPolicy) -> None:
    if kind not in TEES:
        raise EvidenceMalformed(code="evidence_unknown", expected=sorted(TEES), found=kind)
    if kind not in policy.tees:
        raise PolicyRejected(code="tee_not_accepted", expected=sorted(policy.tees), found=kind)
    if kind not in _JUDGES:
        raise NotAvailable(f"evidence of the kind {kind}")


def _judge_snp(cpu: CpuSection, policy: AttestationPolicy, nonce: bytes, at: datetime) -> Judged:
    pieces = _snp_pieces(cpu.collateral)
    found = sev_snp.appraise(cpu.evidence, sev_snp.SnpCollateral(**pieces), policy.snp, at)
    joined = _with_report_data(found, nonce, lambda: parse_report(cpu.evidence).report_data)
    approved = "measurement" in policy.snp.pins
    facts = Facts() if found.value is None else snp_facts(found.value, approved=approved)
    return Judged(joined, facts, _earliest_expiry(pieces))


def _judge_tdx(cpu: CpuSection, policy: AttestationPolicy, nonce: bytes, at: datetime) -> Judged:
    pieces = _tdx_pieces(cpu.collateral)
    collateral = TdxCollateral.from_members(pieces) if pieces else None
    found = tdx.appraise(cpu.evidence, collateral, policy.tdx, at)
    expires = _expiry_of(collateral)
    joined = _with_report_data(found, nonce, lambda: parse_quote(cpu.evidence).body.report_data)
    if found.value is None:
        return Judged(joined, Facts(state=_state_of(found.error)), expires)
    return Judged(joined, _tdx_facts(found.value, policy), expires)


def _tdx_facts(verified: tdx.VerifiedTdx, policy: AttestationPolicy) -> Facts:
    body = verified.quote.body
    return Facts(
        chip=verified.platform.ppid,
        model="TDX",
        registers={name: value.hex() for name, value in body.registers.items()},
        state=verified.tcb.status.value,
        debug=bool(body.td_attributes & _TD_DEBUG),
        approved="mrtd" in policy.tdx.pins,
    )


def _judge_tpm(cpu: CpuSection, policy: AttestationPolicy, nonce: bytes, at: datetime) -> Judged:
    found = appraise_tpm_section(cpu, policy.tpm, policy.gcp, nonce, at)
    if found.value is None:
        return Judged(found, Facts())
    facts = Facts(
        chip=found.value.ak_spki_sha256,
        registers=found.value.registers,
        secure_boot=found.value.secure_boot,
    )
    return Judged(found, facts)


def _judge_azure_snp(cpu: CpuSection, policy: AttestationPolicy, nonce: bytes, at: datetime) -> Judged:
    others, rest = _split_log(cpu.collateral)
    pieces = _snp_pieces(rest)
    given = {name: data for name, data in pieces.items() if data is not None}
    section = CpuSection(cpu.tee, cpu.evidence, {**given, **others})
    found = appraise_azure_snp_section(section, policy.snp, policy.tpm, policy.azure, nonce, at)
    if found.value is None:
        return Judged(found, Facts(), _earliest_expiry(pieces))
    hardware = snp_facts(found.value.hardware, approved="measurement" in policy.snp.pins)
    facts = replace(hardware, registers=found.value.registers, secure_boot=found.value.quote.secure_boot)
    return Judged(found, facts, _earliest_expiry(pieces))


def _judge_azure_tdx(cpu: CpuSection, policy: AttestationPolicy, nonce: bytes, at: datetime) -> Judged:
    others, rest = _split_log(cpu.collateral)
    pieces = _tdx_pieces(rest)
    section = CpuSection(cpu.tee, cpu.evidence, {**pieces, **others})
    found = appraise_azure_tdx_section(section, policy.tdx, policy.tpm, policy.azure, nonce, at)
    expires = _expiry_of(TdxCollateral.from_members(pieces))
    if found.value is None:
        return Judged(found, Facts(state=_state_of(found.error)), expires)
    hardware = _tdx_facts(found.value.hardware, policy)
    facts = replace(hardware, registers=found.value.registers, secure_boot=found.value.quote.secure_boot)
    return Judged(found, facts, expires)


_JUDGES: Final[Mapping[str, Callable[[CpuSection, AttestationPolicy, bytes, datetime], Judged]]] = {
    SEV_SNP: _judge_snp,
    TDX: _judge_tdx,
    TPM: _judge_tpm,
    AZURE_SNP: _judge_azure_snp,
    AZURE_TDX: _judge_azure_tdx,
}


def _with_report_data(
    found: Appraisal[Any], nonce: bytes, report_data: Callable[[], bytes]
) -> Appraisal[Any]:
    """The appraisal with a row that says whether the CPU signed the report data that was asked for."""
    checks = Checklist()
    if not nonce:
        checks.not_required("cpu.report_data", "no report data was asked for (--nonce)")
    elif found.rows[0].outcome is not Outcome.PASS:
        checks.not_evaluated("cpu.report_data", "the evidence cannot be read")
    else:
        checks.check("cpu.report_data", lambda: _require_equal(nonce, report_data()), "as asked for")
    error = found.error or checks.error
    return Appraisal((*found.rows, *checks.rows), error, None if error else found.value, found.simulated)


def _require_equal(expected: bytes, found: bytes) -> None:
    if found != expected:
        raise BindingMismatch(code="report_data_mismatch", expected=expected, found=found)


def _snp_pieces(collateral: Mapping[str, bytes]) -> dict[str, Any]:
    given = dict(collateral)
    if "cert_chain" in given:  # as AMD's service gives it: ASK, then ARK
        chain = read_pem(given.pop("cert_chain"))
        if len(chain) != 2:
            raise ChainUntrusted(code="chain_malformed", expected="two certificates", found=len(chain))
        given = {"ask": chain[0], "ark": chain[1], **given}
    unknown = sorted(given.keys() - {"vek", "ask", "ark", "crl"})
    if unknown:
        raise ChainUntrusted(code="collateral_unknown", stage="collateral", found=unknown[0])
    for name in ("vek", "ask", "ark"):
        if name not in given:
            raise ChainUntrusted(code="collateral_missing", stage="collateral", expected=name, retryable=True)
    return {name: _der(given.get(name)) for name in ("vek", "ask", "ark", "crl")}


def _der(data: bytes | None) -> bytes | None:
    if data is None or not data.lstrip().startswith(_PEM):
        return data
    found = read_pem(data)
    if len(found) != 1:
        raise ChainUntrusted(code="chain_malformed", expected="one certificate", found=len(found))
    return found[0]


def _tdx_pieces(collateral: Mapping[str, bytes]) -> dict[str, bytes]:
    """The pieces by name; one file ``collateral.json`` may hold them all."""
    if set(collateral) != {"collateral"}:
        return dict(collateral)
    whole = TdxCollateral.from_json(collateral["collateral"])
    return {name: getattr(whole, name) for name in TDX_NAMES}


def _split_log(collateral: Mapping[str, bytes]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    rest = dict(collateral)
    log = {"eventlog": rest.pop("eventlog")} if "eventlog" in rest else {}
    return log, rest


def _earliest_expiry(pieces: Mapping[str, bytes | None]) -> datetime | None:
    try:
        dates = [
            RevocationList.parse(data).next_update if name == "crl" else Certificate.parse(data).not_after
            for name, data in pieces.items()
            if data is not None
        ]
    except AttestationError:
        return None  # a row says so
    return min(dates, default=None)


def _expiry_of(collateral: TdxCollateral | None) -> datetime | None:
    try:
        return None if collateral is None else collateral.earliest_expiry()
    except AttestationError:
        return None  # a row says so


def _state_of(error: AttestationError | None) -> str:
    """Intel's word for a state that the policy does not accept."""
    if error is None or error.code != "tcb_status_not_accepted":
        return ""
    return str(error.found or "")
