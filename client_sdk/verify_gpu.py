"""``cloister verify --gpu-evidence`` and ``--local-gpu``: GPUs by themselves, without a node around them.

Evidence is judged as NVIDIA's own tools store it (a JSON list), against a nonce that the caller knows; the
machine at hand is looked at through NVIDIA's library, and what it lacks is said row by row. What such a
result says of a GPU says nothing about who uses it: only a node's bundle binds GPUs to a key.
"""

import os
import tomllib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from attestation.errors import AttestationError
from attestation.nvidia.claim_rules import MAX_RULES, ClaimRules
from attestation.nvidia.collateral_folder import read_collateral
from attestation.nvidia.collect import NvmlGpus
from attestation.nvidia.evidence import MAX_SECTION, GpuEvidence, encode_evidence_list, parse_evidence_list
from attestation.nvidia.local_claims import LocalClaims, local_claims
from attestation.nvidia.machine import Machine, inspect_machine
from attestation.nvidia.nvml import load_library
from attestation.nvidia.policy import GpuPolicy
from attestation.nvidia.verify import appraise_gpu_section
from attestation.policy import AttestationPolicy
from attestation.results import Outcome, Row

from .errors import ClientError, PolicyError
from .policy import MAX_POLICY
from .render import SIMULATED_NOTICE, printable, with_code

REFUSED: Final = 3
NOT_AVAILABLE: Final = 2

_NOT_OF_GPUS: Final = ("version", "name", "transparency")

_STYLE: Final = {Outcome.PASS: "green", Outcome.FAIL: "bold red", Outcome.NOT_REQUIRED: "yellow"}
_MARK: Final = {Outcome.PASS: "✓ pass", Outcome.FAIL: "✗ fail", Outcome.NOT_REQUIRED: "– not required"}


@dataclass(frozen=True, slots=True)
class GpuVerification:
    """Every row, the first error or None, and NVIDIA's claims about each verified device.

    ``status`` is the command's exit status: 0, 2 (this machine cannot give evidence) or 3 (refused). ``identities``:
    SHA-256 (hexadecimal) of each verified device, as the register of a policy (``[gpu] identities``) has it.
    """

    rows: tuple[Row, ...]
    error: AttestationError | None
    claims: LocalClaims | None
    simulated: bool
    status: int
    at: datetime
    identities: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The result as JSON can hold it."""
        return {
            "verified": self.error is None,
            "simulated": self.simulated,
            "at": f"{self.at:%Y-%m-%dT%H:%M:%SZ}",
            "rows": [
                {"id": row.id, "outcome": row.outcome.value, "code": row.code, "detail": row.detail}
                for row in self.rows
            ],
            "error": None
            if self.error is None
            else {"code": self.error.code, "stage": self.error.stage, "detail": str(self.error)},
            "claims": None if self.claims is None else self.claims.to_json(),
            "identities": list(self.identities),
        }


def verify_evidence(
    evidence: bytes,
    nonce: bytes,
    policy: GpuPolicy,
    at: datetime,
    *,
    rim_dir: Path | None = None,
) -> GpuVerification:
    """Judge a JSON list of GPU evidence by ``policy`` at the time ``at`` (aware).

    ``nonce``: the 32 bytes that the devices were asked with. ``rim_dir``: a folder of reference manifests and
    OCSP responses.
    """
    return _appraise(evidence, nonce, policy, at, rim_dir)


def verify_local(
    policy: GpuPolicy,
    now: Callable[[], datetime],
    *,
    load: Callable[[], Any] = load_library,
    entropy: Callable[[int], bytes] = os.urandom,
    rim_dir: Path | None = None,
) -> GpuVerification:
    """Look at this machine's GPUs, and judge the evidence they give where they can give any.

    ``load`` gives NVIDIA's library, ``entropy(n)`` n random bytes for the nonce.
    """
    machine = inspect_machine(load)
    if not machine.attestable:
        return GpuVerification(machine.rows, machine.error, None, False, NOT_AVAILABLE, now())
    nonce = entropy(32)
    try:
        with closing(NvmlGpus(load(), machine.gpus)) as gpus:
            section = gpus.evidence(nonce)
    except AttestationError as error:
        row = Row("local.evidence", Outcome.FAIL, str(error), error.code)
        return GpuVerification((*machine.rows, row), error, None, False, NOT_AVAILABLE, now())
    return _appraise(section, nonce, policy, now(), rim_dir, machine)


def read_gpu_policy(path: Path | None, claim_rules: Path | None = None) -> GpuPolicy:
    """What a policy file asks of GPUs, or strict production, with a policy file of NVIDIA's tools added to it.

    Raises PolicyError, or ClientError for the rules.

    Unlike a node's policy it may leave [transparency] out, since GPUs by themselves have no release.
    """
    policy = GpuPolicy.production() if path is None else _load_policy(path)
    return policy if claim_rules is None else replace(policy, claim_rules=_load_rules(claim_rules))


def read_evidence(paths: Sequence[Path]) -> bytes:
    """The evidence in these files, as one list: NVIDIA's tools write GPUs and NVSwitches apart.

    Raises ClientError where a file is too large, or where one of several is no evidence.
    """
    sections = []
    for path in paths:
        with path.open("rb") as file:
            data = file.read(MAX_SECTION + 1)
        if len(data) > MAX_SECTION:
            raise ClientError("evidence_too_large", f"{path} has more than {MAX_SECTION} bytes")
        sections.append(data)
    if len(sections) == 1:
        return sections[0]
    try:
        return encode_evidence_list([entry for data in sections for entry in parse_evidence_list(data)])
    except AttestationError as error:
        raise ClientError(error.code, error.detail) from error


def parse_nonce(text: str | None) -> bytes:
    """A nonce of 32 bytes in hexadecimal. Raises ClientError: it is never taken from the evidence itself."""
    if text is None:
        raise ClientError(
            "usage", "--gpu-evidence needs --nonce", "the 32 bytes (hex) that you asked the GPUs with"
        )
    try:
        nonce = bytes.fromhex(text)
    except ValueError:
        nonce = b""
    if len(nonce) != 32 or len(text) != 64:
        raise ClientError("usage", "--nonce is not 32 bytes in hexadecimal")
    return nonce


def show_gpu_verification(console: Console, result: GpuVerification) -> None:
    """Print every row and the verdict."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("check", no_wrap=True)
    table.add_column("outcome", no_wrap=True)
    table.add_column("detail", overflow="fold")
    for row in result.rows:
        detail = with_code(row.code, row.detail)
        style = "red" if row.outcome is Outcome.FAIL else ""
        table.add_row(row.id, Text(_MARK[row.outcome], _STYLE[row.outcome]), Text(printable(detail), style))
    console.print(table)
    if result.simulated:
        console.print(Text(SIMULATED_NOTICE, "bold black on yellow"))
    if result.error is None:
        count = 0 if result.claims is None else len(result.claims.devices)
        console.print(
            Text.assemble(("verified", "bold green"), f"  {count} device{'' if count == 1 else 's'}")
        )
    elif result.status == NOT_AVAILABLE:
        console.print(Text.assemble(("no evidence", "bold red"), f"  {result.error.code}"))
    else:
        console.print(
            Text.assemble(("refused", "bold red"), f"  {result.error.code} at {result.error.stage}")
        )


def _appraise(
    section: bytes,
    nonce: bytes,
    policy: GpuPolicy,
    at: datetime,
    rim_dir: Path | None,
    before: Machine | None = None,
) -> GpuVerification:
    collateral = _collateral(rim_dir, section, policy, at)
    appraisal = appraise_gpu_section(section, nonce, policy, at, collateral)
    rows, error = appraisal.rows, appraisal.error
    if before is not None:
        taken = Row("local.evidence", Outcome.PASS, f"{before.gpus} reports over a fresh nonce")
        rows, error = (*before.rows, taken, *rows), before.error or error
    claims = None if appraisal.error else local_claims(appraisal.gpus, appraisal.switches, at)
    identities = (
        *(gpu.identity_sha256.hex() for gpu in appraisal.gpus),
        *(switch.identity_sha256.hex() for switch in appraisal.switches),
    )
    return GpuVerification(rows, error, claims, appraisal.simulated, REFUSED if error else 0, at, identities)


def _load_policy(path: Path) -> GpuPolicy:
    with path.open("rb") as file:
        data = file.read(MAX_POLICY + 1)
    if len(data) > MAX_POLICY:
        raise PolicyError("policy_too_large", f"a policy has at most {MAX_POLICY} bytes")
    try:
        document = tomllib.loads(data.decode("utf-8"))
        tables = {name: value for name, value in document.items() if name not in _NOT_OF_GPUS}
        return AttestationPolicy.from_table(tables).gpu
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PolicyError("policy_malformed", f"not TOML: {error}") from error
    except AttestationError as error:
        raise PolicyError("policy_malformed", str(error)) from error


def _load_rules(path: Path) -> ClaimRules:
    with path.open("rb") as file:
        data = file.read(MAX_RULES + 1)
    try:
        return ClaimRules.parse(data)
    except AttestationError as error:
        raise ClientError(error.code, f"{path}: {error.detail}") from error


def _collateral(rim_dir: Path | None, section: bytes, policy: GpuPolicy, at: datetime) -> dict[str, bytes]:
    if rim_dir is None:
        return {}
    try:
        entries: Sequence[GpuEvidence] = parse_evidence_list(section)
    except AttestationError:
        return {}  # the appraisal says why
    try:
        return read_collateral(rim_dir, entries, policy, at)
    except AttestationError as error:
        raise ClientError(error.code, error.detail) from error
