"""No input, however broken, leaves the room's error family; no changed byte of a staple is accepted."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from release_world import AT, World

from measurements.checkpoint import Checkpoint, open_checkpoint
from measurements.dsse import Envelope
from measurements.errors import Code, TransparencyError
from measurements.http_witness import check_prefix, parse_witness
from measurements.log_server import resource_file
from measurements.note import Note, NoteSignature, VerifierKey
from measurements.policy import TransparencyPolicy, policy_table
from measurements.process_image import parse_image
from measurements.release import Release, Status, open_leaf
from measurements.rollback import FileMemory, Sighting
from measurements.signing_key import SigningKey
from measurements.staple import Staple
from measurements.statement import Statement, canonical, parse_canonical
from measurements.tiles import encode_bundle, parse_bundle
from measurements.tlog_policy import TlogPolicy
from measurements.tlog_proof import TlogProof
from measurements.views import SplitView
from measurements.witness import VolatileWitnessStore, Witness, encode_request, parse_request

WORLD = World()
RELEASE = WORLD.release()
STATUS = WORLD.status([RELEASE])
NOTE = WORLD.cosigned(WORLD.sign_tree([RELEASE, STATUS]))
STAPLE = WORLD.staple(RELEASE, STATUS, note=NOTE)
POLICY = f"log {WORLD.log.public}\nwitness w {WORLD.witness.public}\ngroup g any w\nquorum g\n".encode()
IMAGE = canonical({"v": 1, "files": [{"path": "a/b", "exec": True, "size": 3, "sha256": "0" * 64}]})
TABLE = policy_table(
    log=WORLD.log.public, witnesses=[WORLD.witness.public], signers=[WORLD.signer.public], channel="prod"
)


EVIDENCE = SplitView(
    NOTE.encode(), WORLD.sign_tree([RELEASE, RELEASE, STATUS]).encode(), bytes(32), (bytes(32), bytes(32))
).encode()


def parse_evidence(data: bytes) -> None:
    with suppress(TransparencyError):
        SplitView.parse(data).verify(WORLD.log.public)
    SplitView.parse(data)


def as_text(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda data: parse(data.decode("utf-8", "surrogateescape"))


def parse_statement(data: bytes) -> None:
    statement = Statement.parse(data)
    with suppress(TransparencyError):
        Release.parse(statement)
    with suppress(TransparencyError):
        Status.parse(statement)


def key_line(key: SigningKey, folder: Path) -> bytes:
    path = folder / f"{key.public.id.hex()}.key"
    key.save(path)
    return path.read_bytes().strip()


PARSERS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "vkey": (as_text(VerifierKey.parse), str(WORLD.log.public).encode()),
    "note": (Note.parse, NOTE.encode()),
    "signature line": (as_text(NoteSignature.parse), str(NOTE.signatures[0]).strip().encode()),
    "checkpoint text": (as_text(Checkpoint.parse), NOTE.text.encode()),
    "signed checkpoint": (lambda data: open_checkpoint(data, [WORLD.log.public]), NOTE.encode()),
    "tlog-proof": (TlogProof.parse, STAPLE.release_proof),
    "tlog-policy": (TlogPolicy.parse, POLICY),
    "envelope": (Envelope.parse, RELEASE),
    "leaf": (lambda data: open_leaf(data, [WORLD.signer.public], 1), STATUS),
    "release": (parse_statement, Envelope.parse(RELEASE).payload),
    "status": (parse_statement, Envelope.parse(STATUS).payload),
    "staple": (Staple.parse, STAPLE.encode()),
    "witness request": (parse_request, encode_request(0, (), NOTE.encode())),
    "image.json": (parse_image, IMAGE),
    "split view": (parse_evidence, EVIDENCE),
    "witness option": (
        as_text(parse_witness),
        f"{WORLD.witness.public}=https://witness.example/a".encode(),
    ),
    "resource": (as_text(lambda text: resource_file(text)), b"tile/entries/x001/234.p/7"),
    "URL prefix": (as_text(check_prefix), b"https://log.example:8443/a"),
    "bundle": (lambda data: parse_bundle(data, 2), encode_bundle([b"one", b"two"])),
}


def survives(parse: Callable[[bytes], object], data: bytes) -> None:
    with suppress(TransparencyError):
        parse(data)


@pytest.mark.parametrize("name", PARSERS)
def test_the_good_input_is_accepted(name: str) -> None:
    parse, good = PARSERS[name]
    parse(good)


@pytest.mark.parametrize("name", PARSERS)
def test_every_truncation_and_every_changed_byte(name: str) -> None:
    parse, good = PARSERS[name]
    for at in range(len(good)):
        survives(parse, good[:at])
        for value in (good[at] ^ 1, 0x00, 0xFF, 0x0A):
            survives(parse, good[:at] + bytes([value]) + good[at + 1 :])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300))
@pytest.mark.parametrize("name", PARSERS)
def test_random_bytes(name: str, data: bytes) -> None:
    survives(PARSERS[name][0], data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(value=JSON, at=st.integers(0, 40))
def test_any_value_in_any_place_of_a_statement(value: Any, at: int) -> None:
    """Well-formed canonical JSON with one member exchanged reaches the checks behind the syntax."""
    for payload in (
        Envelope.parse(RELEASE).payload,
        Envelope.parse(STATUS).payload,
        RELEASE,
        STAPLE.encode(),
        IMAGE,
    ):
        document = parse_canonical(payload, limit=1 << 20)
        places = list(_places(document))
        holder, key = places[at % len(places)]
        holder[key] = value
        try:
            data = canonical(document)
        except TransparencyError:
            continue
        for parse in (parse_statement, Envelope.parse, Staple.parse, parse_image):
            survives(parse, data)


def _places(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


@settings(max_examples=100, deadline=None)
@given(
    table=st.dictionaries(st.sampled_from(["log", "witnesses", "quorum", "signers", "channel", "x"]), JSON)
)
def test_any_policy_table(table: dict[str, Any]) -> None:
    with pytest.raises(TransparencyError) as caught:
        TransparencyPolicy.from_table(table)
    assert caught.value.code is Code.TRUST_ROOT_INVALID


def test_deep_nesting_and_huge_numbers_are_refused() -> None:
    for data in (
        b"[" * 40_000,
        b'{"a":' * 8_000,
        b"9" * 40_000,
        b'"\\ud800"',
        b"-0",
        b"1.0",
        b"NaN",
        b'{"a":1,"a":1}',
    ):
        with pytest.raises(TransparencyError):
            parse_canonical(data, limit=1 << 20)


def test_a_staples_version_is_a_number() -> None:
    document = parse_canonical(STAPLE.encode(), limit=1 << 20)
    assert Staple.parse(canonical(document)) == STAPLE
    for version in (True, "1", 2, None):
        with pytest.raises(TransparencyError):
            Staple.parse(canonical({**document, "v": version}))


def test_limits_hold_before_anything_is_parsed() -> None:
    for parse, data in (
        (Note.parse, b"a" * (256 * 1024 + 1)),
        (TlogProof.parse, b"a" * (256 * 1024 + 1)),
        (Envelope.parse, b"a" * 65_536),
        (Staple.parse, b"a" * (400 * 1024 + 1)),
        (parse_request, b"a" * (512 * 1024)),
    ):
        with pytest.raises(TransparencyError) as caught:
            parse(data)
        assert caught.value.code is Code.LIMIT_EXCEEDED
    crowded = Note(NOTE.text, NOTE.signatures * 40)
    with pytest.raises(TransparencyError) as caught:
        Note.parse(crowded.encode())
    assert caught.value.code is Code.LIMIT_EXCEEDED


def test_no_changed_byte_of_a_staple_is_accepted() -> None:
    """Each member in turn, every third byte: a refusal with a named row, and never an exception."""
    assert WORLD.check(STAPLE).require().name == "acme/node"
    for name in (field.name for field in fields(STAPLE)):
        good: bytes = getattr(STAPLE, name)
        for at in range(0, len(good), 3):
            changed = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
            appraisal = WORLD.check(replace(STAPLE, **{name: changed}))
            assert appraisal.value is None, (name, at)
            assert appraisal.error is not None
            assert [row.id for row in appraisal.rows] == [
                "log.signature",
                "log.witness",
                "log.signers",
                "log.status",
                "log.release",
                "log.active",
                "log.sigstore",
                "log.rollback",
            ]


def test_a_witness_answers_anything() -> None:
    witness = Witness(WORLD.witness, [WORLD.log.public], VolatileWitnessStore(), lambda: int(AT.timestamp()))
    good = encode_request(0, (), WORLD.sign_tree([RELEASE]).encode())
    for at in range(len(good)):
        assert witness.add_checkpoint(good[:at]).status in (400, 403, 404)
        changed = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
        assert witness.add_checkpoint(changed).status in (400, 403, 404, 409, 422)
    assert witness.add_checkpoint(good).status == 200


def test_a_broken_memory_file_is_an_error_and_never_an_empty_memory(tmp_path: Path) -> None:
    sighting = Sighting("log.example", "prod", 2, bytes(32), 1, 3, bytes(32), b"note")
    path = tmp_path / "memory.json"
    FileMemory(path).advance(sighting)
    good = path.read_bytes()
    for at in range(0, len(good) - 1, 3):
        path.write_bytes(good[:at])
        with pytest.raises(TransparencyError) as caught:
            FileMemory(path).check(sighting)
        assert caught.value.code is Code.MEMORY_UNREADABLE
    for data in (
        b"[]",
        b"1",
        b'{"v":1,"seen":[1]}',
        b'{"v":2,"seen":[]}',
        b'{"v":1,"seen":{"a":1}}',
        b"[" * 9999,
    ):
        path.write_bytes(data)
        with pytest.raises(TransparencyError):
            FileMemory(path).advance(sighting)


def test_a_key_file_is_never_quoted(tmp_path: Path) -> None:
    line = key_line(WORLD.signer, tmp_path).decode()
    secret = line.rsplit("+", 1)[1]
    for at in range(0, len(line), 2):
        broken = line[:at] + ("A" if line[at] != "A" else "B") + line[at + 1 :]
        with pytest.raises(TransparencyError) as caught:
            SigningKey.parse(broken)
        assert secret[:12] not in f"{caught.value!s}{caught.value!r}{caught.value.__cause__!r}"
    assert secret[:12] not in repr(SigningKey.parse(line))
