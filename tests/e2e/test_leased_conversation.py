"""A user holds a lease over the wire: through the relay, from a sealed node, with the client's own programs."""

import asyncio
import json
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from private_world import World, private_world
from sealed_node import chat, write_tiny_model

from attestation.bundle import EvidenceBundle
from client_sdk.errors import NodeRefused
from client_sdk.lease import Lease

LEASES = {"count": 1, "tokens": 192, "seconds": 60, "store": "sealed"}
TURNS = [{"role": "user", "content": "a beginning that is long enough to fill a block or two, and some more"}]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    model = write_tiny_model(folder / "model")
    with private_world(folder, model, change=lambda config: replace(config, leases=LEASES)) as made:
        yield made


def test_turns_of_a_leased_conversation_are_answered_as_ever(world: World) -> None:
    with world.client() as client:
        without = ["".join(client.chat(TURNS, max_tokens=30, seed=turn)) for turn in range(3)]
        with client.lease() as lease:
            assert lease.open
            assert (lease.tokens, lease.seconds) == (192, 60)
            answers = [
                "".join(client.chat(TURNS, max_tokens=30, seed=turn, lease=lease)) for turn in range(3)
            ]
            assert lease.open
        assert answers == without
        assert not lease.open
        assert lease.credential is None
        assert "".join(client.chat(TURNS, max_tokens=30, seed=0, lease=lease)) == without[0]


def test_the_manifest_says_what_may_be_leased(world: World) -> None:
    assert json.loads(EvidenceBundle.parse(world.node.bundle()).runtime)["leases"] == LEASES


def test_a_lease_ends_by_itself_and_leaves_its_place_to_another(world: World) -> None:
    with world.client() as client:
        with client.lease(seconds=1) as lease:
            assert lease.seconds == 1
            with pytest.raises(NodeRefused) as caught, client.lease():
                pass
            assert (caught.value.code, caught.value.status) == ("overloaded", 503)
            credential = lease.credential
            opened_again = asyncio.run(opening_until_there_is_room(world))
            assert opened_again != credential
            assert_ends(lease)
        assert asyncio.run(opening_until_there_is_room(world)), "whoever leaves makes room, too"


def assert_ends(lease: Lease) -> None:
    """The end of a lease's stream may still be on its way through the relay when others see that it has ended."""
    for _ in range(200):
        if not lease.open:
            return
        time.sleep(0.05)
    pytest.fail("the lease goes on")


async def opening_until_there_is_room(world: World) -> str | None:
    """The credential of a lease that could be opened once the other one's time was up."""
    client = world.client()
    try:
        while True:
            try:
                async with client.alease() as lease:
                    assert lease.open
                    return lease.credential
            except NodeRefused as refused:
                if refused.code != "overloaded":
                    raise
                await asyncio.sleep(0.1)
    finally:
        await client.aclose()


def test_draining_ends_leases_and_then_the_node(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    with (
        private_world(tmp_path, model, change=lambda config: replace(config, leases=LEASES)) as world,
        world.client() as client,
        client.lease() as lease,
    ):
        assert "".join(client.chat(TURNS, max_tokens=3, lease=lease))
        world.node.process.send_signal(signal.SIGUSR1)
        assert world.node.process.wait(60) == 0
        assert_ends(lease)


def test_a_request_may_bring_any_credential_and_is_answered(world: World) -> None:
    status, answer = world.node.ask("/v1/chat/completions", chat("hello", seed=1, lease="A" * 86))
    plain = world.node.ask("/v1/chat/completions", chat("hello", seed=1))
    assert (status, json.loads(answer)["choices"]) == (plain[0], json.loads(plain[1])["choices"])
    for wrong in ("", "A" * 85, "A" * 87, "ä" * 86, 7, ["A" * 86]):
        status, answer = world.node.ask("/v1/chat/completions", chat("hello", lease=wrong))
        assert (status, json.loads(answer)["error"]["param"]) == (400, "lease")
    for name in ("cache_salt", "prompt_cache_key"):
        status, answer = world.node.ask("/v1/chat/completions", chat("hello", **{name: "victim"}))
        assert (status, json.loads(answer)["error"]["code"]) == (400, "unknown_parameter")
    for body in ({}, {"secret": "A" * 42}, {"secret": "A" * 42 + "B"}, {"secret": "A" * 43, "seconds": 0}):
        assert world.node.ask("/v1/lease", body)[0] == 400
