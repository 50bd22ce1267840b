"""Lists of nodes in the log: what is published, what its proof says, and that nothing leaves the error family."""

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from list_world import DAY, HONEST, START, VICTIMS, Lists, nodes
from log_programs import cloister

from measurements.errors import Code, TransparencyError
from measurements.log_source import FolderSource
from measurements.logged_list import LoggedList, VerifiedList, check_logged_list
from measurements.monitor import OK, PROVED, STALE, Monitor, Report, describe
from measurements.monitor_state import StateFolder
from measurements.node_list import MAX_NODES, NodeList, parse_nodes
from measurements.policy import TransparencyPolicy
from measurements.publish_list import publish_list
from measurements.rollback import FileMemory, RollbackMemory, Sighting, VolatileMemory
from measurements.signer_set import SignerSet
from measurements.signing_key import SigningKey


@pytest.fixture
def lists(tmp_path: Path) -> Lists:
    return Lists(tmp_path / "log")


def check(
    lists: Lists,
    document: LoggedList,
    *,
    memory: RollbackMemory | None = None,
    policy: TransparencyPolicy | None = None,
) -> VerifiedList:
    return check_logged_list(
        document, policy or lists.policy(), at=lists.at, memory=memory or VolatileMemory()
    )


def why(work: Callable[[], object]) -> Code:
    with pytest.raises(TransparencyError) as caught:
        work()
    return caught.value.code


def test_what_is_published_is_what_is_verified(lists: Lists) -> None:
    done = lists.publish(HONEST[::-1])
    document = LoggedList.parse(done.document.encode())
    assert document == done.document
    found = check(lists, document)
    assert (found.node_list.nodes, found.node_list.sequence, found.index) == (HONEST, 1, 0)
    assert found.cosigned_by == ("witness.example",)
    assert found.leaf_hash == done.listed.leaf_hash


def test_lists_follow_each_other(lists: Lists) -> None:
    first = lists.publish()
    second = lists.publish(VICTIMS)
    assert second.listed.node_list.sequence == 2
    assert second.listed.node_list.previous == first.listed.leaf_hash.hex()
    (*_, newest) = lists.log.listing("prod", [lists.signer.public]).node_lists
    assert newest == second.listed


def test_the_same_nodes_get_fresh_cosignatures_until_half_of_their_time_is_over(lists: Lists) -> None:
    first = lists.publish()
    lists.at += timedelta(hours=11)
    again = lists.publish()
    assert again.renewed
    assert again.listed == first.listed
    assert again.document.proof != first.document.proof
    check(lists, again.document)
    lists.at += timedelta(hours=2)
    later = lists.publish()
    assert not later.renewed
    assert later.listed.node_list.sequence == 2
    # Nor is a list taken up that other keys had signed.
    lists.signer = SigningKey.generate("others.example")
    assert not lists.publish().renewed


def test_what_cannot_be_published(lists: Lists) -> None:
    assert why(lambda: lists.publish(lifetime=8 * DAY)) == Code.TIME_INVALID
    assert why(lambda: lists.publish(lifetime=0 * DAY)) == Code.TIME_INVALID
    assert why(lambda: lists.publish(())) == Code.STATEMENT_MALFORMED
    many = nodes(*(f"node-{number:04}" for number in range(600)))
    with pytest.raises(TransparencyError, match="600 nodes are too many for one entry") as caught:
        lists.publish(many)
    assert caught.value.code is Code.LIMIT_EXCEEDED
    assert lists.publish(many[:480]).listed.node_list.nodes == many[:480]
    longest = nodes(*(f"{number:063}" for number in range(300)))
    assert len(check(lists, lists.publish(longest).document).node_list.nodes) == 300


def test_signers_that_roots_appoint(lists: Lists) -> None:
    roots = [SigningKey.generate(f"root{number}.example") for number in range(2)]
    two = [SigningKey.generate(f"signer{number}.example") for number in range(2)]
    appointed = SignerSet("prod", 1, 2, tuple(key.public for key in two), START, START + 30 * DAY)
    lists.log.log_statement(appointed.statement(), roots)
    policy = lists.policy(
        signers=(), threshold=0, roots=tuple(root.public for root in roots), root_threshold=2
    )
    done = publish_list(lists.log, HONEST, "prod", two)
    found = check(lists, done.document, policy=policy)
    assert found.sighting.signers_sequence == 1
    assert why(lambda: publish_list(lists.log, VICTIMS, "prod", two[:1])) == Code.IDENTITY_MISMATCH
    bare = replace(done.document, signers_leaf=b"", signers_proof=b"")
    assert why(lambda: check(lists, bare, policy=policy)) == Code.PROOF_MISSING
    foreign = replace(done.document, signers_proof=done.document.proof)
    assert why(lambda: check(lists, foreign, policy=policy)) == Code.INCLUSION_INVALID
    # A policy that names its signers has no use for a set, and takes nobody's.
    assert why(lambda: check(lists, done.document)) == Code.IDENTITY_MISMATCH


def test_a_policy_without_a_log_finds_nothing_in_it(lists: Lists) -> None:
    document = lists.publish().document
    policy = lists.policy(profile="sigstore-only")
    assert why(lambda: check(lists, document, policy=policy)) == Code.LOG_UNKNOWN
    ended = lists.policy(not_after=START)
    assert why(lambda: check(lists, document, policy=ended)) == Code.TRUST_ROOT_VALIDITY


def test_one_memory_for_lists_and_releases(lists: Lists, tmp_path: Path) -> None:
    memory = FileMemory(tmp_path / "memory.json")
    found = check(lists, lists.publish().document, memory=memory)
    assert memory.sightings() == ()  # asked, not written
    memory.advance(found.sighting)
    release = Sighting("log.example/r", "prod", 7, b"\1" * 32, 3, 9, b"\2" * 32, b"note")
    memory.advance(release)
    (kept,) = memory.sightings()
    assert (kept.list_sequence, kept.status_sequence, kept.size) == (1, 7, 9)
    second = check(lists, lists.publish(VICTIMS).document, memory=memory)
    memory.advance(second.sighting)
    (kept,) = memory.sightings()
    assert (kept.list_sequence, kept.status_sequence, kept.min_release_sequence) == (2, 7, 3)
    assert why(lambda: memory.check(found.sighting)) == Code.ROLLBACK
    assert why(lambda: memory.check(replace(release, status_sequence=6))) == Code.ROLLBACK
    # The tree that a node's staple showed is the one that lists have to be in.
    fork = replace(second.sighting, size=9, list_sequence=3, node_list=b"\3" * 32)
    assert why(lambda: memory.check(fork)) == Code.SPLIT_VIEW


def test_files_of_before_there_were_lists_are_read(tmp_path: Path) -> None:
    memory = tmp_path / "memory.json"
    memory.write_text(
        '{"v": 1, "seen": [{"log": "l", "channel": "prod", "status_sequence": 4, "status": "aa",'
        f' "min_release_sequence": 1, "size": 2, "root": "{"00" * 32}", "checkpoint": ""}}]}}'
    )
    (kept,) = FileMemory(memory).sightings()
    assert (kept.status_sequence, kept.list_sequence, kept.node_list) == (4, 0, b"")


def monitored(lists: Lists, folder: Path) -> Report:
    state = StateFolder(folder)
    with state.exclusive():
        log = FolderSource(lists.log.tiles.public)
        return Monitor(lists.policy(), state, log).look(lists.at)


def alerts(report: Report) -> list[str]:
    return [str(alert.code) for alert in report.alerts]


def test_a_monitor_lists_every_list(lists: Lists, tmp_path: Path) -> None:
    lists.publish()
    first = monitored(lists, tmp_path / "state")
    assert (first.status, alerts(first)) == (OK, [])
    lists.publish(VICTIMS)
    both = monitored(lists, tmp_path / "state")
    assert [(one["sequence"], one["nodes"]) for one in both.to_json()["node_lists"]] == [(1, 3), (2, 3)]
    assert sum("nodes   list" in line for line in describe(both)) == 2
    lists.at += 2 * DAY
    with lists.log.tiles.exclusive():
        lists.log.tiles.recosign()
    late = monitored(lists, tmp_path / "state")
    assert (late.status, alerts(late)) == (STALE, ["NODE_LIST_STALE"])


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"sequence": 1}, "SEQUENCE_CONFLICT"),
        ({"sequence": 3}, "SEQUENCE_GAP"),
        ({"sequence": 2, "previous": "aa" * 32}, "PREDECESSOR_WRONG"),
        ({"sequence": 2, "expires_at": START + 8 * DAY}, "NODE_LIST_TOO_LONG"),
    ],
)
def test_a_monitor_proves_what_breaks_a_rule(
    lists: Lists, tmp_path: Path, changes: dict[str, Any], code: str
) -> None:
    first = lists.publish().listed.leaf_hash.hex()
    lists.append(lists.leaf(VICTIMS, **{"previous": first, **changes}))
    report = monitored(lists, tmp_path / "state")
    assert (report.status, alerts(report)) == (PROVED, [code])


def test_a_monitor_notices_a_list_that_leaves_less_choice(lists: Lists, tmp_path: Path) -> None:
    lists.publish(nodes("a", "b", "c", "d"))
    lists.publish(nodes("a", "b"))
    report = monitored(lists, tmp_path / "state")
    assert (report.status, alerts(report)) == (OK, ["NODES_FEWER"])


def test_a_list_by_another_signer_is_no_list(lists: Lists, tmp_path: Path) -> None:
    lists.append(lists.leaf(VICTIMS, key=SigningKey.generate("releases.example")))
    report = monitored(lists, tmp_path / "state")
    assert (report.status, alerts(report)) == (PROVED, ["UNKNOWN_SIGNER"])
    assert report.to_json()["node_lists"] == []


def test_commands_show_lists(lists: Lists, tmp_path: Path) -> None:
    done = lists.publish()
    folder = str(tmp_path / "log")
    listed = cloister("release", "list", "--log", folder)
    assert "nodes     list 1, 3 nodes, 2026-06-01T12:00:00Z to 2026-06-02T12:00:00Z, entry 0" in listed.stdout
    assert '"name": "node-b"' in cloister("release", "list", "--log", folder, "--json").stdout
    shown = cloister("release", "show", "0", "--log", folder)
    assert "kind     node-list" in shown.stdout
    document = tmp_path / "directory.json"
    document.write_bytes(done.document.encode())
    compared = cloister("log", "compare", str(document), folder, "--log", str(lists.log.tiles.key))
    assert (compared.returncode, "one log, both at size 1" in compared.stdout) == (0, True)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b'{"leaf":"YQ=="}',
        LoggedList(b"a", b"b").encode().replace(b'"version":2', b'"version":1'),
        LoggedList(b"a", b"b").encode().replace(b'"version":2', b'"version":true'),
        LoggedList(b"a", b"b").encode().replace(b'"YQ=="', b'""'),
        LoggedList(b"a", b"b").encode().replace(b'"YQ=="', b"1"),
        LoggedList(b"a", b"b").encode().replace(b'"version"', b'"v":1,"version"'),
        LoggedList(b"a" * 400_000, b"b").encode(),
        b"[" * 100_000,
    ],
)
def test_what_is_no_document(data: bytes) -> None:
    assert why(lambda: LoggedList.parse(data)) in (Code.STATEMENT_MALFORMED, Code.LIMIT_EXCEEDED)


def test_every_truncation_and_every_changed_byte(lists: Lists) -> None:
    good = lists.publish().document
    raw, draw, policy, memory = good.encode(), random.Random(1), lists.policy(), VolatileMemory()
    for at in range(len(raw)):
        for data in (raw[:at], raw[:at] + bytes([raw[at] ^ draw.randrange(1, 256)]) + raw[at + 1 :]):
            with suppress(TransparencyError):
                found = check_logged_list(LoggedList.parse(data), policy, at=START, memory=memory)
                # What a changed byte may still do is spell another proof of the very same entry.
                assert found.leaf_hash == check(lists, good).leaf_hash


@given(st.binary(max_size=300))
def test_random_bytes(data: bytes) -> None:
    with suppress(TransparencyError):
        LoggedList.parse(data)
    with suppress(TransparencyError):
        LoggedList.parse(b'{"leaf":"' + data)


@given(
    st.recursive(st.none() | st.integers() | st.text(max_size=4), lambda inner: st.lists(inner, max_size=3))
)
def test_nodes_that_are_none(value: object) -> None:
    with suppress(TransparencyError):
        assert parse_nodes(value) == ()
    with suppress(TransparencyError):
        parse_nodes([{"name": "a", "keys": value}, {"name": value, "keys": "00" * 32}])
    assert why(lambda: parse_nodes([{}] * (MAX_NODES + 1))) == Code.STATEMENT_MALFORMED


def test_a_list_counts_in_its_time_and_channel() -> None:
    made = NodeList("prod", 1, START, START + DAY, HONEST)
    made.judge("prod", START - timedelta(seconds=300), max_future_s=300)
    assert why(lambda: made.judge("beta", START, max_future_s=300)) == Code.IDENTITY_MISMATCH
    early, late = START - timedelta(seconds=301), START + DAY
    assert why(lambda: made.judge("prod", early, max_future_s=300)) == Code.NODE_LIST_EXPIRED
    assert why(lambda: made.judge("prod", late, max_future_s=300)) == Code.NODE_LIST_EXPIRED
