"""``cloister verify --cpu-evidence``: stored evidence of a CPU, judged by itself at a stated time.

The kind of evidence is told by its content, or by name; each has its own verifier. What such a result says of
a CPU says nothing about who uses it: only a node's bundle binds a CPU to a key.
"""

import hashlib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from attestation import sev_snp
from attestation.bundle import CpuSection
from attestation.certificate import Certificate, RevocationList
from attestation.collateral_folder import read_collateral
from attestation.ear import Facts, Submodule, attestation_result, snp_facts
from attestation.errors import (
    AttestationError,
    BindingMismatch,
    ChainUntrusted,
    EvidenceMalformed,
    NotAvailable,
    PolicyRejected,
)
from attestation.evidence_kind import recognise
from attestation.policy import AttestationPolicy
from attestation.results import Appraisal, Checklist, Outcome, Row
from attestation.sev_snp_report import parse_report
from attestation.tdx import verify as tdx
from attestation.tdx.chain import read_pem
from attestation.tdx.collateral import TdxCollateral
from attestation.tdx.quote import parse_quote
from attestation.tees import AZURE_SNP, SEV_SNP, TDX, TEES, TPM
from attestation.tpm.section import appraise_azure_snp_section, appraise_tpm_section

from .errors import ClientError, PolicyError
from .policy import MAX_POLICY
from .render import SIMULATED_NOTICE

MAX_EVIDENCE: Final = 1024 * 1024
REFUSED: Final = 3

_NOT_OF_CPUS: Final = ("version", "name", "transparency")
_TD_DEBUG: Final = 1
_PEM: Final = b"-----BEGIN CERTIFICATE-----"
_STYLE: Final = {Outcome.PASS: "green", Outcome.FAIL: "bold red", Outcome.NOT_REQUIRED: "yellow"}
_MARK: Final = {Outcome.PASS: "✓ pass", Outcome.FAIL: "✗ fail", Outcome.NOT_REQUIRED: "– not required"}


@dataclass(frozen=True, slots=True)
class CpuVerification:
    """Every row, the first error or None, and what the evidence says where it was accepted."""

    tee: str
    rows: tuple[Row, ...]
    error: AttestationError | None
    simulated: bool
    facts: Facts
    at: datetime
    policy_digest: bytes
    evidence: bytes
    collateral: Mapping[str, bytes]
    nonce: bytes
    expires: datetime | None

    @property
    def status(self) -> int:
        """The command's exit status: 0 verified, 3 refused."""
        return 0 if self.error is None else REFUSED

    def to_json(self) -> dict[str, Any]:
        """The result as JSON can hold it."""
        error = self.error
        return {
            "verified": error is None,
            "tee": self.tee,
            "simulated": self.simulated,
            "at": f"{self.at:%Y-%m-%dT%H:%M:%SZ}",
            "policy_sha256": self.policy_digest.hex(),
            "evidence_sha256": hashlib.sha256(self.evidence).hexdigest(),
            "registers": dict(self.facts.registers),
            "tcb_status": self.facts.state or None,
            "rows": [
                {"id": row.id, "outcome": row.outcome.value, "code": row.code, "detail": row.detail}
                for row in self.rows
            ],
            "error": None
            if error is None
            else {
                "code": error.code,
                "stage": error.stage,
                "retryable": error.retryable,
                "expected": _plain(error.expected),
                "found": _plain(error.found),
                "detail": str(error),
            },
        }

    def to_ear(self, build: str) -> dict[str, Any]:
        """The result as an EAT Attestation Result; ``build`` names this program's version."""
        submodule = Submodule(
            kind=self.tee,
            rows=self.rows,
            accepted=self.error is None,
            simulated=self.simulated,
            evidence=self.evidence,
            collateral=self.collateral,
            expires=self.expires,
            facts=self.facts,
        )
        name = "vtpm" if self.tee == TPM else "cpu"
        return attestation_result(
            {name: submodule}, at=self.at, build=build, policy_digest=self.policy_digest, nonce=self.nonce
        )


@dataclass(frozen=True, slots=True)
class CpuPolicy:
    """What a policy file asks of CPUs. ``digest`` is SHA-256 of its bytes."""

    policy: AttestationPolicy
    digest: bytes


def verify_cpu_evidence(
    evidence: bytes,
    collateral: Mapping[str, bytes],
    policy: CpuPolicy,
    at: datetime,
    *,
    tee: str | None = None,
    nonce: bytes = b"",
) -> CpuVerification:
    """Judge stored CPU evidence by ``policy`` at the time ``at`` (aware).

    ``tee`` names its kind, which is told by its content otherwise. ``nonce``: what a TPM was asked with, or
    the 64 bytes of report data that a CPU must have signed; a TPM's quote is refused without one.
    """
    kind = tee or "unknown"
    facts, simulated, expires = Facts(), False, None
    try:
        kind = tee or recognise(evidence)
        _require_accepted(kind, policy.policy)
        judged = _JUDGES[kind](CpuSection(kind, evidence, collateral), policy.policy, nonce, at)
        rows, error = judged.appraisal.rows, judged.appraisal.error
        facts, simulated, expires = judged.facts, judged.appraisal.simulated, judged.expires
    except AttestationError as refusal:
        rows, error = (Row("cpu.format", Outcome.FAIL, str(refusal), refusal.code),), refusal
    if error is not None:
        facts = Facts(state=facts.state)
    return CpuVerification(
        kind, rows, error, simulated, facts, at, policy.digest, evidence, collateral, nonce, expires
    )


@dataclass(frozen=True, slots=True)
class _Judged:
    appraisal: Appraisal[Any]
    facts: Facts
    expires: datetime | None = None


def _require_accepted(kind: str, policy: AttestationPolicy) -> None:
    if kind not in TEES:
        raise EvidenceMalformed(code="evidence_unknown", expected=sorted(TEES), found=kind)
    if kind not in policy.tees:
        raise PolicyRejected(code="tee_not_accepted", expected=sorted(policy.tees), found=kind)
    if kind not in _JUDGES:
        raise NotAvailable(f"evidence of the kind {kind}")


def _judge_snp(cpu: CpuSection, policy: AttestationPolicy, nonce: bytes, at: datetime) -> _Judged:
    pieces = _snp_pieces(cpu.collateral)
    found = sev_snp.appraise(cpu.evidence, sev_snp.SnpCollateral(**pieces), policy.snp, at)
    joined = _with_report_data(found, nonce, lambda: parse_report(cpu.evidence).report_data)
    approved = "measurement" in policy.snp.pins
    facts = Facts() if found.value is None else snp_facts(found.value, approved=approved)
    return _Judged(joined, facts, _earliest_expiry(pieces))


def _judge_tdx(cpu: CpuSection, policy: AttestationPolicy, nonce: bytes, at: datetime) -> _Judged:
    found = tdx.appraise(cpu.evidence, _tdx_pieces(cpu.collateral), policy.tdx, at)
    joined = _with_report_data(found, nonce, lambda: parse_quote(cpu.evidence).body.report_data)
    if found.value is None:
        return _Judged(joined, Facts(state=_state_of(found.error)))
    body = found.value.quote.body
    facts = Facts(
        chip=found.value.platform.ppid,
        model="TDX",
        registers={name: value.hex() for name, value in body.registers.items()},
        state=found.value.tcb.status.value,
        debug=bool(body.td_attributes & _TD_DEBUG),
        approved=bool(policy.tdx.pins.get("mrtd")),
    )
    return _Judged(joined, facts)


def _judge_tpm(cpu: CpuSection, policy: AttestationPolicy, nonce: bytes, at: datetime) -> _Judged:
    found = appraise_tpm_section(cpu, policy.tpm, policy.gcp, nonce, at)
    if found.value is None:
        return _Judged(found, Facts())
    facts = Facts(
        chip=found.value.ak_spki_sha256,
        registers=found.value.registers,
        secure_boot=found.value.secure_boot,
    )
    return _Judged(found, facts)


def _judge_azure_snp(cpu: CpuSection, policy: AttestationPolicy, nonce: bytes, at: datetime) -> _Judged:
    others = {name: data for name, data in cpu.collateral.items() if name == "eventlog"}
    pieces = _snp_pieces({name: data for name, data in cpu.collateral.items() if name not in others})
    given = {name: data for name, data in pieces.items() if data is not None}
    section = CpuSection(cpu.tee, cpu.evidence, {**given, **others})
    found = appraise_azure_snp_section(section, policy.snp, policy.tpm, policy.azure, nonce, at)
    if found.value is None:
        return _Judged(found, Facts(), _earliest_expiry(pieces))
    hardware = snp_facts(found.value.hardware, approved="measurement" in policy.snp.pins)
    facts = Facts(
        chip=hardware.chip,
        model=hardware.model,
        registers=found.value.registers,
        debug=hardware.debug,
        secure_boot=found.value.quote.secure_boot,
        approved=hardware.approved,
    )
    return _Judged(found, facts, _earliest_expiry(pieces))


_JUDGES: Final[Mapping[str, Callable[[CpuSection, AttestationPolicy, bytes, datetime], _Judged]]] = {
    SEV_SNP: _judge_snp,
    TDX: _judge_tdx,
    TPM: _judge_tpm,
    AZURE_SNP: _judge_azure_snp,
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


def _tdx_pieces(collateral: Mapping[str, bytes]) -> TdxCollateral | None:
    if not collateral:
        return None
    if set(collateral) == {"collateral"}:
        return TdxCollateral.from_json(collateral["collateral"])
    return TdxCollateral.from_members(collateral)


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


def _state_of(error: AttestationError | None) -> str:
    """Intel's word for a state that the policy does not accept."""
    if error is None or error.code != "tcb_status_not_accepted":
        return ""
    return str(error.found or "")


def read_cpu_policy(path: Path | None) -> CpuPolicy:
    """What a policy file asks of CPUs, or strict production. Raises PolicyError, OSError.

    Unlike a node's policy it may leave [transparency] out, since a CPU by itself has no release.
    """
    if path is None:
        return CpuPolicy(AttestationPolicy.production(), hashlib.sha256(b"").digest())
    data = _read(path, MAX_POLICY)
    try:
        document = tomllib.loads(data.decode("utf-8"))
        tables = {name: value for name, value in document.items() if name not in _NOT_OF_CPUS}
        return CpuPolicy(AttestationPolicy.from_table(tables), hashlib.sha256(data).digest())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PolicyError("policy_malformed", f"not TOML: {error}") from error
    except AttestationError as error:
        raise PolicyError("policy_malformed", str(error)) from error


def read_cpu_evidence(path: Path, collateral: Path | None) -> tuple[bytes, dict[str, bytes]]:
    """A file of evidence, and the pieces in a folder of collateral. Raises ClientError, OSError."""
    data = _read(path, MAX_EVIDENCE)
    try:
        return data, {} if collateral is None else read_collateral(collateral)
    except AttestationError as error:
        raise ClientError(error.code, str(error)) from error


def parse_cpu_nonce(text: str | None) -> bytes:
    """A nonce in hexadecimal, of at most 64 bytes; none is empty. Raises ClientError."""
    try:
        nonce = bytes.fromhex(text or "")
    except ValueError:
        raise ClientError("usage", "--nonce takes hexadecimal digits") from None
    if len(nonce) > 64:
        raise ClientError("usage", "--nonce takes at most 64 bytes")
    return nonce


def show_cpu_verification(console: Console, result: CpuVerification) -> None:
    """Print every row, the verdict, and SIMULATED where the evidence is."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("check", "outcome", "detail"):
        table.add_column(name, no_wrap=name != "detail", overflow="fold")
    for row in result.rows:
        detail = f"[{row.code}] {row.detail}" if row.code else row.detail
        table.add_row(row.id, Text(_MARK[row.outcome], _STYLE[row.outcome]), Text(detail))
    console.print(table)
    if result.simulated:
        console.print(Text(SIMULATED_NOTICE, "bold black on yellow"))
    for name, value in result.facts.registers.items():
        console.print(Text(f"{name:<14} {value}"), soft_wrap=True)
    if result.error is None:
        console.print(
            Text.assemble(("verified", "bold green"), f"  {result.tee} at {result.at:%Y-%m-%d %H:%M:%SZ}")
        )
    else:
        console.print(
            Text.assemble(("refused", "bold red"), f"  {result.error.code} at {result.error.stage}")
        )


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ClientError("too_large", f"{path} has more than {limit} bytes")
    return data


def _plain(value: object) -> str | None:
    if value is None:
        return None
    return value.hex() if isinstance(value, bytes) else str(value)
