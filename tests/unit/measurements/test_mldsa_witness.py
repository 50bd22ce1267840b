"""Witnesses that cosign with ML-DSA-44 beside, or instead of, Ed25519."""

import builtins
import struct
from pathlib import Path
from typing import Any

import pytest
from release_world import AT, World

from measurements.checkpoint import Checkpoint
from measurements.cosignature import cosign, mldsa44_message, verify_cosignatures
from measurements.errors import Code, LogError, TransparencyError
from measurements.note import COSIGNATURE_ED25519, COSIGNATURE_MLDSA44, ED25519, Note, NoteSignature
from measurements.signing_key import SigningKey
from measurements.tlog_policy import TlogPolicy
from measurements.witness import VolatileWitnessStore, Witness, encode_request

TIME = int(AT.timestamp())


@pytest.fixture(scope="module")
def key() -> SigningKey:
    try:
        return SigningKey.generate("pq.witness.example", COSIGNATURE_MLDSA44)
    except LogError as error:
        if error.code is not Code.NOT_AVAILABLE:
            raise
        pytest.skip("the OpenSSL of this cryptography has no ML-DSA-44")


def test_a_key_file_keeps_the_key(key: SigningKey, tmp_path: Path) -> None:
    key.save(tmp_path / "w.key")
    again = SigningKey.load(tmp_path / "w.key")
    assert again.public == key.public
    assert len(key.public.public_key) == 1312
    assert len((tmp_path / "w.key").read_bytes()) < 200, "the seed, not the expanded key"
    # The kind belongs to the key: the same seed as another kind is another key, with another id.
    line = (tmp_path / "w.key").read_text().strip()
    with pytest.raises(LogError):
        SigningKey.parse(line.replace("pq.witness", "pq.another"))


def test_a_cosignature_binds_name_time_and_tree(key: SigningKey) -> None:
    world = World()
    note = world.sign_tree([b"one", b"two"])
    checkpoint = Checkpoint.parse(note.text)
    line = cosign(key, note.text, TIME)
    assert len(line.signature) == 8 + 2420
    (found,) = verify_cosignatures(Note(note.text, (*note.signatures, line)), checkpoint, [key.public])
    assert (found.key, found.time) == (key.public, TIME)
    assert key.public.name.encode() in mldsa44_message(key.public.name, checkpoint, TIME)
    later = NoteSignature(line.name, line.key_id, struct.pack(">Q", TIME + 1) + line.signature[8:])
    other = world.sign_tree([b"one", b"three"])
    for text, changed in ((note.text, later), (other.text, line)):
        with pytest.raises(TransparencyError) as caught:
            verify_cosignatures(Note(text, (changed,)), Checkpoint.parse(text), [key.public])
        assert caught.value.code is Code.WITNESS_QUORUM


def test_a_witness_with_both_keys_and_a_client_that_wants_both(key: SigningKey) -> None:
    world = World()
    release = world.release()
    status = world.status([release])
    note = world.sign_tree([release, status])
    classical = SigningKey.generate("witness.example/ed", COSIGNATURE_ED25519)
    witness = Witness(classical, [world.log.public], VolatileWitnessStore(), lambda: TIME, further_keys=[key])
    answer = witness.add_checkpoint(encode_request(0, (), note.encode()))
    assert answer.status == 200
    both = Note.parse(note.encode() + answer.body)
    policy = world.policy(trust=TlogPolicy.threshold(world.log.public, [classical.public, key.public], 2))
    world.check(world.staple(release, status, note=both), policy=policy).require()
    # Without the post-quantum line the quorum is not met: nothing falls back.
    one = Note(both.text, tuple(line for line in both.signatures if line.name != key.public.name))
    appraisal = world.check(world.staple(release, status, note=one), policy=policy)
    assert appraisal.error is not None
    assert appraisal.error.code is Code.WITNESS_QUORUM


def test_a_witness_key_signs_nothing_else(key: SigningKey) -> None:
    with pytest.raises(LogError):
        key.sign_note("log.example\n")
    with pytest.raises(TransparencyError) as caught:
        cosign(SigningKey.generate("log.example", ED25519), "x\n", TIME)
    assert caught.value.code is Code.KEY_UNUSABLE
    with pytest.raises(LogError):
        SigningKey.generate("x", 0x07)


def test_a_build_without_it_fails_closed(
    key: SigningKey, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A policy that names such a key refuses; it does not skip."""
    world = World()
    release = world.release()
    status = world.status([release])
    note = world.sign_tree([release, status])
    signed = Note(note.text, (*note.signatures, cosign(key, note.text, TIME)))
    policy = world.policy(trust=TlogPolicy.threshold(world.log.public, [key.public], 1))
    staple = world.staple(release, status, note=signed)
    world.check(staple, policy=policy).require()
    plain = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if name.endswith(".mldsa"):
            raise ImportError(name)
        return plain(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    appraisal = world.check(staple, policy=policy)
    with pytest.raises(LogError) as caught:
        SigningKey.generate("x", COSIGNATURE_MLDSA44)
    monkeypatch.undo()
    assert caught.value.code is Code.NOT_AVAILABLE
    assert appraisal.error is not None
    assert appraisal.error.code is Code.NOT_AVAILABLE
