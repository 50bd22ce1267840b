"""A refusal says what was asked for and what was there, so that its reader knows where to look."""

from datetime import timedelta

import pytest
from release_world import AT, World

from measurements.checkpoint import Checkpoint
from measurements.errors import Code
from measurements.note import COSIGNATURE_ED25519, Note
from measurements.signing_key import SigningKey
from measurements.staple import Staple
from measurements.tlog_policy import TlogPolicy


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def words(world: World, staple: Staple, code: Code) -> str:
    error = world.check(staple).error
    assert error is not None
    assert error.code is code
    return str(error)


def test_times_of_cosignatures(world: World) -> None:
    """Who has a wrong clock sees by how much, in which direction, and at whose cosignature."""
    release = world.release()
    leaves = [release, world.status([release])]
    for seconds, said in ((301, "witness.example 301 s ahead"), (-86_401, "witness.example 86401 s old")):
        note = world.cosigned(world.sign_tree(leaves), AT + timedelta(seconds=seconds))
        told = words(world, world.staple(*leaves, note=note), Code.WITNESS_STALE)
        assert "≤ 86400 s old, ≤ 300 s ahead" in told
        assert said in told


def test_missing_witnesses(world: World) -> None:
    release = world.release()
    leaves = [release, world.status([release])]
    staple = world.staple(*leaves, note=world.sign_tree(leaves))
    assert "expected 1 of witness.example; found 0" in words(world, staple, Code.WITNESS_QUORUM)
    other = SigningKey.generate("other.example", COSIGNATURE_ED25519).public
    trust = TlogPolicy.parse(
        f"log {world.log.public}\nwitness one {world.witness.public}\nwitness two {other}\n"
        "group near all one two\ngroup all-of-them any near\nquorum all-of-them\n".encode()
    )
    error = world.check(staple, policy=world.policy(trust=trust)).error
    assert error is not None
    assert "expected 1 of near" in str(error)


def test_another_log(world: World) -> None:
    release = world.release()
    leaves = [release, world.status([release])]
    text = Checkpoint("elsewhere.example", 2, bytes(32)).text
    note = Note(text, (world.log.sign_note(text),))
    told = words(world, world.staple(*leaves, note=note), Code.LOG_UNKNOWN)
    assert "expected log.example/releases; found elsewhere.example" in told
