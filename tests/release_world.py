"""A small world for tests: a log in memory, one witness, one release signer, and every key to misuse them with."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from measurements.checkpoint import Checkpoint
from measurements.cosignature import cosign
from measurements.merkle import leaf_hash, prove_inclusion, tree_hash
from measurements.note import COSIGNATURE_ED25519, Note
from measurements.policy import TransparencyPolicy
from measurements.release import Release, Status, sign_leaf
from measurements.results import Appraisal
from measurements.rollback import RollbackMemory, VolatileMemory
from measurements.signing_key import SigningKey
from measurements.staple import Staple, check_staple
from measurements.statement import Subject
from measurements.tlog_policy import TlogPolicy
from measurements.tlog_proof import TlogProof
from measurements.verified_release import VerifiedRelease

AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
DIGEST = "ab" * 48


@dataclass
class World:
    """Honest by default; every method takes what a dishonest party would change."""

    log: SigningKey = field(default_factory=lambda: SigningKey.generate("log.example/releases"))
    witness: SigningKey = field(
        default_factory=lambda: SigningKey.generate("witness.example", COSIGNATURE_ED25519)
    )
    signer: SigningKey = field(default_factory=lambda: SigningKey.generate("releases.example"))

    def policy(self, **changes: Any) -> TransparencyPolicy:
        trust = TlogPolicy.threshold(self.log.public, [self.witness.public], 1)
        return replace(TransparencyPolicy(trust, (self.signer.public,), 1, "prod"), **changes)

    def release(self, digest: str = DIGEST, *, sequence: int = 1, signer: SigningKey | None = None) -> bytes:
        release = Release(
            name="acme/node",
            channel="prod",
            version=f"1.{sequence}",
            sequence=sequence,
            not_before=AT - timedelta(days=1),
            not_after=AT + timedelta(days=30),
            subjects=(Subject("image", "cd" * 32),),
            measurements=({"tee": "sev-snp", "launchDigest": digest},),
        )
        return sign_leaf(release.statement(), [signer or self.signer])

    def status(self, active: Sequence[bytes], *, signer: SigningKey | None = None, **changes: Any) -> bytes:
        status = Status(
            channel="prod",
            sequence=1,
            issued_at=AT - timedelta(hours=1),
            expires_at=AT + timedelta(hours=47),
            min_release_sequence=1,
            active=tuple(leaf_hash(leaf).hex() for leaf in active),
        )
        return sign_leaf(replace(status, **changes).statement(), [signer or self.signer])

    def sign_tree(self, leaves: Sequence[bytes]) -> Note:
        checkpoint = Checkpoint(self.log.public.name, len(leaves), tree_hash(map(leaf_hash, leaves)))
        return Note(checkpoint.text, (self.log.sign_note(checkpoint.text),))

    def cosigned(self, note: Note, at: datetime = AT, witness: SigningKey | None = None) -> Note:
        line = cosign(witness or self.witness, note.text, int(at.timestamp()))
        return Note(note.text, (*note.signatures, line))

    def proof(self, leaf: bytes, leaves: Sequence[bytes], note: Note) -> bytes:
        """A proof of ``leaf``; where the tree does not hold it, the proof of entry 0."""
        index = list(leaves).index(leaf) if leaf in leaves else 0
        hashes = [leaf_hash(entry) for entry in leaves]

        def node(level: int, at: int) -> bytes:
            return tree_hash(hashes[at << level : (at + 1) << level])

        return TlogProof(index, prove_inclusion(index, len(hashes), node), note.encode()).encode()

    def staple(
        self,
        release: bytes,
        status: bytes,
        *,
        leaves: Sequence[bytes] | None = None,
        note: Note | None = None,
    ) -> Staple:
        logged = [release, status] if leaves is None else list(leaves)
        signed = note or self.cosigned(self.sign_tree(logged))
        return Staple(
            release_proof=self.proof(release, logged, signed),
            release_leaf=release,
            status_proof=self.proof(status, logged, signed),
            status_leaf=status,
            checkpoint=signed.encode(),
        )

    def check(
        self,
        staple: Staple,
        *,
        policy: TransparencyPolicy | None = None,
        at: datetime = AT,
        memory: RollbackMemory | None = None,
    ) -> Appraisal[VerifiedRelease]:
        return check_staple(
            release_proof=staple.release_proof,
            release_leaf=staple.release_leaf,
            status_proof=staple.status_proof,
            status_leaf=staple.status_leaf,
            checkpoint=staple.checkpoint,
            policy=policy or self.policy(),
            at=at,
            memory=memory or VolatileMemory(),
        )
