"""``cloister verify --cpu-evidence``: stored evidence of a CPU, judged by itself at a stated time.

The kind of evidence is told by its content, or by name; each has its own verifier. What such a result says of
a CPU says nothing about who uses it: only a node's bundle binds a CPU to a key.
"""

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from attestation.collateral_folder import read_collateral
from attestation.ear import Facts, Submodule, attestation_result
from attestation.errors import AttestationError
from attestation.evidence_kind import recognise
from attestation.policy import AttestationPolicy
from attestation.results import Outcome, Row
from attestation.tees import TPM

from .cpu_appraisals import judge
from .errors import ClientError, PolicyError
from .policy import MAX_POLICY
from .render import SIMULATED_NOTICE, printable, with_code

MAX_EVIDENCE: Final = 1024 * 1024
REFUSED: Final = 3

_NOT_OF_CPUS: Final = ("version", "name", "transparency")
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
        judged = judge(kind, evidence, collateral, policy.policy, nonce, at)
        rows, error = judged.appraisal.rows, judged.appraisal.error
        facts, simulated, expires = judged.facts, judged.appraisal.simulated, judged.expires
    except AttestationError as refusal:
        rows, error = (Row("cpu.format", Outcome.FAIL, str(refusal), refusal.code),), refusal
    if error is not None:
        facts = Facts(state=facts.state)
    return CpuVerification(
        kind, rows, error, simulated, facts, at, policy.digest, evidence, collateral, nonce, expires
    )


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
        detail = with_code(row.code, row.detail)
        table.add_row(row.id, Text(_MARK[row.outcome], _STYLE[row.outcome]), Text(printable(detail)))
    console.print(table)
    if result.simulated:
        console.print(Text(SIMULATED_NOTICE, "bold black on yellow"))
    for name, value in result.facts.registers.items():
        console.print(Text(printable(f"{name:<14} {value}")), soft_wrap=True)
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
