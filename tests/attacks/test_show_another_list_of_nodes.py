"""Attempts to show one client another list of nodes than everybody is shown. None of them needs a node."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from list_world import DAY, HONEST, VICTIMS, Lists, nodes
from private_world import relay

from client_sdk.directory import Directory
from client_sdk.errors import DirectoryRefused
from client_sdk.fleet import Fleet
from client_sdk.policy import FleetDemands, Policy
from measurements.errors import Code, TransparencyError
from measurements.log import TileLog
from measurements.log_source import FolderSource
from measurements.logged_list import LoggedList
from measurements.monitor import OK, PROVED, Monitor
from measurements.monitor_state import StateFolder
from measurements.note import COSIGNATURE_ED25519
from measurements.policy import TransparencyPolicy
from measurements.release import Status, sign_leaf
from measurements.signing_key import SigningKey
from measurements.witness import VolatileWitnessStore, Witness


@pytest.fixture
def lists(tmp_path: Path) -> Lists:
    return Lists(tmp_path / "log")


@pytest.fixture
def shown(lists: Lists) -> Iterator[Callable[..., Directory]]:
    """What a client makes of a list that its relay shows it."""
    with ExitStack() as running:

        def fetch(
            data: bytes,
            *,
            memory: Path | None = None,
            logged: bool = True,
            log: TransparencyPolicy | None = None,
            mirror: bytes | None = None,
        ) -> Directory:
            target = {"node-a": "http://127.0.0.1:9"}
            url = running.enter_context(relay(target, lambda: data))
            mirrors: tuple[str, ...] = ()
            if mirror is not None:
                mirrors = (f"{running.enter_context(relay(target, lambda: mirror))}/directory",)
            policy = replace(
                Policy.production(),
                transparency=log or lists.policy(),
                fleet=FleetDemands(mirrors=mirrors, logged=logged),
            )
            return Fleet(url, policy, memory=memory, timeout=30, now=lambda: lists.at).directory()

        yield fetch


def refused(code: str, work: Callable[[], object]) -> None:
    with pytest.raises(DirectoryRefused) as error:
        work()
    assert error.value.code == code


def test_show_a_victim_a_list_that_is_not_in_the_log(lists: Lists, shown: Callable[..., Directory]) -> None:
    """By whoever runs the relay, and then by an operator whose signers help, but not the log."""
    honest = lists.publish().document
    alone = Directory.build("prod", VICTIMS)
    refused("directory_not_logged", lambda: shown(alone.raw))
    # Signed by the right key, beside the proof of what everybody is shown.
    theirs = LoggedList(lists.leaf(VICTIMS), honest.proof)
    refused("directory_inclusion_invalid", lambda: shown(theirs.encode()))
    assert shown(honest.encode()).nodes == HONEST
    # Control: a policy that does without the log takes either.
    assert shown(alone.raw, logged=False).nodes == shown(theirs.encode(), logged=False).nodes == VICTIMS


def test_hide_the_newest_list_behind_an_older_one(
    lists: Lists, shown: Callable[..., Directory], tmp_path: Path
) -> None:
    memory = tmp_path / "memory.json"
    first = lists.publish(VICTIMS)
    second = lists.publish(HONEST)
    assert shown(second.document.encode(), memory=memory).nodes == HONEST
    # Genuine, in its time, and under the newest tree.
    older = lists.shown_again(first.document, first.listed.index)
    refused("directory_rollback", lambda: shown(older.encode(), memory=memory))
    assert shown(second.document.encode(), memory=memory).nodes == HONEST
    assert shown(older.encode()).nodes == VICTIMS  # control: who remembers nothing believes it until it ends


def test_go_on_with_a_list_whose_time_is_over(lists: Lists, shown: Callable[..., Directory]) -> None:
    done = lists.publish(VICTIMS)
    lists.at += DAY - timedelta(seconds=1)
    again = lists.shown_again(done.document, done.listed.index)
    assert shown(again.encode()).nodes == VICTIMS  # control: the same a second before
    lists.at += timedelta(seconds=1)
    again = lists.shown_again(done.document, done.listed.index)
    refused("directory_expired", lambda: shown(again.encode()))


def test_go_on_with_cosignatures_of_the_day_before(lists: Lists, shown: Callable[..., Directory]) -> None:
    done = lists.publish(VICTIMS, lifetime=3 * DAY)
    lists.at += DAY + timedelta(seconds=1)
    refused("directory_witness_stale", lambda: shown(done.document.encode()))
    fresh = lists.shown_again(done.document, done.listed.index)
    assert shown(fresh.encode()).nodes == VICTIMS  # control


def test_sign_a_list_with_a_key_of_ones_own(lists: Lists, shown: Callable[..., Directory]) -> None:
    """In the log for all to see, and yet not by those whose word counts."""
    own = SigningKey.generate("releases.example")
    (document,) = lists.append(lists.leaf(VICTIMS, key=own))
    refused("directory_identity_mismatch", lambda: shown(document.encode()))
    trusting = lists.policy(signers=(own.public,))
    assert shown(document.encode(), log=trusting).nodes == VICTIMS  # control


def test_bring_the_proof_of_another_entry(lists: Lists, shown: Callable[..., Directory]) -> None:
    status = Status("prod", 1, lists.at, lists.at + DAY, 0, ())
    other, good = lists.append(sign_leaf(status.statement(), [lists.signer]), lists.leaf(HONEST))
    theirs = LoggedList(lists.leaf(VICTIMS), other.proof)
    refused("directory_inclusion_invalid", lambda: shown(theirs.encode()))
    # An entry of another kind with its own proof: genuine in everything, and no list.
    refused("directory_predicate_type", lambda: shown(other.encode()))
    crossed = replace(good, proof=other.proof)
    refused("directory_inclusion_invalid", lambda: shown(crossed.encode()))
    assert shown(good.encode()).nodes == HONEST  # control


def test_bring_a_list_of_another_channel(lists: Lists, shown: Callable[..., Directory]) -> None:
    (document,) = lists.append(lists.leaf(VICTIMS, channel="beta"))
    refused("directory_identity_mismatch", lambda: shown(document.encode()))
    assert shown(document.encode(), log=lists.policy(channel="beta")).nodes == VICTIMS  # control


def test_log_a_list_in_a_tree_for_one_victim(
    lists: Lists, shown: Callable[..., Directory], tmp_path: Path
) -> None:
    """The log signs a second history. A witness that saw the first does not cosign it; one that helps is not enough
    for a client that saw the first too.
    """
    memory = tmp_path / "memory.json"
    assert shown(lists.publish(HONEST).document.encode(), memory=memory).nodes == HONEST
    key = SigningKey.load(tmp_path / "log" / "keys" / "log.key")
    lonely = TileLog(tmp_path / "second", key, [])
    lonely.create()
    # What the log writes needs the log's folder; the proof is made by hand of the second one's tiles.
    (document,) = _append(lonely, lists.leaf(VICTIMS))
    refused("directory_witness_quorum", lambda: shown(document.encode()))
    unwitnessed = TransparencyPolicy.from_table(
        {
            "log": str(key.public),
            "witnesses": [],
            "quorum": 0,
            "signers": [str(lists.signer.public)],
            "channel": "prod",
        }
    )
    assert shown(document.encode(), log=unwitnessed).nodes == VICTIMS  # control: no witness is asked for
    refused("directory_split_view", lambda: shown(document.encode(), log=unwitnessed, memory=memory))
    helper = SigningKey.load(tmp_path / "log" / "witness" / "witness.key")
    assert helper.public.algorithm == COSIGNATURE_ED25519
    forgetful = Witness(helper, [key.public], VolatileWitnessStore(), lambda: int(lists.at.timestamp()))
    cosigned = TileLog(tmp_path / "third", key, [forgetful])
    cosigned.create()
    (document,) = _append(cosigned, lists.leaf(VICTIMS))
    assert (
        shown(document.encode()).nodes == VICTIMS
    )  # control: witness and log together, and nothing remembered
    refused("directory_split_view", lambda: shown(document.encode(), memory=memory))


def test_log_a_second_list_of_the_same_number(
    lists: Lists, shown: Callable[..., Directory], tmp_path: Path
) -> None:
    """Operator, log and witnesses together: what they show one victim stands in the log for everybody to see."""
    memory = tmp_path / "memory.json"
    honest = lists.publish(HONEST).document
    assert shown(honest.encode(), memory=memory).nodes == HONEST
    assert _monitored(lists, tmp_path / "before") == (OK, [])  # control
    (document,) = lists.append(lists.leaf(VICTIMS))
    assert shown(document.encode()).nodes == VICTIMS
    refused("directory_split_view", lambda: shown(document.encode(), memory=memory))
    assert _monitored(lists, tmp_path / "state") == (PROVED, ["SEQUENCE_CONFLICT"])


def test_a_mirror_with_another_entry(lists: Lists, shown: Callable[..., Directory]) -> None:
    first, second = lists.publish(HONEST), lists.publish(VICTIMS)
    refused(
        "directory_differs",
        lambda: shown(first.document.encode(), mirror=second.document.encode()),
    )
    # Control: another proof of the same entry is the same list.
    again = lists.shown_again(first.document, first.listed.index)
    assert shown(first.document.encode(), mirror=again.encode()).nodes == HONEST


def test_a_list_that_leaves_no_choice_is_refused_though_it_is_in_the_log(
    lists: Lists, shown: Callable[..., Directory], tmp_path: Path
) -> None:
    memory = tmp_path / "memory.json"
    lonely = lists.publish(nodes("mine")).document
    refused("directory_too_short", lambda: shown(lonely.encode(), memory=memory))
    assert not memory.exists()  # and a list that was refused leaves no mark


def _append(tiles: TileLog, leaf: bytes) -> list[LoggedList]:
    from measurements.merkle import prove_inclusion
    from measurements.tlog_proof import TlogProof

    with tiles.exclusive():
        index, signed = tiles.append([leaf])
    size = signed.checkpoint.size
    path = prove_inclusion(index, size, tiles.reader(size).node)
    return [LoggedList(leaf, TlogProof(index, path, signed.raw).encode())]


def _monitored(lists: Lists, folder: Path) -> tuple[int, list[str]]:
    state = StateFolder(folder)
    with state.exclusive():
        report = Monitor(lists.policy(), state, FolderSource(lists.log.tiles.public)).look(lists.at)
    return report.status, [str(alert.code) for alert in report.alerts]


def test_a_memory_that_cannot_be_read_refuses(
    lists: Lists, shown: Callable[..., Directory], tmp_path: Path
) -> None:
    memory = tmp_path / "memory.json"
    memory.write_text("{}")
    document = lists.publish().document.encode()
    refused("directory_memory_unreadable", lambda: shown(document, memory=memory))
    with pytest.raises(DirectoryRefused) as error:
        shown(document, memory=memory)
    assert isinstance(error.value.__cause__, TransparencyError)
    assert error.value.__cause__.code is Code.MEMORY_UNREADABLE
