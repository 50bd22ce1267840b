"""Attempts to choose a client's node for it: by the list it is shown, by what answers, and by what fails."""

import hashlib
import random
import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import httpx2
import pytest
from private_world import World, now, private_world, relay, serving
from sealed_node import running, write_tiny_model

from client_sdk.client import PrivateClient
from client_sdk.directory import Directory, ListedNode
from client_sdk.errors import DirectoryRefused, RelayUnreachable, VerificationRefused
from client_sdk.fleet import Fleet
from client_sdk.policy import FleetDemands
from client_sdk.sightings import Count, after_draw, suspected
from measurements.rollback import VolatileMemory
from ohttp.relay import Relay

QUESTION = [{"role": "user", "content": "hello there"}]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    with private_world(folder, write_tiny_model(folder / "model")) as made:
        yield made


@pytest.fixture(scope="module")
def honest(world: World) -> Directory:
    """The node, and nodes beside it that are down."""
    with world.client() as client:
        keys = client.node().cpu.claims.ohttp_keys
    down = [ListedNode(f"down-{number}", hashlib.sha256(bytes([number])).digest()) for number in range(2)]
    return Directory.build("prod", [ListedNode("node", keys), *down])


@pytest.fixture
def fleet(world: World) -> Iterator[Callable[..., Fleet]]:
    """A client of a fleet whose relay shows the given list, and whose mirrors show theirs."""
    from contextlib import ExitStack

    with ExitStack() as running:

        def make(listed: Directory, *mirrored: Directory, min_nodes: int = 2) -> Fleet:
            target = {"node": f"http://127.0.0.1:{world.node.port}", "down-0": "http://127.0.0.1:9"}
            url = running.enter_context(relay(target, lambda: listed.raw))
            mirrors = tuple(running.enter_context(serving(Mirror(one.raw))) for one in mirrored)
            policy = replace(
                world.policy, fleet=FleetDemands(min_nodes=min_nodes, mirrors=mirrors, logged=False)
            )
            return Fleet(url, policy, timeout=30)

        yield make


class Mirror:
    """Somebody else who shows a list."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": self._data})


def refused(code: str, work: Callable[[], object]) -> None:
    with pytest.raises(DirectoryRefused) as error:
        work()
    assert error.value.code == code


def test_show_a_list_of_one(honest: Directory, fleet: Callable[..., Fleet]) -> None:
    alone = Directory.build("prod", honest.nodes[-1:])
    assert alone.nodes[0].name == "node"
    refused("directory_too_short", lambda: fleet(alone).draw())
    with fleet(alone, min_nodes=1).client() as client:  # control: whoever asks for no choice has none
        assert "".join(client.chat(QUESTION, max_tokens=4, temperature=0))


def test_show_a_victim_a_list_of_its_own(honest: Directory, fleet: Callable[..., Fleet]) -> None:
    others = [ListedNode(f"mine-{number}", secrets.token_bytes(32)) for number in range(3)]
    theirs = Directory.build("prod", [honest.nodes[-1], *others])
    refused("directory_differs", lambda: fleet(theirs, honest).draw())
    assert fleet(honest, honest).directory() == honest
    assert fleet(theirs).directory() == theirs  # control: without a mirror nobody tells


def test_show_one_node_under_many_names(honest: Directory, fleet: Callable[..., Fleet]) -> None:
    node = honest.nodes[-1]
    with pytest.raises(DirectoryRefused, match="two names"):
        Directory.build("prod", [node, ListedNode("other", node.keys)])


def test_answer_with_another_node_than_the_list_names(honest: Directory, fleet: Callable[..., Fleet]) -> None:
    # A genuine node, with genuine evidence: only not the one that everybody is shown under this name.
    forged = Directory.build("prod", [ListedNode("node", secrets.token_bytes(32))])
    refused("directory_keys", lambda: fleet(forged, min_nodes=1).draw())
    with fleet(Directory.build("prod", honest.nodes[-1:]), min_nodes=1).client():
        pass  # control


def test_show_an_older_log_than_another_node_of_the_fleet_did(
    world: World, honest: Directory, fleet: Callable[..., Fleet]
) -> None:
    """Whoever draws another node each time must not forget what the last one showed."""
    memory = VolatileMemory()
    with world.client(memory=memory) as client:
        client.node()
    (seen,) = memory.sightings()
    alone = Directory.build("prod", honest.nodes[-1:])
    drawing = fleet(alone, min_nodes=1)
    drawing.client().close()  # control: nothing newer was seen
    newer = replace(seen, status_sequence=seen.status_sequence + 1, status=bytes(32), size=seen.size + 1)
    drawing._memory.advance(replace(newer, root=bytes(32)))
    with pytest.raises(VerificationRefused) as error:
        drawing.draw()
    assert error.value.code == "ROLLBACK"


def test_a_log_with_two_histories_ends_the_draw(
    world: World, honest: Directory, fleet: Callable[..., Fleet]
) -> None:
    """Whoever is shown a second history must not be led on to a node that does not show it: a person has to look, and
    needs the two notes to show them to others.
    """
    memory = VolatileMemory()
    with world.client(memory=memory) as client:
        client.node()
    (seen,) = memory.sightings()
    drawing = fleet(honest)
    drawing._memory.advance(replace(seen, root=bytes(32), checkpoint=b"the other note"))
    for _ in range(6):  # the node is drawn first, second or last
        with pytest.raises(VerificationRefused) as error:
            drawing.draw()
        assert error.value.code == "SPLIT_VIEW"
        assert error.value.evidence == (b"the other note", seen.checkpoint)
        assert "log compare" in str(error.value)
    with world.client(memory=drawing._memory) as client:
        told = client.verify().to_json()["error"]
    assert isinstance(told, dict)
    assert told["evidence"] == ["the other note", seen.checkpoint.decode()]
    # Control: what any other refusal leads to is another node, until none is left.
    other = fleet(honest)
    other._memory.advance(replace(seen, status_sequence=seen.status_sequence + 1, status=bytes(32)))
    ends = []
    for _ in range(20):
        with pytest.raises((VerificationRefused, RelayUnreachable)) as last:
            other.draw()
        ends.append(type(last.value))
    assert RelayUnreachable in ends


def test_swap_the_node_once_a_conversation_has_begun(world: World, honest: Directory) -> None:
    """Another genuine node of the same release, put behind the drawn one's name when its verification has run out."""
    late = [0.0]

    def clock() -> datetime:
        return now() + timedelta(hours=late[0])

    with running(world.folder, world.folder / "model", staple=world.folder / "staple.json") as other:
        behind = [world.node.port]
        relays = {
            port: Relay({"node": f"http://127.0.0.1:{port}"}, httpx2.AsyncClient(trust_env=False))
            for port in (world.node.port, other.port)
        }

        async def switched(scope: Any, receive: Any, send: Any) -> None:
            await relays[behind[0]](scope, receive, send)

        with serving(switched) as url:
            keys = honest.nodes[-1].keys
            drawn = PrivateClient(f"{url}/node", world.policy, listed_keys=keys, timeout=30, now=clock)
            anyone = PrivateClient(f"{url}/node", world.policy, timeout=30, now=clock)
            with drawn, anyone:
                first = drawn.node().cpu.claims.ohttp_keys
                assert anyone.node().cpu.claims.ohttp_keys == first
                behind[0] = other.port
                late[0] = 1.5
                refused("directory_keys", lambda: drawn.node())
                refused("directory_keys", lambda: list(drawn.chat(QUESTION, max_tokens=4)))
                assert anyone.node().cpu.claims.ohttp_keys != first  # control: taken for the one before
                behind[0] = world.node.port
                assert drawn.node().cpu.claims.ohttp_keys == first


def test_nodes_that_are_down_are_passed_over_and_counted(
    honest: Directory, fleet: Callable[..., Fleet]
) -> None:
    choosing = fleet(honest)
    for _ in range(4):
        drawn = choosing.draw()
        with drawn.client as client:
            assert drawn.name == "node"
            assert client.node().model
    counts = choosing.counts("prod")
    assert counts["node"].served == 4
    assert counts["node"].expected == pytest.approx(4 / 3)
    none = Directory.build("prod", honest.nodes[:-1])
    with pytest.raises(RelayUnreachable):
        fleet(none).draw()


def test_fail_for_every_node_but_a_favourite() -> None:
    """A relay that answers for all nodes but refuses one conversation in ten that would not go to its favourite."""
    names = [f"node-{number:02}" for number in range(20)]
    draw = random.Random(3)

    def served(meddling: float) -> dict[str, Count]:
        counts: dict[str, Count] = {}
        for _ in range(1000):
            tried = draw.sample(names, 3)
            failed = [name for name in tried[:2] if name != names[0] and draw.random() < meddling]
            chosen = next(name for name in tried if name not in failed)
            if failed and draw.random() < 0.5:
                chosen = names[0]  # the client tried again until it was where it was wanted
            counts = after_draw(counts, names, chosen, failed)
        return counts

    assert suspected(served(0.2))[0].name == names[0]
    assert suspected(served(0.0)) == ()  # control: chance alone


def test_the_draw_is_uniform_over_the_whole_list(world: World) -> None:
    nodes = [ListedNode(f"node-{number}", bytes([number]) * 32) for number in range(5)]
    policy = replace(world.policy, fleet=FleetDemands())
    draw = random.Random(4)
    fleet = Fleet("http://127.0.0.1:9", policy, random=draw.randbytes)
    firsts = [fleet._order(nodes)[0].name for _ in range(5000)]
    counts = {node.name: Count(1000.0, firsts.count(node.name)) for node in nodes}
    assert suspected(counts) == ()
    assert len({node.name for node in fleet._order(nodes)}) == 3
