"""What a monitor says of honest and of dishonest logs, and what it keeps."""

import hashlib
import json
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_programs import cloister, running

from measurements.alerts import AlertCode, Severity
from measurements.errors import Code, TransparencyError
from measurements.log import TileLog
from measurements.log_source import FolderSource
from measurements.merkle import leaf_hash
from measurements.monitor import ERROR, OK, PROVED, STALE, Monitor, Report, describe
from measurements.monitor_command import watch
from measurements.monitor_state import StateFolder
from measurements.note import COSIGNATURE_ED25519
from measurements.policy import TransparencyPolicy, policy_table
from measurements.publish import ReleaseDraft, ReleaseLog
from measurements.release import Release, Revocation, Status, sign_leaf
from measurements.revocation import RevocationNotice
from measurements.rollback import FileMemory, Sighting
from measurements.signing_key import SigningKey
from measurements.statement import Subject
from measurements.tiles import tile_path
from measurements.views import SplitView
from measurements.witness import VolatileWitnessStore, Witness

START = datetime(2026, 6, 1, 12, tzinfo=UTC)


class Place:
    """A log on a folder with a witness and a signer; its operator may append anything."""

    def __init__(self, folder: Path) -> None:
        self.at = START
        self.folder = folder
        self.key = SigningKey.generate("log.example/watched")
        self.witness_key = SigningKey.generate("witness.example", COSIGNATURE_ED25519)
        self.signer = SigningKey.generate("releases.example")
        self.witness = self.new_witness()
        self.log = self.open(folder / "log")
        self.log.create()

    def new_witness(self) -> Witness:
        return Witness(
            self.witness_key, [self.key.public], VolatileWitnessStore(), lambda: int(self.at.timestamp())
        )

    def open(self, folder: Path, witness: Witness | None = None) -> TileLog:
        return TileLog(folder, self.key, [witness or self.witness])

    def append(self, *leaves: bytes, log: TileLog | None = None) -> None:
        log = log or self.log
        with log.exclusive():
            log.append(leaves)

    def second_history(self, *leaves: bytes) -> TileLog:
        """The same log with another continuation, cosigned by a witness that has forgotten the first."""
        shutil.copytree(self.folder / "log", self.folder / "second")
        log = self.open(self.folder / "second", self.new_witness())
        self.append(*leaves, log=log)
        return log

    def release(self, sequence: int, previous: bytes = b"", **changes: Any) -> bytes:
        release = Release(
            name="acme/node",
            channel="prod",
            version=f"1.{sequence}",
            sequence=sequence,
            not_before=self.at,
            not_after=self.at + timedelta(days=30),
            subjects=(Subject("image", f"{sequence:064x}"),),
            measurements=({"tee": "sev-snp", "launchDigest": f"{sequence:096x}"},),
            previous=leaf_hash(previous).hex() if previous else "",
        )
        signer = changes.pop("signer", self.signer)
        return sign_leaf(replace(release, **changes).statement(), [signer])

    def status(self, sequence: int, active: Sequence[bytes], **changes: Any) -> bytes:
        status = Status(
            channel="prod",
            sequence=sequence,
            issued_at=self.at,
            expires_at=self.at + timedelta(hours=48),
            min_release_sequence=1,
            active=tuple(leaf_hash(leaf).hex() for leaf in active),
        )
        return sign_leaf(replace(status, **changes).statement(), [self.signer])

    @property
    def policy_text(self) -> str:
        return policy_table(
            log=self.key.public,
            witnesses=[self.witness_key.public],
            signers=[self.signer.public],
            channel="prod",
        )

    @property
    def policy(self) -> TransparencyPolicy:
        return TransparencyPolicy.from_table(tomllib.loads(self.policy_text)["transparency"])

    def look(
        self, *others: Path, log: Path | None = None, artefacts: Path | None = None, former: Any = ()
    ) -> Report:
        state = StateFolder(self.folder / "state")
        sources = [FolderSource(other) for other in others]
        monitor = Monitor(
            self.policy,
            state,
            FolderSource(log or self.folder / "log"),
            sources,
            artefacts=FolderSource(artefacts) if artefacts else None,
            due=timedelta(hours=1),
            former_signers=former,
        )
        with state.exclusive():
            return monitor.look(self.at)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def codes(report: Report) -> list[str]:
    return [alert.code for alert in report.alerts]


def test_an_honest_log_has_nothing_to_report(place: Place) -> None:
    first = place.release(1)
    place.append(first, place.status(1, [first]))
    report = place.look()
    assert (codes(report), report.status, report.size, report.added) == ([], OK, 2, 2)
    second = place.release(2, first)
    place.append(second, place.status(2, [first, second]))
    report = place.look()
    assert (codes(report), report.status, report.size, report.added) == ([], OK, 4, 2)
    assert [(one["version"], one["state"]) for one in report.to_json()["releases"]] == [
        ("1.1", "active"),
        ("1.2", "active"),
    ]
    assert place.look().added == 0
    assert any("releases 2, active 2" in line for line in describe(report))


def test_it_goes_on_across_tiles(place: Place) -> None:
    """Stopped anywhere, also in the middle of a tile, it ends where one long look ends."""
    leaf = place.release(1)
    place.append(leaf, place.status(1, [leaf]))
    place.look()
    for batch in (3, 250, 1, 1, 300, 256):
        size = place.log.checkpoint().checkpoint.size
        place.append(*(place.status(size + n, [leaf]) for n in range(batch)))
        assert codes(place.look()) == []
    state = StateFolder(place.folder / "state").load(str(place.key.public))
    shutil.rmtree(place.folder / "state")
    place.look()
    assert StateFolder(place.folder / "state").load(str(place.key.public)) == state


Spoil = Callable[[Place, bytes], Sequence[bytes]]
SPOILED: dict[AlertCode, Spoil] = {
    AlertCode.UNKNOWN_SIGNER: lambda p, one: [
        p.release(2, one, signer=SigningKey.generate("mallory.example"))
    ],
    AlertCode.NOT_A_STATEMENT: lambda p, one: [b"anything"],
    AlertCode.SEQUENCE_CONFLICT: lambda p, one: [p.release(1, version="1.1-for-you")],
    AlertCode.SEQUENCE_GAP: lambda p, one: [p.status(5, [one])],
    AlertCode.PREDECESSOR_WRONG: lambda p, one: [p.release(2, b"another")],
    AlertCode.MINIMUM_LOWERED: lambda p, one: [p.status(2, [one], min_release_sequence=0)],
    AlertCode.ACTIVE_SET_TOO_LARGE: lambda p, one: many(p, one),
    AlertCode.ACTIVE_NOT_LISTED: lambda p, one: [p.status(2, [one, b"hidden"])],
    AlertCode.REVOKED_YET_ACTIVE: lambda p, one: [
        p.status(2, [one], revoked=(Revocation(leaf_hash(one).hex(), "bad"),))
    ],
    AlertCode.VALIDITY_TOO_LONG: lambda p, one: [
        p.release(2, one, not_after=p.at + timedelta(days=91)),
    ],
    AlertCode.STATUS_TOO_LONG: lambda p, one: [p.status(2, [one], expires_at=p.at + timedelta(days=8))],
}


def many(place: Place, one: bytes) -> list[bytes]:
    releases = [one]
    for sequence in range(2, 10):
        releases.append(place.release(sequence, releases[-1]))
    return [*releases[1:], place.status(2, releases)]


@pytest.mark.parametrize("code", SPOILED)
def test_what_breaks_a_rule_is_said_once_and_kept(place: Place, code: AlertCode) -> None:
    first = place.release(1)
    place.append(first, place.status(1, [first]))
    assert codes(place.look()) == []
    place.append(*SPOILED[code](place, first))
    report = place.look()
    assert codes(report) == [code]
    assert (report.status, report.alerts[0].severity) == (PROVED, Severity.PROVED)
    assert report.alerts[0].index is not None
    again = place.look()
    assert (codes(again), again.status, [alert.code for alert in again.earlier]) == ([], OK, [code])
    # A monitor that begins only now finds the same.
    shutil.rmtree(place.folder / "state")
    assert codes(place.look()) == [code]


def test_a_release_brought_back_after_its_revocation(place: Place) -> None:
    first = place.release(1)
    revoked = (Revocation(leaf_hash(first).hex(), "bad"),)
    place.append(first, place.status(1, [first]), place.status(2, [], revoked=revoked))
    assert codes(place.look()) == []
    place.append(place.status(3, [first]))
    assert codes(place.look()) == [AlertCode.REVOKED_YET_ACTIVE]


def test_a_revocation_that_no_status_follows(place: Place) -> None:
    """Clients go on with the release as long as the last status lasts: that stands until a status ends it."""
    first = place.release(1)
    place.append(first, place.status(1, [first]))
    assert codes(place.look()) == []
    identity = leaf_hash(first).hex()
    notice = RevocationNotice("prod", identity, "bad", place.at, 2)
    place.append(sign_leaf(notice.statement(), [place.signer]))
    for _ in range(2):
        report = place.look()
        assert (codes(report), report.status) == ([AlertCode.REVOKED_YET_ACTIVE], STALE)
    place.append(place.status(2, [], revoked=(Revocation(identity, "bad"),)))
    report = place.look()
    assert (codes(report), report.status) == ([], OK)


def test_the_same_statement_twice_is_no_conflict(place: Place) -> None:
    first = place.release(1)
    place.append(first, first, place.status(1, [first]))
    assert codes(place.look()) == []


def test_a_rotation_of_signers(place: Place) -> None:
    """Who begins to read later knows the old key for what it signed before, and for nothing after."""
    old = place.signer
    first = place.release(1)
    place.append(first, place.status(1, [first]))
    place.signer = SigningKey.generate("releases.example/2")
    assert codes(place.look()) == [AlertCode.UNKNOWN_SIGNER] * 2
    shutil.rmtree(place.folder / "state")
    assert codes(place.look(former=[old.public])) == []
    second = place.release(2, first)
    place.append(second, place.status(2, [first, second]))
    assert codes(place.look(former=[old.public])) == []
    place.append(place.release(3, second, signer=old))
    assert codes(place.look(former=[old.public])) == [AlertCode.UNKNOWN_SIGNER]
    shutil.rmtree(place.folder / "state")
    assert codes(place.look(former=[old.public])) == [AlertCode.UNKNOWN_SIGNER]


def test_time_alone_makes_things_stale(place: Place) -> None:
    first = place.release(1)
    place.append(first, place.status(1, [first]))
    place.look()
    place.at += timedelta(hours=25)
    report = place.look()
    assert (codes(report), report.status) == ([AlertCode.CHECKPOINT_STALE], STALE)
    place.at += timedelta(hours=23)
    assert codes(place.look()) == [AlertCode.CHECKPOINT_STALE, AlertCode.STATUS_STALE]
    with place.log.exclusive():
        place.log.recosign()
    assert codes(place.look()) == [AlertCode.STATUS_STALE]
    assert place.look().status == STALE


def test_a_checkpoint_without_its_witnesses(place: Place) -> None:
    alone = TileLog(place.folder / "log", place.key, [])
    first = place.release(1)
    place.append(first, place.status(1, [first]), log=alone)
    report = place.look()
    assert (codes(report), report.status) == ([AlertCode.WITNESSES_MISSING], STALE)


def check_evidence(place: Place, report: Report) -> None:
    alert = next(alert for alert in report.alerts if alert.code is AlertCode.SPLIT_VIEW)
    assert report.status == PROVED
    assert alert.evidence is not None
    proof = SplitView.parse(Path(alert.evidence).read_bytes())
    old, new = proof.verify(place.key.public)
    assert old.size <= new.size
    with pytest.raises(TransparencyError):
        proof.verify(SigningKey.generate(place.key.public.name).public)


@pytest.mark.parametrize("longer", [0, 1, 2, 7, 300])
def test_a_mirror_shows_another_history(place: Place, longer: int) -> None:
    """Split views of equal and of different sizes; the honest part may be any prefix."""
    first = place.release(1)
    place.append(first, place.status(1, [first]))
    second = place.second_history(place.status(2, [], min_release_sequence=2))
    place.append(place.status(2, [first]), *(place.status(3 + n, [first]) for n in range(longer)))
    report = place.look(place.folder / "second")
    assert codes(report) == [AlertCode.SPLIT_VIEW]
    check_evidence(place, report)
    # It stays said: reported before, and the exit status is the same.
    again = place.look()
    assert (codes(again), again.status) == ([], PROVED)
    assert second.checkpoint().checkpoint.size == 3


def test_a_log_that_changes_its_past_between_two_looks(place: Place) -> None:
    first = place.release(1)
    place.append(first, place.status(1, [first]))
    place.second_history(place.status(2, []), place.status(3, []))
    place.append(place.status(2, [first]))
    place.look()
    report = place.look(log=place.folder / "second")
    assert codes(report) == [AlertCode.SPLIT_VIEW]
    check_evidence(place, report)
    # It has not moved on: the log it knows is still looked at.
    assert place.look().size == 3


def test_a_log_that_shows_less_than_before(place: Place) -> None:
    first = place.release(1)
    place.append(first, place.status(1, [first]))
    shutil.copytree(place.folder / "log", place.folder / "old")
    place.append(place.status(2, [first]))
    place.look()
    report = place.look(log=place.folder / "old")
    assert (codes(report), report.status, report.size) == ([AlertCode.LOG_BEHIND], STALE, 3)


def test_a_log_that_hides_its_newest_entries_from_us(place: Place) -> None:
    """The witness, or a mirror, has seen more than the log shows us."""
    first = place.release(1)
    place.append(first, place.status(1, [first]))
    shutil.copytree(place.folder / "log", place.folder / "old")
    place.append(place.status(2, [first]))
    report = place.look(place.folder / "log", log=place.folder / "old")
    assert (codes(report), report.status) == ([AlertCode.LOG_BEHIND], STALE)
    assert "cannot be joined" not in report.alerts[0].detail
    bare = place.folder / "witness-view"
    bare.mkdir()
    shutil.copy(place.folder / "log" / "public" / "checkpoint", bare)
    report = place.look(bare, log=place.folder / "old")
    assert codes(report) == [AlertCode.LOG_BEHIND]
    assert "cannot be joined" in report.alerts[0].detail


def test_a_source_that_is_not_there_is_a_notice(place: Place) -> None:
    first = place.release(1)
    place.append(first, place.status(1, [first]))
    report = place.look(place.folder / "nowhere")
    assert (codes(report), report.status) == ([AlertCode.SOURCE_UNREACHABLE], OK)


def test_a_broken_tile_is_an_error_and_nothing_is_remembered(place: Place) -> None:
    first = place.release(1)
    place.append(first, place.status(1, [first]))
    path = place.folder / "log" / "public" / tile_path(None, 0, 2)
    good = path.read_bytes()
    path.write_bytes(good.replace(b"payload", b"Payload"))
    with pytest.raises(TransparencyError) as caught:
        place.look()
    assert caught.value.code is Code.LOG_CORRUPT
    assert not (place.folder / "state" / "state.json").exists()
    path.write_bytes(good)
    assert codes(place.look()) == []


def test_a_log_full_of_rubbish_says_so_briefly(place: Place) -> None:
    place.append(*(b"rubbish %d" % number for number in range(1500)))
    report = place.look()
    assert len(report.alerts) == 1001
    assert report.alerts[-1].code is AlertCode.FURTHER_ALERTS
    assert report.alerts[-1].detail.startswith("500 ")
    assert (report.status, report.channels) == (PROVED, {})


def test_artefacts_are_looked_for_when_they_are_due(place: Place) -> None:
    files = place.folder / "files"
    files.mkdir()
    sbom = b"what is in it"
    digest = hashlib.sha256(sbom).hexdigest()
    first = place.release(
        1, materials={"sbom": {"digest": {"sha256": digest}}, "note": "x", "other": {"sha256": "Z"}}
    )
    place.append(first, place.status(1, [first]))
    assert codes(place.look(artefacts=files)) == []
    place.at += timedelta(hours=2)
    report = place.look(artefacts=files)
    assert (codes(report), report.status) == ([AlertCode.ARTEFACT_MISSING], STALE)
    (files / digest).write_bytes(b"something else")
    assert codes(place.look(artefacts=files)) == [AlertCode.ARTEFACT_WRONG]
    (files / digest).write_bytes(sbom)
    assert codes(place.look(artefacts=files)) == []
    assert codes(place.look()) == []


def test_the_state_is_of_one_log_and_of_one_monitor(place: Place, tmp_path: Path) -> None:
    state = StateFolder(tmp_path / "state")
    place.look()
    with pytest.raises(TransparencyError) as caught:
        state.load(str(SigningKey.generate("log.example/other").public))
    assert caught.value.code is Code.LOG_UNKNOWN
    with (
        state.exclusive(),
        pytest.raises(TransparencyError) as caught,
        StateFolder(tmp_path / "state").exclusive(),
    ):
        pass
    assert caught.value.code is Code.LOG_BUSY


@given(at=st.integers(0, 5000), byte=st.integers(0, 255))
def test_a_broken_state_is_an_error_and_never_an_empty_one(at: int, byte: int) -> None:
    good = STATE
    with tempfile.TemporaryDirectory() as folder:
        state = StateFolder(Path(folder))
        path = Path(folder) / "state.json"
        for data in (
            good[: at % len(good)],
            good[: at % len(good)] + bytes([byte]) + good[at % len(good) + 1 :],
        ):
            path.write_bytes(data)
            with suppress(TransparencyError):
                state.load("log")


STATE = json.dumps(
    {
        "v": 1, "log": "log", "size": 3, "nodes": ["00" * 32, "11" * 32], "checkpoint": "bm90ZQ==",
        "channels": {"prod": {"releases": {}, "release_sequences": {"1": "aa"}, "status_sequences": {},
                              "status": {"index": 1, "payload": "aa", "sequence": 1, "expires_at": "x",
                                         "minimum": 1, "active": [], "revoked": []},
                              "signers": None, "withdrawn": []}},
        "rotated": False,
        "alerts": [{"code": "SPLIT_VIEW", "severity": "proved", "detail": "d", "key": "k", "index": None,
                    "evidence": None}],
    }
).encode()  # fmt: skip


def test_the_state_above_is_a_good_one(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_bytes(STATE)
    assert StateFolder(tmp_path).load("log").tree.size == 3


def test_following_ends_with_the_worst_status(place: Place) -> None:
    first = place.release(1)
    place.append(first, place.status(1, [first]))
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 1:
            place.append(b"anything")
        elif len(slept) == 2:
            (place.folder / "log" / "public" / "checkpoint").rename(place.folder / "away")
        elif len(slept) == 3:
            (place.folder / "away").rename(place.folder / "log" / "public" / "checkpoint")
        else:
            raise KeyboardInterrupt

    assert watch(place.look, follow=True, interval=60, sleep=sleep) == PROVED
    assert slept == [60] * 4
    assert watch(place.look, follow=False, interval=1, sleep=sleep) == OK
    (place.folder / "log" / "public" / "checkpoint").unlink()
    with pytest.raises(TransparencyError):
        watch(place.look, follow=False, interval=1, sleep=sleep)


def test_following_ends_at_a_split_view(place: Place) -> None:
    first = place.release(1)
    place.append(first, place.status(1, [first]))
    place.second_history(place.status(2, []))
    place.append(place.status(2, [first]))

    def never(_: float) -> None:
        raise AssertionError("it should have stopped")

    look = lambda: place.look(place.folder / "second")  # noqa: E731
    assert watch(look, follow=True, interval=1, sleep=never) == PROVED


def test_the_program_reads_over_http_and_compares(place: Place, tmp_path: Path) -> None:
    place.at = datetime.now(UTC).replace(microsecond=0)
    place.witness_key.save(tmp_path / "witness.key")
    (tmp_path / "policy.toml").write_text(place.policy_text)
    options = (
        "--key",
        str(tmp_path / "witness.key"),
        "--state",
        str(tmp_path / "w"),
        "--log",
        str(place.key.public),
    )
    first = place.release(1)
    place.append(first, place.status(1, [first]))
    place.second_history(place.status(2, []))
    place.append(place.status(2, [first]))
    watched = (
        "log",
        "monitor",
        "--policy",
        str(tmp_path / "policy.toml"),
        "--state",
        str(tmp_path / "state"),
    )
    compared = (
        "log",
        "compare",
        "--policy",
        str(tmp_path / "policy.toml"),
        "--evidence",
        str(tmp_path / "e.json"),
    )
    with (
        running("log", "witness", *options) as witness,
        running("log", "serve", "--log", str(tmp_path / "log")) as log,
    ):
        done = cloister(*watched, "--log", log, "--witness", witness, "--json")
        assert done.returncode == OK, done.stderr
        report = json.loads(done.stdout)
        assert (report["size"], [alert["code"] for alert in report["alerts"]]) == (3, ["SOURCE_UNREACHABLE"])
        done = cloister(*watched, "--log", log, "--mirror", str(tmp_path / "second"))
        assert done.returncode == PROVED
        assert "SPLIT_VIEW" in done.stdout
        assert cloister(*compared, log, str(tmp_path / "log")).returncode == OK
        assert cloister(*compared, log, witness).returncode == STALE
        done = cloister(*compared, log, str(tmp_path / "second"), "--json")
        assert (done.returncode, json.loads(done.stdout)["verdict"]) == (PROVED, "split-view")
    proof = ("log", "evidence", str(tmp_path / "e.json"), "--log")
    assert cloister(*proof, str(place.key.public)).returncode == PROVED
    assert cloister(*proof, str(place.signer.public)).returncode == ERROR
    assert cloister(*watched, "--log", "http://127.0.0.1:9").returncode == ERROR
    # That it could not look is never mistaken for what it would say of what it saw.
    tile = tmp_path / "log" / "public" / tile_path(None, 0, 3)
    tile.write_bytes(b"broken")
    shutil.rmtree(tmp_path / "state")
    assert cloister(*watched, "--log", str(tmp_path / "log")).returncode == ERROR
    (tmp_path / "log" / "public" / "checkpoint").write_bytes(b"forged\n")
    assert cloister(*watched, "--log", str(tmp_path / "log")).returncode == ERROR
    assert cloister(*compared, str(tmp_path / "log"), str(tmp_path / "second")).returncode == ERROR


def test_a_terminal_obeys_nobody_who_writes_to_a_log(place: Place, tmp_path: Path) -> None:
    place.at = datetime.now(UTC).replace(microsecond=0)
    (tmp_path / "policy.toml").write_text(place.policy_text)
    mallory = SigningKey.generate("\u202emallory")
    place.append(
        place.release(1, version="\x1b[2J", signer=mallory), place.release(1, version="\x1b]0;x\x07")
    )
    options = ("--policy", str(tmp_path / "policy.toml"), "--state", str(tmp_path / "state"))
    done = cloister("log", "monitor", "--log", str(tmp_path / "log"), *options)
    assert done.returncode == PROVED
    assert "mallory" in done.stdout
    assert not set("\x1b\x07\u202e") & set(done.stdout)


def test_compare_reads_whatever_holds_a_checkpoint(place: Place, tmp_path: Path) -> None:
    first = place.release(1)
    place.append(first, place.status(1, [first]))
    published = ReleaseLog(place.folder / "log", place.log, lambda: place.at)
    done = published.publish(
        ReleaseDraft("acme/node", "1.2", "prod", (Subject("image", "00" * 32),), ({"tee": "x"},)),
        [place.signer],
    )
    (tmp_path / "staple.json").write_bytes(done.staple.encode())
    (tmp_path / "proof").write_bytes(done.staple.release_proof)
    shutil.copytree(place.folder / "log", tmp_path / "earlier")
    signed = done.checkpoint
    sighting = Sighting(
        place.key.public.name,
        "prod",
        2,
        bytes(32),
        1,
        signed.checkpoint.size,
        signed.checkpoint.root,
        signed.raw,
    )
    FileMemory(tmp_path / "memory.json").advance(sighting)
    other = replace(sighting, log="log.example/another", checkpoint=b"not looked at\n1\n\n")
    place.append(place.status(3, [first]))
    log = str(tmp_path / "log")
    for file in ("staple.json", "proof", "memory.json", "earlier"):
        assert compare(place, tmp_path, log, str(tmp_path / file)) == OK, file
        assert compare(place, tmp_path, str(tmp_path / file), log) == OK, file
    assert compare(place, tmp_path, str(tmp_path / "proof"), str(tmp_path / "staple.json")) == OK
    checkpoint = str(tmp_path / "log" / "public" / "checkpoint")
    assert compare(place, tmp_path, checkpoint, str(tmp_path / "proof")) == ERROR  # no tiles to join them by
    assert compare(place, tmp_path, checkpoint, str(tmp_path / "proof"), "--tiles", log) == OK
    assert compare(place, tmp_path, log, str(tmp_path)) == STALE
    assert compare(place, tmp_path, log, str(tmp_path / "missing")) == ERROR
    assert other.log != sighting.log


def compare(place: Place, folder: Path, *arguments: str) -> int:
    (folder / "policy.toml").write_text(place.policy_text)
    fixed = ("--policy", str(folder / "policy.toml"), "--evidence", str(folder / "e.json"))
    return cloister("log", "compare", *arguments, *fixed).returncode
