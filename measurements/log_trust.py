"""What every check against a log begins with: the policy's own age, one history, and who may sign now."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from .checkpoint import Checkpoint, SignedCheckpoint
from .errors import Code, TransparencyError
from .merkle import leaf_hash
from .note import VerifierKey
from .policy import TransparencyPolicy
from .release import open_leaf
from .signer_set import SignerSet
from .statement import instant_text
from .tlog_proof import TlogProof


@dataclass(frozen=True, slots=True)
class Appointed:
    """Who signs now: ``threshold`` of ``signers``; ``signer_set`` where roots appointed them in the log."""

    signers: tuple[VerifierKey, ...]
    threshold: int
    signer_set: SignerSet | None = None


def require_trust(policy: TransparencyPolicy, at: datetime, *, stage: str) -> None:
    """Raises TransparencyError (TRUST_ROOT_VALIDITY) where the policy's own time is over."""
    if policy.not_after is not None and at >= policy.not_after:
        raise TransparencyError(
            Code.TRUST_ROOT_VALIDITY,
            "the policy's trust has ended",
            stage=stage,
            expected=f"before {instant_text(policy.not_after)}",
            found=instant_text(at),
        )


def require_one_history(views: Iterable[SignedCheckpoint], *, stage: str) -> None:
    """Two signed roots at one size prove by themselves that the log misbehaved. Raises TransparencyError
    (SPLIT_VIEW).
    """
    seen: dict[int, SignedCheckpoint] = {}
    for signed in views:
        before = seen.setdefault(signed.checkpoint.size, signed)
        if before.checkpoint.root != signed.checkpoint.root:
            raise TransparencyError(
                Code.SPLIT_VIEW,
                f"two roots of {signed.checkpoint.origin} at size {signed.checkpoint.size}",
                stage=stage,
                expected=before.checkpoint.root.hex(),
                found=signed.checkpoint.root.hex(),
                evidence=(before.raw, signed.raw),
            )


def require_leaf(name: str, leaf: bytes, proof: TlogProof, tree: Checkpoint, *, stage: str) -> None:
    """Whether ``leaf`` is in the tree that the caller has verified. Raises TransparencyError (PROOF_MISSING,
    INCLUSION_INVALID).
    """
    if not leaf:
        raise TransparencyError(Code.PROOF_MISSING, f"no {name} leaf", stage=stage)
    proof.verify_leaf(leaf_hash(leaf), tree)


def named_signers(policy: TransparencyPolicy) -> Appointed:
    """Those that the policy names itself; nobody where it names roots."""
    return Appointed(policy.signers, policy.threshold)


def appointed_signers(
    policy: TransparencyPolicy, leaf: bytes, proof: TlogProof, tree: Checkpoint, at: datetime
) -> Appointed:
    """Those of the set in ``leaf``, by the policy's roots.

    Raises TransparencyError: as ``require_leaf``, ``open_leaf`` and ``SignerSet.judge``; IDENTITY_MISMATCH for a
    signer that plays another part.
    """
    stage = "log.signers"
    require_leaf("signers", leaf, proof, tree, stage=stage)
    listed = SignerSet.parse(open_leaf(leaf, policy.roots, policy.root_threshold))
    listed.judge(policy.channel, at, max_future_s=policy.max_future_s)
    others = {key.public_key for key in (policy.log, *policy.trust.witnesses.values(), *policy.roots)}
    if others & {key.public_key for key in listed.signers}:
        raise TransparencyError(
            Code.IDENTITY_MISMATCH, "a signer has the key of the log, a witness or a root", stage=stage
        )
    return Appointed(listed.signers, listed.threshold, listed)
