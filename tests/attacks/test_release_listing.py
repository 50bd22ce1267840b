"""Attempts to run, or to hide, an image that is not publicly listed. Each stands beside a control that succeeds
once the one defence is taken away."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from release_world import AT, World

from measurements import decision, staple
from measurements.checkpoint import Checkpoint
from measurements.cosignature import cosign
from measurements.errors import Code, TransparencyError
from measurements.log import TileLog
from measurements.merkle import leaf_hash
from measurements.note import COSIGNATURE_ED25519, ED25519, Note, NoteSignature
from measurements.policy import TransparencyPolicy
from measurements.publish import ReleaseDraft, create_log
from measurements.release import CPU_REGISTERS, _measurement
from measurements.results import Appraisal
from measurements.rollback import VolatileMemory
from measurements.signing_key import SigningKey
from measurements.statement import Subject
from measurements.tlog_policy import TlogPolicy
from measurements.tlog_proof import TlogProof
from measurements.verified_release import VerifiedRelease
from measurements.witness import VolatileWitnessStore, Witness, encode_request


@pytest.fixture
def world() -> World:
    return World()


def refused(appraisal: Appraisal[VerifiedRelease], code: Code, row: str) -> TransparencyError:
    assert appraisal.value is None
    assert appraisal.error is not None
    assert appraisal.error.code is code
    assert next(r.id for r in appraisal.rows if r.outcome == "fail") == row
    with pytest.raises(TransparencyError):
        appraisal.require()
    return appraisal.error


def test_an_image_that_was_never_logged(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The release signer colludes: the statement and a status that lists it are signed, but not published."""
    public, hidden = world.release(), world.release("cd" * 48, sequence=2)
    status = world.status([public, hidden])
    forged = world.staple(hidden, status, leaves=[public, status])
    refused(world.check(forged), Code.INCLUSION_INVALID, "log.release")

    verify = TlogProof.verify_leaf

    def careless(self: TlogProof, leaf: bytes, checkpoint: Checkpoint) -> None:
        if leaf != leaf_hash(hidden):
            verify(self, leaf, checkpoint)

    monkeypatch.setattr(TlogProof, "verify_leaf", careless)
    assert world.check(forged).require().version == "1.2"


def test_a_status_that_was_never_logged(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A status for one victim only would bring a withdrawn image back."""
    old, new = world.release(), world.release("cd" * 48, sequence=2)
    public = world.status([new])
    private = world.status([old])
    forged = world.staple(old, private, leaves=[old, new, public])
    refused(world.check(forged), Code.INCLUSION_INVALID, "log.status")
    monkeypatch.setattr(TlogProof, "verify_leaf", lambda *_: None)
    world.check(forged).require()


def test_a_status_withheld(world: World) -> None:
    release = world.release()
    good = world.staple(release, world.status([release]))
    for withheld in (replace(good, status_proof=b""), replace(good, status_leaf=b"")):
        error = refused(world.check(withheld), Code.STATUS_MISSING, "log.signature")
        assert error.retryable
    world.check(good).require()


def test_an_old_status_after_the_image_was_yanked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node goes on with the last status that listed it; fresh cosignatures do not make the status fresh."""
    release = world.release()
    status = world.status([release])
    later = AT + timedelta(hours=48)
    note = world.cosigned(world.sign_tree([release, status]), at=later)
    old = world.staple(release, status, note=note)
    refused(world.check(old, at=later), Code.STATUS_STALE, "log.status")
    monkeypatch.setattr(decision, "_inside", lambda *_: None)
    world.check(old, at=later).require()


def test_going_on_with_a_revoked_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node keeps the staple from before the revocation, and time goes by: how long does which client believe it?"""
    at = [AT]
    signer = SigningKey.generate("releases.example")
    log = create_log(tmp_path / "log", origin="log.example/r", witness="w.example", now=lambda: at[0])
    element = {"tee": "sev-snp", "launchDigest": "ab" * 48}
    draft = ReleaseDraft("acme/node", "1", "prod", (Subject("image", "cd" * 32),), (element,))
    published = log.publish(draft, [signer])
    trust = TlogPolicy.threshold(log.tiles.key, log.tiles.witnesses, 1)
    # The log goes on to be cosigned, so that freshness of the checkpoint is not what protects here.
    policy = TransparencyPolicy(trust, (signer.public,), 1, "prod", max_checkpoint_age_s=30 * 86_400)

    def check(stapled: staple.Staple, memory: VolatileMemory) -> Appraisal[VerifiedRelease]:
        members = {name: getattr(stapled, name) for name in staple.Staple.__dataclass_fields__}
        return staple.check_staple(**members, policy=policy, at=at[0], memory=memory)

    has_seen_the_new_status = VolatileMemory()
    check(published.staple, has_seen_the_new_status).require()
    at[0] += timedelta(hours=1)
    draft = replace(draft, version="2", subjects=(Subject("image", "ef" * 32),))
    log.publish(draft, [signer])
    log.revoke(published.release.leaf_hash, "prod", "a hole", [signer])
    newest = staple.Staple.parse(next((tmp_path / "log" / "staples").iterdir()).read_bytes())
    check(newest, has_seen_the_new_status).require()

    refused(check(published.staple, has_seen_the_new_status), Code.ROLLBACK, "log.rollback")
    check(
        published.staple, VolatileMemory()
    ).require()  # the exposure that is stated: what is left of 48 hours
    at[0] = AT + timedelta(hours=48, seconds=-1)
    check(published.staple, VolatileMemory()).require()
    at[0] = AT + timedelta(hours=48)
    refused(check(published.staple, VolatileMemory()), Code.STATUS_STALE, "log.status")
    monkeypatch.setattr(decision, "_inside", lambda *_: None)
    check(published.staple, VolatileMemory()).require()


def test_a_frozen_log(world: World) -> None:
    """Nothing new is shown: the cosignatures tell their age although the status has not run out."""
    release = world.release()
    frozen = world.staple(release, world.status([release]))
    later = AT + timedelta(hours=24, seconds=1)
    refused(world.check(frozen, at=later), Code.WITNESS_STALE, "log.witness")
    world.check(frozen, at=later, policy=world.policy(max_checkpoint_age_s=30 * 86_400)).require()


def test_a_rolled_back_status(world: World) -> None:
    """The client has seen the image withdrawn; another node staples the status from before, still in its time."""
    bad, good = world.release(), world.release("cd" * 48, sequence=2)
    before = world.status([bad])
    after = world.status([good], sequence=2, min_release_sequence=2)
    memory = VolatileMemory()
    world.check(world.staple(good, after, leaves=[bad, before, good, after]), memory=memory).require()
    old = world.staple(bad, before, leaves=[bad, before])
    refused(world.check(old, memory=memory), Code.ROLLBACK, "log.rollback")
    world.check(old, memory=VolatileMemory()).require()


def test_a_fork_that_the_witness_has_not_seen(world: World) -> None:
    """The log signs a second tree for a victim. An honest witness refuses it, so it lacks a cosignature."""
    honest, hidden = world.release(), world.release("cd" * 48, sequence=2)
    status, private = world.status([honest]), world.status([hidden])
    store = VolatileWitnessStore()
    witness = Witness(world.witness, [world.log.public], store, lambda: int(AT.timestamp()))
    first = world.sign_tree([honest, status])
    assert witness.add_checkpoint(encode_request(0, (), first.encode())).status == 200
    fork = world.sign_tree([hidden, private])
    assert witness.add_checkpoint(encode_request(2, (), fork.encode())).status == 422
    _, notes, _, proved = store.forks[0]
    assert proved
    assert [Note.parse(note).text for note in notes] == [first.text, fork.text]

    forged = world.staple(hidden, private, note=fork)
    refused(world.check(forged), Code.WITNESS_QUORUM, "log.witness")
    nobody = TlogPolicy.threshold(world.log.public, (), 0)
    world.check(forged, policy=world.policy(trust=nobody)).require()


def test_a_fork_with_a_colluding_witness(world: World) -> None:
    """Log and witness both lie: a client that saw the other tree holds the proof in its hands."""
    honest, hidden = world.release(), world.release("cd" * 48, sequence=2)
    memory = VolatileMemory()
    seen = world.staple(honest, world.status([honest]))
    world.check(seen, memory=memory).require()
    fork = world.staple(hidden, world.status([hidden], sequence=2))
    error = refused(world.check(fork, memory=memory), Code.SPLIT_VIEW, "log.rollback")
    assert error.evidence == (seen.checkpoint, fork.checkpoint)
    assert not error.retryable
    world.check(fork, memory=VolatileMemory()).require()


def test_a_fork_under_the_proof_of_an_old_release(world: World) -> None:
    """Log and witness lie, and the lie has grown: only the release's own proof still rests on a tree of a size that the
    client knows, with another root.
    """
    honest, hidden = world.release(), world.release("cd" * 48, sequence=2)
    memory = VolatileMemory()
    seen = world.staple(honest, world.status([honest]))
    world.check(seen, memory=memory).require()
    before, after = world.status([hidden]), world.status([hidden], sequence=2)
    old = world.cosigned(world.sign_tree([hidden, before]))
    grown = replace(
        world.staple(hidden, after, leaves=[hidden, before, after]),
        release_proof=world.proof(hidden, [hidden, before], old),
    )
    error = refused(world.check(grown, memory=memory), Code.SPLIT_VIEW, "log.rollback")
    assert error.evidence == (seen.checkpoint, old.encode())
    world.check(grown, memory=VolatileMemory()).require()
    # Control: an old proof in the honest tree is what most releases have.
    status = world.status([honest], sequence=3)
    leaves = [honest, world.status([honest]), status]
    honestly = replace(
        world.staple(honest, status, leaves=leaves),
        release_proof=world.proof(honest, leaves[:2], world.cosigned(world.sign_tree(leaves[:2]))),
    )
    world.check(honestly, memory=memory).require()


def test_two_trees_inside_one_staple(world: World) -> None:
    release = world.release()
    status = world.status([release])
    good = world.staple(release, status)
    other = world.cosigned(world.sign_tree([status, release]))
    mixed = replace(good, release_proof=world.proof(release, [status, release], other))
    error = refused(world.check(mixed), Code.SPLIT_VIEW, "log.signature")
    assert len(error.evidence) == 2
    world.check(good).require()


@pytest.mark.parametrize("forgery", ["other key", "under the known id", "moved from another tree", "log key"])
def test_a_forged_cosignature(world: World, forgery: str, monkeypatch: pytest.MonkeyPatch) -> None:
    release = world.release()
    status = world.status([release])
    note = world.sign_tree([release, status])
    time = int(AT.timestamp())
    imposter = SigningKey.generate(world.witness.public.name, COSIGNATURE_ED25519)
    line = cosign(imposter, note.text, time)
    if forgery == "under the known id":
        line = NoteSignature(line.name, world.witness.public.id, line.signature)
    elif forgery == "moved from another tree":
        line = cosign(world.witness, world.sign_tree([release]).text, time)
    elif forgery == "log key":
        line = world.log.sign_note(note.text)
    forged = world.staple(release, status, note=Note(note.text, (*note.signatures, line)))
    refused(world.check(forged), Code.WITNESS_QUORUM, "log.witness")

    monkeypatch.setattr(TlogPolicy, "cosignatures", lambda *_: ())
    monkeypatch.setattr(TlogPolicy, "count", lambda *_, **__: ())
    world.check(forged).require()


def test_one_witness_does_not_count_twice(world: World) -> None:
    other = SigningKey.generate("second.example", COSIGNATURE_ED25519)
    trust = TlogPolicy.threshold(world.log.public, [world.witness.public, other.public], 2)
    release = world.release()
    status = world.status([release])
    once = world.cosigned(world.sign_tree([release, status]))
    twice = world.cosigned(once, at=AT - timedelta(minutes=1))
    forged = world.staple(release, status, note=twice)
    refused(world.check(forged, policy=world.policy(trust=trust)), Code.WITNESS_QUORUM, "log.witness")
    both = world.staple(release, status, note=world.cosigned(once, witness=other))
    world.check(both, policy=world.policy(trust=trust)).require()


def test_a_release_signed_by_a_stranger(world: World) -> None:
    """The log takes anybody's entry: what is listed must still be signed by whom the policy names."""
    stranger = SigningKey.generate("releases.example")
    release = world.release(signer=stranger)
    forged = world.staple(release, world.status([release]))
    refused(world.check(forged), Code.IDENTITY_MISMATCH, "log.release")
    world.check(forged, policy=world.policy(signers=(world.signer.public, stranger.public))).require()


def test_a_status_signed_by_a_stranger(world: World) -> None:
    stranger = SigningKey.generate("releases.example")
    release = world.release()
    forged = world.staple(release, world.status([release], signer=stranger))
    refused(world.check(forged), Code.IDENTITY_MISMATCH, "log.status")
    world.check(forged, policy=world.policy(signers=(world.signer.public, stranger.public))).require()


def test_a_signature_under_a_known_id_that_is_not_the_keys(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = SigningKey.generate("releases.example")
    release = world.release(signer=stranger)
    known = world.signer.public.id.hex().encode()
    claimed = release.replace(stranger.public.id.hex().encode(), known)
    forged = world.staple(claimed, world.status([claimed]))
    refused(world.check(forged), Code.SIGNATURE_INVALID, "log.release")
    monkeypatch.setattr("measurements.dsse.verify_ed25519", lambda *_: None)
    world.check(forged).require()


def test_an_image_of_its_own_for_every_victim(world: World) -> None:
    """Nine active releases: one of them may be for one person only."""
    releases = [world.release(f"{n:02x}" * 48, sequence=n) for n in range(1, 10)]
    status = world.status(releases)
    crowd = world.staple(releases[8], status, leaves=[*releases, status])
    refused(world.check(crowd), Code.LIMIT_EXCEEDED, "log.status")
    world.check(crowd, policy=world.policy(max_active=9)).require()


def test_an_image_that_is_logged_but_not_listed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = world.release(), world.release("cd" * 48, sequence=2)
    status = world.status([new])
    forged = world.staple(old, status, leaves=[old, new, status])
    refused(world.check(forged), Code.RELEASE_NOT_ACTIVE, "log.active")
    monkeypatch.setattr(staple, "judge_active", lambda *_: None)
    world.check(forged).require()


def test_registers_gathered_from_two_elements(world: World) -> None:
    """Every register is somewhere in the release, but never all in one element."""
    release = world.release()
    good = world.check(world.staple(release, world.status([release]))).require()

    def element(digit: str) -> dict[str, str]:
        registers = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
        return {"tee": "tdx", **dict.fromkeys(registers, digit * 96)}

    verified = replace(good, measurements=(element("1"), element("2")))
    mixed = {**element("1"), "rtmr2": "2" * 96}
    with pytest.raises(TransparencyError) as caught:
        verified.match_cpu("tdx", mixed)
    assert caught.value.code is Code.MEASUREMENT_MISMATCH
    assert verified.match_cpu("tdx", element("2")) == element("2")


@pytest.mark.parametrize("tee", ["tpm", "azure-snp", "azure-tdx"])
def test_another_boot_that_writes_the_images_pcr_11(world: World, tee: str) -> None:
    """PCR 11 is written by whatever boots: with the same value in it, another boot program still shows in PCR 4."""
    good = world.check(world.staple(release := world.release(), world.status([release]))).require()
    launch = {name: "ab" * 48 for name in CPU_REGISTERS[tee] if not name.startswith("pcr")}
    pcrs = {f"pcr{n}": f"{n:02x}" * 32 for n in (4, 7, 11, 12, 13)}
    verified = replace(good, measurements=({"tee": tee, **launch, **pcrs},))
    measured = {**launch, **pcrs, "pcr0": "00" * 32}
    assert verified.match_cpu(tee, measured)["tee"] == tee
    for name in (*launch, *pcrs):  # PCR 7 too: whatever an element names must match
        for other in ({**measured, name: "ee" * 32}, {n: v for n, v in measured.items() if n != name}):
            with pytest.raises(TransparencyError) as caught:
                verified.match_cpu(tee, other)
            assert caught.value.code is Code.MEASUREMENT_MISMATCH
    for another in {"tpm", "azure-snp", "azure-tdx", "sev-snp"} - {tee}:
        with pytest.raises(TransparencyError):
            verified.match_cpu(another, measured)


@pytest.mark.parametrize("change", [{"pcr4": None}, {"pcr11": "ab" * 48}, {"pcr7": "AB" * 32}, {"pcr0": ""}])
def test_an_element_of_a_tpm_is_whole_and_of_one_bank(change: dict[str, str | None]) -> None:
    pcrs: dict[str, str | None] = {f"pcr{n}": "ab" * 32 for n in (4, 7, 11, 12, 13)}
    element = {"tee": "tpm", **pcrs, "pcr99": "ignored"}
    for good in (element, {"tee": "tpm", **dict.fromkeys(pcrs, "ab" * 48)}):
        assert _measurement(good) == good
    changed = {name: value for name, value in {**element, **change}.items() if value is not None}
    with pytest.raises(TransparencyError):
        _measurement(changed)


def test_a_key_made_for_one_role_is_unknown_in_another(world: World) -> None:
    """A log key that signs like a witness, and a witness key that signs like a log, are both strangers."""
    seeds = [SigningKey.generate("shared.example", kind) for kind in (ED25519, COSIGNATURE_ED25519)]
    assert seeds[0].public.id != seeds[1].public.id
    with pytest.raises(TransparencyError):
        world.witness.sign_note("text\n")
    with pytest.raises(TransparencyError):
        cosign(world.log, "text\n", 0)


def test_a_log_that_rewrites_its_past(world: World, tmp_path: Path) -> None:
    """The writer's own files are changed under it: it proves consistency before it signs, and stops."""
    folder = tmp_path
    witness = Witness(world.witness, [world.log.public], VolatileWitnessStore(), lambda: int(AT.timestamp()))
    log = TileLog(folder, world.log, [witness])
    log.create()
    with log.exclusive():
        log.append([b"one", b"two"])
    before = (folder / "public" / "checkpoint").read_bytes()
    tile = folder / "public" / "tile" / "0" / "000.p" / "2"
    content = tile.read_bytes()
    tile.write_bytes(leaf_hash(b"another") + content[32:])
    with pytest.raises(TransparencyError) as caught, log.exclusive():
        log.append([b"three"])
    assert caught.value.code in (Code.LOG_CORRUPT, Code.CONSISTENCY_INVALID)
    assert (folder / "public" / "checkpoint").read_bytes() == before
    tile.write_bytes(content)
    with log.exclusive():
        assert log.checkpoint().checkpoint.size == 3  # the journal of the stopped batch was finished
