"""What a node staples about its release, and how a client checks it: offline, in one order, failing closed.

The client asks no log about the node that it is about to use; everything is in the staple. ``check_staple``
reports every row it can still evaluate, and its first failure is the verdict.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Final

from . import strict_base64
from .checkpoint import SignedCheckpoint
from .cosignature import Cosignature
from .decision import judge_active, judge_release, judge_status
from .dsse import Envelope
from .errors import Code, TransparencyError
from .log_trust import (
    appointed_signers,
    named_signers,
    require_leaf,
    require_one_history,
    require_trust,
)
from .merkle import leaf_hash
from .policy import SIGSTORE_ONLY, TLOG, TransparencyPolicy
from .release import Release, Status, open_leaf
from .results import NOT_EVALUATED, Appraisal, Outcome, Row
from .rollback import RollbackMemory, Sighting, check_views
from .statement import canonical, instant_text, malformed, parse_canonical, record, utc
from .tlog_policy import NONE
from .tlog_proof import TlogProof
from .unlisted import check_unlisted
from .verified_release import VerifiedRelease, verified

__all__ = ["MAX_STAPLE", "Staple", "VerifiedRelease", "check_staple"]

MAX_STAPLE: Final = 256 * 1024
"""Bytes of a staple as proofs, leaves and checkpoint together."""
_MAX_FILE: Final = 400 * 1024
_VERSION: Final = 1
_OPTIONAL: Final = frozenset({"sigstore", "signers_proof", "signers_leaf"})


@dataclass(frozen=True, slots=True)
class Staple:
    """The file a node reads at boot.

    Proofs are tlog-proof texts, leaves log entries, ``checkpoint`` a signed note, ``sigstore`` a Sigstore
    bundle over the same release statement, ``signers_proof`` and ``signers_leaf`` the set of signers; these three
    are empty where there is none.
    """

    release_proof: bytes
    release_leaf: bytes
    status_proof: bytes
    status_leaf: bytes
    checkpoint: bytes
    sigstore: bytes = b""
    signers_proof: bytes = b""
    signers_leaf: bytes = b""

    def encode(self) -> bytes:
        """Canonical JSON with a version and base64 members."""
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        members = {
            name: strict_base64.encode(value)
            for name, value in held.items()
            if value or name not in _OPTIONAL
        }
        return canonical({"v": _VERSION, **members})

    @classmethod
    def parse(cls, data: bytes) -> "Staple":
        """Read the file's bytes. Raises TransparencyError (STATEMENT_MALFORMED, LIMIT_EXCEEDED)."""
        value = record(parse_canonical(data, limit=_MAX_FILE), "staple")
        names = {field.name for field in fields(cls)}
        # In Python true is 1, in JSON it is not.
        if set(value) | _OPTIONAL != {"v", *names} or type(value["v"]) is not int or value["v"] != _VERSION:
            raise malformed("not a staple of a known version")
        try:
            members = {name: strict_base64.decode(value[name]) for name in names & set(value)}
        except (ValueError, AttributeError) as error:
            raise malformed("a member of a staple is not base64") from error
        if sum(map(len, members.values())) > MAX_STAPLE:
            raise TransparencyError(
                Code.LIMIT_EXCEEDED, "staple", stage="staple", expected=f"≤ {MAX_STAPLE} B"
            )
        return cls(**members)


def check_staple(
    *,
    release_proof: bytes,
    release_leaf: bytes,
    status_proof: bytes,
    status_leaf: bytes,
    checkpoint: bytes,
    policy: TransparencyPolicy,
    at: datetime,
    memory: RollbackMemory,
    sigstore: bytes = b"",
    signers_proof: bytes = b"",
    signers_leaf: bytes = b"",
) -> Appraisal[VerifiedRelease]:
    """Check a staple against ``policy`` at the time ``at`` (aware). Never raises for what a node sent.

    Rows: log.signature log.witness log.signers log.status log.release log.active log.sigstore log.rollback.
    ``memory`` is written only where every row passed. The measured registers are the caller's next step, with
    ``VerifiedRelease``.
    """
    at = utc(at)
    if policy.profile == SIGSTORE_ONLY:
        return check_unlisted(sigstore, policy, at)
    staple = Staple(
        release_proof=release_proof,
        release_leaf=release_leaf,
        status_proof=status_proof,
        status_leaf=status_leaf,
        checkpoint=checkpoint,
        sigstore=sigstore,
        signers_proof=signers_proof,
        signers_leaf=signers_leaf,
    )
    return _Check(staple, policy, at, memory).run()


class _Check:
    """One pass over a staple: rows in order, the first error kept."""

    def __init__(
        self, staple: Staple, policy: TransparencyPolicy, at: datetime, memory: RollbackMemory
    ) -> None:
        self.staple = staple
        self.policy = policy
        self.at = at
        self.memory = memory
        self.rows: list[Row] = []
        self.error: TransparencyError | None = None
        self.proofs: dict[str, TlogProof] = {}
        self.trees: dict[str, SignedCheckpoint] = {}
        self.appointed = named_signers(policy)
        self.status: Status | None = None
        self.release: Release | None = None
        self.value: VerifiedRelease | None = None

    def run(self) -> Appraisal[VerifiedRelease]:
        signed = self.step("log.signature", self.signature)
        self.step("log.witness", self.witness, needs=signed)
        named = self.step("log.signers", self.check_signers, needs=signed)
        self.step("log.status", self.check_status, needs=named)
        self.step("log.release", self.check_release, needs=named)
        listed = self.status is not None and self.release is not None
        self.step("log.active", self.active, needs=listed)
        self.step(
            "log.sigstore", self.sigstore, needs=self.policy.profile == TLOG or self.release is not None
        )
        self.step("log.rollback", self.rollback, needs=signed and listed)
        return Appraisal(tuple(self.rows), self.error, self.value if self.error is None else None)

    def step(self, row: str, check: Callable[[], tuple[Outcome, str]], *, needs: bool = True) -> bool:
        """Record one row; False where it failed. A row that lacks its inputs fails as not evaluated."""
        if not needs:
            self.rows.append(Row(row, Outcome.FAIL, "an earlier check failed", NOT_EVALUATED))
            return False
        try:
            outcome, detail = check()
        except TransparencyError as error:
            self.rows.append(Row(row, Outcome.FAIL, str(error), error.code))
            self.error = self.error or error
            return False
        self.rows.append(Row(row, outcome, detail))
        return True

    def signature(self) -> tuple[Outcome, str]:
        staple, policy = self.staple, self.policy
        require_trust(policy, self.at, stage="log.signature")
        if sum(len(getattr(staple, field.name)) for field in fields(staple)) > MAX_STAPLE:
            raise TransparencyError(
                Code.LIMIT_EXCEEDED, "staple", stage="log.signature", expected=f"≤ {MAX_STAPLE} B"
            )
        if not staple.status_proof or not staple.status_leaf:
            raise TransparencyError(Code.STATUS_MISSING, "no status is stapled", stage="log.signature")
        if not staple.checkpoint:
            raise TransparencyError(Code.PROOF_MISSING, "no checkpoint is stapled", stage="log.signature")
        self.proofs = {
            "status": TlogProof.parse(staple.status_proof),
            "release": TlogProof.parse(staple.release_proof),
        }
        if policy.roots:
            self.proofs["signers"] = TlogProof.parse(staple.signers_proof)
        notes = {
            "newest": staple.checkpoint,
            **{name: proof.checkpoint for name, proof in self.proofs.items()},
        }
        opened: dict[bytes, SignedCheckpoint] = {}
        for name, note in notes.items():
            if note not in opened:
                opened[note] = policy.trust.open(note)
            self.trees[name] = opened[note]
        require_one_history(opened.values(), stage="log.signature")
        tree = self.trees["newest"].checkpoint
        return Outcome.PASS, f"{tree.origin} at size {tree.size:,}"

    def witness(self) -> tuple[Outcome, str]:
        policy = self.policy
        counted: tuple[Cosignature, ...] = ()
        # Mostly the three rest on one note, and a signature is verified once.
        verified_notes: dict[bytes, tuple[Cosignature, ...]] = {}
        # The release may rest on an old tree; the status, and what the node calls newest, may not.
        for name, age, soak in (
            ("status", policy.max_checkpoint_age_s, 0),
            ("newest", policy.max_checkpoint_age_s, 0),
            ("release", None, policy.soak_s),
            *([("signers", None, 0)] if policy.roots else []),
        ):
            tree = self.trees[name]
            if tree.raw not in verified_notes:
                verified_notes[tree.raw] = policy.trust.cosignatures(tree)
            counted = policy.trust.count(
                verified_notes[tree.raw],
                at=self.at,
                max_age_s=age,
                max_future_s=policy.max_future_s,
                min_age_s=soak,
            )
        if policy.trust.quorum == NONE:
            return Outcome.NOT_REQUIRED, "the policy asks for no witness"
        names = sorted({cosignature.key.name for cosignature in counted})
        return Outcome.PASS, f"cosigned by {', '.join(names)}"

    def check_signers(self) -> tuple[Outcome, str]:
        policy = self.policy
        if not policy.roots:
            return Outcome.NOT_REQUIRED, "the policy names the signers itself"
        self.appointed = appointed_signers(
            policy,
            self.staple.signers_leaf,
            self.proofs["signers"],
            self.trees["signers"].checkpoint,
            self.at,
        )
        listed = self.appointed.signer_set
        assert listed is not None
        return (
            Outcome.PASS,
            f"set {listed.sequence}: {listed.threshold} of {len(listed.signers)}, "
            f"until {instant_text(listed.not_after)}",
        )

    def check_status(self) -> tuple[Outcome, str]:
        self.prove("status", self.staple.status_leaf)
        statement = open_leaf(self.staple.status_leaf, self.appointed.signers, self.appointed.threshold)
        status = Status.parse(statement)
        judge_status(status, self.policy, self.at)
        self.status = status
        return (
            Outcome.PASS,
            f"status {status.sequence} of {status.channel}, until {instant_text(status.expires_at)}, "
            f"{len(status.active)} active",
        )

    def check_release(self) -> tuple[Outcome, str]:
        self.prove("release", self.staple.release_leaf)
        statement = open_leaf(self.staple.release_leaf, self.appointed.signers, self.appointed.threshold)
        release = Release.parse(statement)
        judge_release(release, self.policy)
        self.release = release
        return Outcome.PASS, f"{release.name} {release.version}, entry {self.proofs['release'].index}"

    def prove(self, name: str, leaf: bytes) -> None:
        require_leaf(name, leaf, self.proofs[name], self.trees[name].checkpoint, stage=f"log.{name}")

    def active(self) -> tuple[Outcome, str]:
        assert self.status is not None
        assert self.release is not None
        leaf = leaf_hash(self.staple.release_leaf)
        judge_active(self.release, leaf, self.status, self.policy, self.at)
        until = instant_text(self.release.not_after)
        return Outcome.PASS, f"listed in status {self.status.sequence}, not revoked, valid until {until}"

    def sigstore(self) -> tuple[Outcome, str]:
        policy = self.policy
        if policy.profile == TLOG or policy.sigstore is None:
            return Outcome.NOT_REQUIRED, "the policy asks for no Sigstore bundle"
        # Here, not above: who asks for no bundle never loads what judges one.
        from .sigstore.release_bundle import verify_release_bundle

        statement = verify_release_bundle(
            self.staple.sigstore,
            policy.sigstore,
            at=self.at,
            max_future_s=policy.max_future_s,
            payload=Envelope.parse(self.staple.release_leaf).payload,
        )
        return Outcome.PASS, statement.signature.sentence()

    def rollback(self) -> tuple[Outcome, str]:
        assert self.status is not None
        assert self.release is not None
        status, tree, appointed = self.status, self.trees["newest"].checkpoint, self.appointed.signer_set
        sighting = Sighting(
            log=tree.origin,
            channel=self.policy.channel,
            status_sequence=status.sequence,
            status=leaf_hash(self.staple.status_leaf),
            min_release_sequence=status.min_release_sequence,
            size=tree.size,
            root=tree.root,
            checkpoint=self.staple.checkpoint,
            signers_sequence=appointed.sequence if appointed else 0,
            signers=leaf_hash(self.staple.signers_leaf) if appointed else b"",
        )
        check_views(self.memory, sighting, self.trees.values())
        if self.error is not None:
            self.memory.check(sighting)
            return Outcome.PASS, "not older than what was seen; nothing is remembered of a refused node"
        self.memory.advance(sighting)
        self.value = verified(
            self.release,
            leaf_hash=leaf_hash(self.staple.release_leaf),
            index=self.proofs["release"].index,
            log=tree.origin,
            tree_size=tree.size,
            status_sequence=status.sequence,
            status_issued_at=status.issued_at,
            status_expires_at=status.expires_at,
        )
        return Outcome.PASS, f"not older than what was seen: status {status.sequence}, size {tree.size:,}"
