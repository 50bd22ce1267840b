"""A witness behind HTTP and its database: who is answered what, and what stays after a crash."""

import sqlite3
import threading
from pathlib import Path

import pytest
from log_programs import ask
from release_world import AT, World

from measurements.checkpoint import Checkpoint, open_checkpoint
from measurements.cosignature import verify_cosignatures
from measurements.errors import Code, LogError
from measurements.merkle import consistency_roots, leaf_hash, prove_consistency, tree_hash
from measurements.note import COSIGNATURE_ED25519, Note, NoteSignature
from measurements.signing_key import SigningKey
from measurements.witness import MAX_REQUEST, VolatileWitnessStore, Witness, encode_request
from measurements.witness_database import MAX_UNPROVED, WitnessDatabase
from measurements.witness_server import monitoring_path, witness_application


class Log:
    """A log's key and the trees it signs, honest or not."""

    def __init__(self) -> None:
        self.key = SigningKey.generate("log.example/w")

    def note(self, leaves: list[bytes]) -> Note:
        checkpoint = Checkpoint(self.key.public.name, len(leaves), tree_hash(map(leaf_hash, leaves)))
        return Note(checkpoint.text, (self.key.sign_note(checkpoint.text),))

    def path(self, leaves: list[bytes], old: int) -> tuple[bytes, ...]:
        hashes = [leaf_hash(leaf) for leaf in leaves]
        return prove_consistency(
            old, len(leaves), lambda level, at: tree_hash(hashes[at << level : (at + 1) << level])
        )


HONEST = [b"%d" % number for number in range(12)]
LYING = [b"other", *HONEST[1:]]


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def store(tmp_path: Path) -> WitnessDatabase:
    return WitnessDatabase(tmp_path / "witness.db")


def new_witness(log: Log, store: WitnessDatabase | VolatileWitnessStore) -> Witness:
    key = SigningKey.generate("witness.example/1", COSIGNATURE_ED25519)
    return Witness(key, [log.key.public], store, lambda: 1_780_000_000)


def test_what_monitors_read_is_what_was_cosigned(log: Log, store: WitnessDatabase) -> None:
    witness = new_witness(log, store)
    application = witness_application(witness)
    path = f"/{monitoring_path(log.key.public.name)}"
    assert ask(application, "GET", path).status == 404
    stranger = SigningKey.generate("stranger.example").sign_note("anything\n")
    note = log.note(HONEST[:5])
    sent = Note(note.text, (*note.signatures, stranger))
    answer = ask(application, "POST", "/add-checkpoint", body=encode_request(0, (), sent.encode()))
    assert (answer.status, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    shown = ask(application, "GET", path)
    assert shown.headers["cache-control"] == "no-store"
    seen = open_checkpoint(shown.body, (log.key.public,))
    assert verify_cosignatures(seen.note, seen.checkpoint, witness.keys)
    assert stranger not in seen.note.signatures
    assert ask(application, "HEAD", path).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/add-checkpoint", 405),
        ("PUT", "/add-checkpoint", 405),
        ("POST", "/add-checkpoint/", 404),
        ("GET", f"/{'0' * 64}/checkpoint", 404),
        ("GET", "/../checkpoint", 404),
        ("POST", f"/{'0' * 64}/checkpoint", 405),
        ("GET", "/docs", 404),
        ("GET", "/openapi.json", 404),
    ],
)
def test_nothing_else_is_there(log: Log, method: str, path: str, status: int) -> None:
    answer = ask(witness_application(new_witness(log, VolatileWitnessStore())), method, path)
    assert (answer.status, answer.body) == (status, b"")


def test_a_body_beyond_the_protocols_limits_is_not_read_to_its_end(log: Log) -> None:
    application = witness_application(new_witness(log, VolatileWitnessStore()))
    answer = ask(application, "POST", "/add-checkpoint", body=b"o" * (MAX_REQUEST + 1))
    assert (answer.status, answer.body) == (413, b"")
    answer = ask(application, "POST", "/add-checkpoint", body=b"o" * MAX_REQUEST)
    assert (answer.status, answer.body) == (400, b"")


def test_a_store_that_fails_cosigns_nothing_and_says_nothing(log: Log, tmp_path: Path) -> None:
    path = tmp_path / "witness.db"
    application = witness_application(new_witness(log, WitnessDatabase(path)))
    path.write_bytes(b"not a database at all, but long enough to be read as one" * 40)
    answer = ask(
        application, "POST", "/add-checkpoint", body=encode_request(0, (), log.note(HONEST[:1]).encode())
    )
    assert (answer.status, answer.body) == (500, b"")
    answer = ask(application, "GET", f"/{monitoring_path(log.key.public.name)}")
    assert (answer.status, answer.body) == (500, b"")
    with pytest.raises(LogError) as caught:
        WitnessDatabase(path)
    assert caught.value.code is Code.LOG_UNREADABLE


def test_two_keys_under_two_names_both_cosign(log: Log) -> None:
    keys = [SigningKey.generate(f"witness.example/{n}", COSIGNATURE_ED25519) for n in range(2)]
    witness = Witness(
        keys[0], [log.key.public], VolatileWitnessStore(), lambda: 1_780_000_000, further_keys=keys[1:]
    )
    note = log.note(HONEST[:3])
    answer = witness.add_checkpoint(encode_request(0, (), note.encode()))
    cosigned = Note.parse(note.text.encode() + b"\n" + answer.body)
    found = verify_cosignatures(cosigned, Checkpoint.parse(note.text), witness.keys)
    assert {one.key for one in found} == {key.public for key in keys}


def test_compare_and_swap_under_contention(log: Log, tmp_path: Path) -> None:
    """Twenty requests at once that grow one tree in different ways: exactly one wins, the others learn of it."""
    note = log.note(HONEST[:1])
    seed = encode_request(0, (), note.encode())
    new_witness(log, WitnessDatabase(tmp_path / "w.db")).add_checkpoint(seed)
    requests = [
        encode_request(1, log.path(leaves, 1), log.note(leaves).encode())
        for leaves in ([HONEST[0], b"branch %d" % branch] for branch in range(20))
    ]
    answers: list[tuple[int, bytes]] = []

    def submit(body: bytes) -> None:
        # Connections, and witnesses, of their own: as if in processes of their own.
        response = new_witness(log, WitnessDatabase(tmp_path / "w.db")).add_checkpoint(body)
        answers.append((response.status, response.body))

    threads = [threading.Thread(target=submit, args=(body,)) for body in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(status for status, _ in answers) == [200] + [409] * 19
    assert {body for status, body in answers if status == 409} == {b"2\n"}


def test_a_fork_is_kept_and_says_whether_it_is_proved(log: Log, store: WitnessDatabase) -> None:
    witness = new_witness(log, store)
    assert witness.add_checkpoint(encode_request(0, (), log.note(HONEST[:6]).encode())).status == 200
    fork = log.note(LYING[:6])
    for _ in range(3):
        assert witness.add_checkpoint(encode_request(6, (), fork.encode())).status == 422
    # A path of the lying tree: it leads to that tree's root, and to another root at 6 than the one held.
    bigger = log.note(LYING)
    proof = log.path(LYING, 6)
    assert witness.add_checkpoint(encode_request(6, proof, bigger.encode())).status == 422
    # An honest checkpoint with rubbish for a path proves nothing.
    honest = log.note(HONEST[:7])
    assert witness.add_checkpoint(encode_request(6, (bytes(32),), honest.encode())).status == 422
    kept = store.forks()
    assert [(one.proved, one.submitted) for one in kept] == [
        (True, fork.encode()),
        (True, bigger.encode()),
        (False, honest.encode()),
    ]
    held = open_checkpoint(kept[1].held, (log.key.public,)).checkpoint
    roots = consistency_roots(old_size=6, new_size=12, old_root=held.root, path=proof)
    assert roots[1] == Checkpoint.parse(bigger.text).root
    assert roots[0] != held.root
    assert (
        witness.add_checkpoint(encode_request(6, log.path(HONEST, 6), log.note(HONEST).encode())).status
        == 200
    )


def test_a_bad_request_about_the_same_tree_is_no_evidence(log: Log, store: WitnessDatabase) -> None:
    witness, note = new_witness(log, store), log.note(HONEST[:6]).encode()
    assert witness.add_checkpoint(encode_request(0, (), note)).status == 200
    assert witness.add_checkpoint(encode_request(6, (bytes(32),), note)).status == 422
    assert store.forks() == ()


def test_evidence_cannot_fill_the_disk(log: Log, store: WitnessDatabase) -> None:
    held, proved = log.note(HONEST[:6]).encode(), log.note(LYING[:6]).encode()
    store.keep_fork("o", (held, proved), b"", True)
    for number in range(3 * MAX_UNPROVED):
        store.keep_fork("o", (held, b"%d\n\n" % number), b"", False)
    kept = store.forks()
    assert kept[0].proved
    assert len(kept) == 1 + MAX_UNPROVED
    assert kept[-1].submitted == b"%d\n\n" % (3 * MAX_UNPROVED - 1)


def test_another_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.db"
    WitnessDatabase(path)
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 7")
    database.close()
    with pytest.raises(LogError):
        WitnessDatabase(path)


def test_a_stored_note_is_verified_like_any_other(log: Log, tmp_path: Path) -> None:
    """Whoever can write the witness's disk cannot make it forget by storing a tree that the log never signed."""
    store = VolatileWitnessStore()
    witness = new_witness(log, store)
    forged = Note(
        log.note(HONEST[:2]).text, (NoteSignature(log.key.public.name, log.key.public.id, bytes(64)),)
    )
    store.replace(log.key.public.name, None, forged.encode())
    application = witness_application(witness)
    body = encode_request(2, (), log.note(HONEST[:2]).encode())
    assert ask(application, "POST", "/add-checkpoint", body=body).status == 500


def test_the_dialogue_of_a_world(tmp_path: Path) -> None:
    world = World()
    witness = Witness(
        world.witness, [world.log.public], WitnessDatabase(tmp_path / "db"), lambda: int(AT.timestamp())
    )
    release = world.release()
    note = world.sign_tree([release])
    assert witness.add_checkpoint(encode_request(0, (), note.encode())).status == 200
    assert witness.latest(world.log.public.name) is not None
    assert witness.latest("another.example") is None
