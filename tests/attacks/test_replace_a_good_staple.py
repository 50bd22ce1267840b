"""Attempts of a host to replace a running node's staple by one that every user would refuse.

Beside each stands the node whose measured configuration names no log: it has no keys, and takes what is consistent.
"""

import contextlib
import os
import time
import tomllib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from private_world import GPU, now, private_world, publish
from release_world import AT, DIGEST, World
from sealed_node import Node, running, write_tiny_model

from attestation.bundle import CpuSection, EvidenceBundle
from attestation.simulated.amd import ReportSettings, sign_report
from enclave_runtime.config import NodeConfig
from enclave_runtime.errors import ConfigurationError, NodeError
from enclave_runtime.exit_codes import ExitCode
from enclave_runtime.node_launch import LaunchFailed
from enclave_runtime.staple_check import StapleCheck, check_of, staple_policy
from enclave_runtime.staple_feed import StapleRefused, framed, successor
from measurements.note import COSIGNATURE_ED25519
from measurements.publish import ReleaseDraft, ReleaseLog
from measurements.signing_key import SigningKey
from measurements.staple import Staple
from measurements.statement import Subject


class Host:
    """A log of two statuses, the staples of both, and a node that booted with the first."""

    def __init__(self) -> None:
        self.world = World()
        self.at = AT
        self.release = self.world.release()
        statuses = [self.world.status([self.release], sequence=number) for number in (1, 2)]
        self.leaves = [self.release, *statuses]
        self.first = self.world.staple(self.release, statuses[0], leaves=self.leaves[:2])
        self.second = self.staple(statuses[1])
        self.check = self.checking()

    def staple(self, status: bytes, release: bytes | None = None, world: World | None = None) -> Staple:
        leaves = [*self.leaves, *(one for one in (release, status) if one and one not in self.leaves)]
        return (world or self.world).staple(release or self.release, status, leaves=leaves)

    def checking(self, digest: str = DIGEST, **changes: Any) -> StapleCheck:
        key = ec.generate_private_key(ec.SECP384R1())
        settings = ReportSettings(bytes.fromhex(digest), bytes(64), bytes(32))
        section = CpuSection("sev-snp", sign_report(key, bytes(64), settings), {})
        return StapleCheck(self.world.policy(**changes), section, lambda: self.at.timestamp())

    def refused(self, staple: Staple, code: str = "log") -> None:
        with pytest.raises(StapleRefused) as error:
            self.check.successor(self.first, staple.encode())
        assert error.value.code == code

    def taken_by_a_node_without_keys(self, staple: Staple) -> None:
        assert successor(self.first, staple.encode()) == staple


@pytest.fixture
def host() -> Host:
    made = Host()
    made.check.at_boot(made.first)
    return made


def test_control_a_fresh_staple_is_taken(host: Host) -> None:
    assert host.check.successor(host.first, host.second.encode()) == host.second
    host.taken_by_a_node_without_keys(host.second)


@pytest.mark.parametrize("key", ["log", "witness"])
def test_sign_the_tree_with_a_key_of_ones_own(host: Host, key: str) -> None:
    own = {
        "log": SigningKey.generate("log.example/releases"),
        "witness": SigningKey.generate("witness.example", COSIGNATURE_ED25519),
    }
    forger = replace(host.world, **{key: own[key]})
    theirs = host.staple(host.leaves[2], world=forger)
    host.refused(theirs)
    host.taken_by_a_node_without_keys(theirs)


def test_sign_the_status_with_a_key_of_ones_own(host: Host) -> None:
    own = SigningKey.generate("releases.example")
    theirs = host.staple(host.world.status([host.release], sequence=3, signer=own))
    host.refused(theirs)
    host.taken_by_a_node_without_keys(theirs)


def test_hand_over_a_status_that_no_longer_lists_the_release(host: Host) -> None:
    theirs = host.staple(host.world.status([], sequence=3))
    host.refused(theirs)
    host.taken_by_a_node_without_keys(theirs)


def test_let_cosignatures_grow_old(host: Host) -> None:
    host.at += timedelta(hours=25)
    host.refused(host.second)
    host.taken_by_a_node_without_keys(host.second)


def test_go_back_to_an_older_status_under_a_newer_tree(host: Host) -> None:
    older = host.staple(host.leaves[1])
    with pytest.raises(StapleRefused) as error:
        successor(host.second, older.encode())
    assert error.value.code == "older"
    with pytest.raises(StapleRefused):
        host.check.successor(host.second, older.encode())
    host.taken_by_a_node_without_keys(older)  # control: by one that has seen nothing newer


def test_show_another_tree_of_the_same_size(host: Host) -> None:
    other = [host.release, host.world.status([host.release], sequence=2, min_release_sequence=0)]
    fork = host.world.staple(host.release, other[1], leaves=other)
    host.refused(fork, "forked")
    with pytest.raises(StapleRefused) as error:
        successor(host.first, fork.encode())
    assert error.value.code == "forked"
    assert successor(replace(host.first, checkpoint=b"none"), fork.encode()) == fork  # control: nothing known


def test_hand_over_the_release_of_another_image(host: Host) -> None:
    """Genuine in everything, and active; only not what this machine measured as."""
    other = host.world.release("cd" * 48, sequence=2)
    theirs = host.staple(host.world.status([host.release, other], sequence=3), other)
    host.refused(theirs)
    # Control: the machine that measured so takes it; and a new entry for the same image is no other release.
    assert host.checking("cd" * 48).successor(host.first, theirs.encode()) == theirs
    again = host.world.release(sequence=3)
    prolonged = host.staple(host.world.status([again], sequence=4), again)
    assert host.check.successor(host.first, prolonged.encode()) == prolonged


def test_boot_with_a_staple_of_somebody_elses(host: Host) -> None:
    with pytest.raises(NodeError) as error:
        host.checking("cd" * 48).at_boot(host.first)
    assert (error.value.code, error.value.exit_code) == ("staple_refused", ExitCode.STAPLE)
    assert "MEASUREMENT_MISMATCH" in error.value.detail
    host.checking().at_boot(host.first)  # control


def test_random_and_changed_bytes_stay_in_the_family(host: Host) -> None:
    file = host.second.encode()
    for place in range(0, len(file), 11):
        for data in (file[:place], file[:place] + bytes([file[place] ^ 1]) + file[place + 1 :]):
            with contextlib.suppress(StapleRefused):
                host.check.successor(host.first, data)


@pytest.mark.parametrize(
    "table",
    [
        {"log": "x"},
        {"channel": "prod", "profile": "sigstore-only", "sigstore": {"issuer": "https://a", "subject": "b"}},
        {"more": 1},
    ],
)
def test_a_table_that_a_node_cannot_check_by(table: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as error:
        staple_policy(table)
    assert error.value.code == "config_transparency"
    assert staple_policy({}) is None
    assert check_of({}, b"", time.time) is None
    with pytest.raises(ConfigurationError):
        NodeConfig.parse(NodeConfig("tiny", transparency=table).encode())


# A sealed node, from its boot to a fresh staple.


def _renewed(folder: Path, measurement: bytes, signer: SigningKey) -> Staple:
    """The release with a newer status, by this signer; another one makes a log of the same name for it."""
    log = ReleaseLog.open(folder / "log", lambda: datetime.now(UTC) + timedelta(seconds=1))
    measured = ({"tee": "sev-snp", "launchDigest": measurement.hex()}, GPU)
    draft = ReleaseDraft("test/node", "1", "prod", (Subject("image", measurement.hex()[:64]),), measured)
    return log.publish(draft, [signer]).staple


def _wait(done: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not done():
        assert time.monotonic() < until
        time.sleep(0.05)


def _shows(node: Node, staple: Staple) -> bool:
    return EvidenceBundle.parse(node.bundle()).checkpoint == staple.checkpoint


def test_a_sealed_node_judges_by_the_log_in_its_configuration(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    _, table = publish(tmp_path, bytes(48))
    trusted = tomllib.loads(table)["transparency"]

    def judging(config: NodeConfig) -> NodeConfig:
        # Shown soon, so that the test need not wait.
        metrics = {**config.metrics, "interval_s": 1}
        return replace(config, transparency=trusted, metrics=metrics)

    with private_world(tmp_path, model, change=judging) as world:
        node, signer = world.node, SigningKey.load(tmp_path / "signer.key")
        first = Staple.parse((tmp_path / "staple.json").read_bytes())
        assert _shows(node, first)
        good = _renewed(tmp_path, node.measurement, signer)
        own = SigningKey.generate("signer.test")
        forged = _renewed(tmp_path, node.measurement, own)
        os.write(node.staples, framed(forged.encode()))
        _wait(lambda: b"cloister_staple_refused 1" in node.metrics())
        assert _shows(node, first)
        os.write(node.staples, framed(good.encode()))
        _wait(lambda: _shows(node, good))
        _wait(lambda: b"cloister_staple_refused 0" in node.metrics())
        with world.client() as client:
            assert client.verify().error is None


@pytest.mark.exhaustive
def test_a_node_does_not_boot_with_a_staple_of_somebody_elses(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    _, table = publish(tmp_path, bytes(48))
    trusted = tomllib.loads(table)["transparency"]

    def judging(config: NodeConfig) -> NodeConfig:
        return replace(config, transparency=trusted)

    with (
        pytest.raises(LaunchFailed, match="staple_refused"),
        running(tmp_path, model, staple=_foreign(tmp_path), change=judging),
    ):
        pass
    with running(tmp_path, model, staple=_foreign(tmp_path)) as node:  # control
        assert node.bundle()


def test_control_a_sealed_node_without_a_log_takes_the_forged_one(tmp_path: Path) -> None:
    with private_world(tmp_path, write_tiny_model(tmp_path / "model")) as world:
        node = world.node
        log = ReleaseLog.open(tmp_path / "log", now)
        release = log.listing("prod", None).releases[0]
        first = Staple.parse((tmp_path / "staple.json").read_bytes())
        from measurements.release import Status, sign_leaf

        at = now().replace(microsecond=0)
        status = Status("prod", 9, at, at + timedelta(days=1), 0, (release.leaf_hash.hex(),))
        leaf = sign_leaf(status.statement(), [SigningKey.generate("signer.test")])
        with log.tiles.exclusive():
            index, signed = log.tiles.append([leaf])
        forged = replace(
            first, status_leaf=leaf, status_proof=log.proof(index, leaf, signed), checkpoint=signed.raw
        )
        os.write(node.staples, framed(forged.encode()))
        _wait(lambda: _shows(node, forged))
        with world.client() as client:  # and so nobody can use it any more
            assert client.verify().error is not None


def _foreign(folder: Path) -> Path:
    path = folder / "foreign.json"
    path.write_bytes(publish(folder / "other", bytes(range(48)))[0].read_bytes())
    return path
