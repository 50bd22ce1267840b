"""Publishing: a release and the status that lists it go into the log, staples for nodes come out.

LOG/keys/log.key, LOG/witness/witness.key   secrets, outside of what is served
LOG/staples/<leaf hash>.json                one staple per active release
LOG/proofs/<leaf hash>.tlog-proof           a release's first proof: how long it has been listed (soak)
LOG/public/sigstore/<leaf hash>.json        its Sigstore bundle, where it has one
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from .checkpoint import SignedCheckpoint, open_checkpoint
from .cosigning import Cosigner
from .dsse import Envelope
from .durable import make_folder, replace_file
from .errors import Code, LogError, TransparencyError
from .listing import Entry, ListedRelease, ListedSet, ListedStatus, Listing, read_entry
from .log import TileLog
from .merkle import TreeFold, leaf_hash, prove_inclusion
from .note import COSIGNATURE_ED25519, VerifierKey
from .policy import MAX_RELEASE_VALIDITY, MAX_STATUS_LIFETIME
from .release import Release, Revocation, Status, sign_leaf
from .release_signature import ReleaseSignature, load_bundle, store_bundle
from .revocation import RevocationNotice
from .signing_key import SigningKey
from .staple import Staple
from .statement import Statement, Subject
from .statement_kinds import parse_kind
from .tlog_proof import MAX_PROOF, TlogProof
from .witness import FileWitnessStore, Witness

STATUS_LIFETIME: Final = timedelta(hours=48)
RELEASE_VALIDITY: Final = timedelta(days=90)
MAX_ACTIVE: Final = 8
MAX_STATED_REASON: Final = 200
"""Characters of a reason in a status; the revocation beside it has all of them."""


@dataclass(frozen=True, slots=True)
class ReleaseDraft:
    """What an operator says about an image; sequence, validity and predecessor come from the log."""

    name: str
    version: str
    channel: str
    subjects: tuple[Subject, ...]
    measurements: tuple[Mapping[str, Any], ...]
    materials: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Published:
    """What ``publish`` did; ``renewed`` says that the release was in the log and only its status is new."""

    release: ListedRelease
    status: ListedStatus
    checkpoint: SignedCheckpoint
    staple: Staple
    renewed: bool


def create_log(
    folder: Path,
    *,
    origin: str,
    witness: str | None,
    now: Callable[[], datetime],
    witnesses: Sequence[Cosigner] = (),
    quorum: int | None = None,
) -> "ReleaseLog":
    """Make the keys of a log, and of a witness in the same process where it is named, and publish the empty
    tree.

    ``witnesses`` and ``quorum`` are as in ``ReleaseLog.open``. Raises LogError.
    """
    try:
        make_folder(folder)
        make_folder(folder / "keys", 0o700)
        make_folder(folder / "witness", 0o700)
    except OSError as error:
        raise LogError(Code.LOG_UNREADABLE, f"{error.filename}: {error.strerror}", stage="log") from error
    if (folder / "keys" / "log.key").exists():
        raise LogError(Code.LOG_EXISTS, f"{folder} is a log already", stage="log")
    if witness is not None:
        SigningKey.generate(witness, COSIGNATURE_ED25519).save(folder / "witness" / "witness.key")
    SigningKey.generate(origin).save(folder / "keys" / "log.key")
    log = ReleaseLog.open(folder, now, witnesses=witnesses, quorum=quorum)
    log.tiles.create()
    return log


class ReleaseLog:
    """A log of releases. ``now`` gives aware UTC times."""

    def __init__(self, folder: Path, tiles: TileLog, now: Callable[[], datetime]) -> None:
        self.tiles = tiles
        self._staples = folder / "staples"
        self._proofs = folder / "proofs"
        self._bundles = folder / "public" / "sigstore"
        self.now = now
        self._seen: dict[object, tuple[TreeFold, Listing]] = {}

    @classmethod
    def open(
        cls,
        folder: Path,
        now: Callable[[], datetime],
        *,
        witnesses: Sequence[Cosigner] = (),
        quorum: int | None = None,
    ) -> "ReleaseLog":
        """Load the keys in ``folder``. Raises LogError (KEY_UNUSABLE).

        The witness whose key lies in the folder is asked in this process, beside ``witnesses``; ``quorum`` of
        all of them must cosign (None: every one).
        """
        key = SigningKey.load(folder / "keys" / "log.key")
        own = folder / "witness" / "witness.key"
        asked = list(witnesses)
        if own.exists():
            store = FileWitnessStore(folder / "witness")
            asked.insert(
                0, Witness(SigningKey.load(own), (key.public,), store, lambda: int(now().timestamp()))
            )
        return cls(folder, TileLog(folder, key, asked, quorum=quorum), now)

    def listing(self, channel: str, signers: Sequence[VerifierKey] | None, threshold: int = 1) -> Listing:
        """What the log says of a channel, the whole log audited on the way. Raises TransparencyError.

        With ``signers`` None nobody's signature is asked for: that is for people to look at, not to trust.
        """
        key = (channel, None if signers is None else tuple(signers), threshold)
        before, listing = self._seen.get(key, (TreeFold(), Listing()))
        found: list[Entry | None] = []

        def entry(index: int, leaf: bytes) -> None:
            found.append(read_entry(index, leaf, channel, signers, threshold))

        tree = self.tiles.read_on(before, entry)
        # Only once the whole stands: the next call goes on from here.
        self._seen[key] = tree, listing.extended(found)
        return self._seen[key][1]

    def publish(
        self,
        draft: ReleaseDraft,
        signers: Sequence[SigningKey],
        *,
        keep: int = 2,
        validity: timedelta = RELEASE_VALIDITY,
        lifetime: timedelta = STATUS_LIFETIME,
        signature: ReleaseSignature | None = None,
        formerly: Sequence[VerifierKey] = (),
    ) -> Published:
        """Log ``draft`` and a status that lists it beside the newest ``keep`` - 1 releases before it.

        A draft that is active already, with at least half of its validity left, is not logged again; its
        status is renewed. With ``signature`` the release's statement is signed at a Sigstore instance before it
        is logged, unless it has a bundle already. ``formerly`` are signers whose releases still count. Raises
        TransparencyError.
        """
        if not 1 <= keep <= MAX_ACTIVE:
            raise TransparencyError(
                Code.LIMIT_EXCEEDED, "active releases", stage="publish", expected=f"1 to {MAX_ACTIVE}"
            )
        if not timedelta() < validity <= MAX_RELEASE_VALIDITY:
            raise TransparencyError(Code.TIME_INVALID, "validity", stage="publish", expected="≤ 90 d")
        with self.tiles.exclusive():
            before = self._listing(draft.channel, signers, formerly)
            at = self.now().astimezone(UTC).replace(microsecond=0)
            found = _reusable(before, draft, at)
            size = self.tiles.checkpoint().checkpoint.size
            listed = found or _new_release(before, draft, signers, at, validity, size)
            if signature is not None:
                store_bundle(self._bundles, listed.leaf_hash, Envelope.parse(listed.leaf).payload, signature)
            others = [entry for entry in _active(before, at) if entry.leaf_hash != listed.leaf_hash]
            active = [*others[max(0, len(others) - (keep - 1)) :], listed]
            index = size if found else size + 1
            status = self._new_status(before, draft.channel, active, signers, at, lifetime, index)
            _, checkpoint = self.tiles.append([status.leaf] if found else [listed.leaf, status.leaf])
            staples = self._write_staples(active, status, checkpoint, before.newest_set)
        return Published(listed, status, checkpoint, staples[-1], found is not None)

    def log_statement(self, statement: Statement, keys: Sequence[SigningKey]) -> int:
        """Log a statement of any kind once; its index. One that is there, with whatever signatures, is not logged
        again. Raises TransparencyError.
        """
        parse_kind(statement)
        with self.tiles.exclusive():
            for index, leaf in enumerate(self.tiles.entries()):
                with suppress(TransparencyError):
                    if Envelope.parse(leaf).payload == statement.raw:
                        return index
            index, _ = self.tiles.append([sign_leaf(statement, keys)])
            return index

    def revoke(
        self,
        identity: bytes,
        channel: str,
        reason: str,
        signers: Sequence[SigningKey],
        *,
        lifetime: timedelta = STATUS_LIFETIME,
        formerly: Sequence[VerifierKey] = (),
    ) -> ListedStatus:
        """Log the revocation of the release with leaf hash ``identity``, and a status without it.

        Clients refuse it at the latest when the last status that listed it has run out. Raises
        TransparencyError (RELEASE_NOT_ACTIVE where the log holds no such release).
        """
        with self.tiles.exclusive():
            before = self._listing(channel, signers, formerly)
            if before.find(identity) is None:
                raise TransparencyError(
                    Code.RELEASE_NOT_ACTIVE,
                    "no such release in the log",
                    stage="publish",
                    found=identity.hex(),
                )
            at = self.now().astimezone(UTC).replace(microsecond=0)
            active = [entry for entry in _active(before, at) if entry.leaf_hash != identity]
            size = self.tiles.checkpoint().checkpoint.size
            revocation = Revocation(identity.hex(), reason[:MAX_STATED_REASON])
            status = self._new_status(before, channel, active, signers, at, lifetime, size + 1, revocation)
            notice = RevocationNotice(channel, identity.hex(), reason, at, status.status.sequence)
            leaf = sign_leaf(notice.statement(), signers)
            _, checkpoint = self.tiles.append([leaf, status.leaf])
            self._write_staples(active, status, checkpoint, before.newest_set)
            (self._staples / f"{identity.hex()}.json").unlink(missing_ok=True)
        return status

    def _listing(
        self, channel: str, signers: Sequence[SigningKey], formerly: Sequence[VerifierKey]
    ) -> Listing:
        """All of a channel, so that sequences go on whoever signed; ``counting`` is what clients take today."""
        everything, keys, threshold = self.believed(channel, signers, formerly)
        return everything.counted(keys, threshold)

    def believed(
        self, channel: str, signers: Sequence[SigningKey], formerly: Sequence[VerifierKey] = ()
    ) -> tuple[Listing, tuple[VerifierKey, ...], int]:
        """All of a channel, and whom clients believe in it: the newest set of signers or, where the log holds no set,
        as many of these keys and former ones as sign now.

        Raises TransparencyError (IDENTITY_MISMATCH) where these keys are too few of the newest set.
        """
        everything = self.listing(channel, None)
        if everything.newest_set is None:
            return everything, (*(signer.public for signer in signers), *formerly), len(signers)
        chosen = everything.newest_set.signer_set
        present = len({signer.public for signer in signers}.union(formerly) & set(chosen.signers))
        if present < chosen.threshold:
            raise TransparencyError(
                Code.IDENTITY_MISMATCH,
                f"too few keys of set {chosen.sequence} of the signers",
                stage="publish",
                expected=chosen.threshold,
                found=present,
            )
        return everything, chosen.signers, chosen.threshold

    def _new_status(
        self,
        before: Listing,
        channel: str,
        active: Sequence[ListedRelease],
        signers: Sequence[SigningKey],
        at: datetime,
        lifetime: timedelta,
        index: int,
        revocation: Revocation | None = None,
    ) -> ListedStatus:
        if not timedelta() < lifetime <= MAX_STATUS_LIFETIME:
            raise TransparencyError(Code.TIME_INVALID, "status lifetime", stage="publish", expected="≤ 7 d")
        last = before.newest_status
        floors = [entry.release.sequence for entry in active]
        # A release that has run out needs no revocation any more, and a status must stay small.
        ended = {entry.leaf_hash.hex() for entry in before.releases if entry.release.not_after <= at}
        known = [entry for entry in (last.revoked if last else ()) if entry.release not in ended]
        revoked = {entry.release: entry for entry in (*known, *([revocation] if revocation else []))}
        status = Status(
            channel=channel,
            sequence=last.sequence + 1 if last else 1,
            issued_at=at,
            expires_at=at + lifetime,
            min_release_sequence=max(last.min_release_sequence if last else 0, min(floors, default=0)),
            active=tuple(entry.leaf_hash.hex() for entry in active),
            revoked=tuple(revoked.values()),
        )
        return ListedStatus(status, index, sign_leaf(status.statement(), signers))

    def _write_staples(
        self,
        active: Iterable[ListedRelease],
        status: ListedStatus,
        checkpoint: SignedCheckpoint,
        signers: ListedSet | None,
    ) -> list[Staple]:
        make_folder(self._staples)
        staples = []
        for entry in active:
            staple = Staple(
                release_proof=self._first_proof(entry, checkpoint),
                release_leaf=entry.leaf,
                status_proof=self.proof(status.index, status.leaf, checkpoint),
                status_leaf=status.leaf,
                checkpoint=checkpoint.raw,
                sigstore=load_bundle(self._bundles, entry.leaf_hash),
                signers_proof=self.proof(signers.index, signers.leaf, checkpoint) if signers else b"",
                signers_leaf=signers.leaf if signers else b"",
            )
            replace_file(self._staples / f"{entry.leaf_hash.hex()}.json", staple.encode())
            staples.append(staple)
        return staples

    def _first_proof(self, entry: ListedRelease, checkpoint: SignedCheckpoint) -> bytes:
        """The proof from when the release was logged, so that a client can see how long it has been listed."""
        path = self._proofs / f"{entry.leaf_hash.hex()}.tlog-proof"
        try:
            with path.open("rb") as file:
                proof = file.read(MAX_PROOF + 1)
            parsed = TlogProof.parse(proof)
            signed = open_checkpoint(parsed.checkpoint, (self.tiles.key,))
            parsed.verify_leaf(entry.leaf_hash, signed.checkpoint)
            self.tiles.trust.check_witnesses(signed, at=self.now(), max_age_s=None, max_future_s=300)
            if parsed.index == entry.index:
                return proof
        except (FileNotFoundError, TransparencyError):
            pass
        # None yet, or not by enough of today's witnesses: the clock of the soak starts anew.
        proof = self.proof(entry.index, entry.leaf, checkpoint)
        make_folder(self._proofs)
        replace_file(path, proof)
        return proof

    def proof(self, index: int, leaf: bytes, signed: SignedCheckpoint) -> bytes:
        """The tlog-proof of entry ``index`` in the tree of ``signed``. Raises TransparencyError."""
        size = signed.checkpoint.size
        proof = TlogProof(index, prove_inclusion(index, size, self.tiles.reader(size).node), signed.raw)
        proof.verify_leaf(leaf_hash(leaf), signed.checkpoint)
        return proof.encode()


def _new_release(
    before: Listing,
    draft: ReleaseDraft,
    signers: Sequence[SigningKey],
    at: datetime,
    validity: timedelta,
    index: int,
) -> ListedRelease:
    last = max(before.releases, key=lambda entry: entry.release.sequence, default=None)
    release = Release(
        name=draft.name,
        channel=draft.channel,
        version=draft.version,
        sequence=last.release.sequence + 1 if last else 1,
        not_before=at,
        not_after=at + validity,
        subjects=draft.subjects,
        measurements=draft.measurements,
        previous=last.leaf_hash.hex() if last else "",
        materials=draft.materials,
    )
    return ListedRelease(release, index, sign_leaf(release.statement(), signers))


def _active(listing: Listing, at: datetime) -> list[ListedRelease]:
    """What the newest status lists, oldest first, without what has run out."""
    status = listing.newest_status
    if status is None:
        return []
    return [
        entry
        for entry in listing.releases
        if entry.leaf_hash.hex() in status.active
        and entry.leaf_hash in listing.counting
        and at < entry.release.not_after
    ]


def _reusable(listing: Listing, draft: ReleaseDraft, at: datetime) -> ListedRelease | None:
    for entry in reversed(_active(listing, at)):
        release = entry.release
        same = (release.name, release.version, release.subjects, release.measurements, release.materials) == (
            draft.name,
            draft.version,
            draft.subjects,
            draft.measurements,
            draft.materials,
        )
        if same and release.not_after - at >= (release.not_after - release.not_before) / 2:
            return entry
    return None
