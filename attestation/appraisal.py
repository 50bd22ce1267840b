"""The appraisal of a node's evidence, in the order of docs/protocol.md §4: CPU, GPUs, what both vouch for.

Nothing here raises for what a node sent: each function gives rows with stable ids, the first error, and a
value only where all of them passed. After a failure, every row that can still be evaluated is.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from .bundle import EvidenceBundle
from .claims import Claims
from .cpu_appraisal import CPU_CHECKS, VerifiedCpu, appraise_cpu
from .errors import AttestationError, BindingMismatch
from .policy import AttestationPolicy
from .results import NOT_EVALUATED, Appraisal, Checklist

if TYPE_CHECKING:
    from .nvidia.verify import VerifiedGpu, VerifiedSwitch

__all__ = [
    "CPU_CHECKS",
    "VerifiedCpu",
    "VerifiedGpus",
    "appraise_bindings",
    "appraise_cpu",
    "appraise_gpus",
]


@dataclass(frozen=True, slots=True)
class VerifiedGpus:
    """All GPUs of a node, genuine, accepted and bound to its key; none where the policy takes none."""

    gpus: "tuple[VerifiedGpu, ...]"
    simulated: bool
    switches: "tuple[VerifiedSwitch, ...]" = ()


def appraise_gpus(
    bundle: EvidenceBundle, claims: Claims | None, policy: AttestationPolicy, at: datetime
) -> Appraisal[VerifiedGpus]:
    """Check all GPUs' evidence, that each answers this node's nonce, and that the claims name this evidence.

    ``claims`` come from ``appraise_cpu``; without them nonce and binding are not evaluated: a failure.
    """
    from .nvidia.verify import appraise_gpu_section

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


def _expected_nonce(bundle: EvidenceBundle, claims: Claims) -> bytes | None:
    from .nvidia.verify import count_gpus

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
