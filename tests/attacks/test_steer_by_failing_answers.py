"""A relay shows the evidence of every node, so that every draw looks like chance, and fails the answers of all but its
favourite: programs try again until they have landed there.
"""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from private_world import POLICY_HEAD, publish, serving

from client_sdk.directory import Directory, ListedNode
from client_sdk.errors import DirectoryRefused, RelayUnreachable
from client_sdk.fleet import Drawn, Fleet
from client_sdk.policy import FleetDemands, Policy
from client_sdk.sightings import Count, VolatileSightings, after_draw, after_loss, suspected

NAMES = [f"node-{number}" for number in range(8)]


def history(*, meddling: float, taken_back: bool, draws: int = 1500) -> dict[str, Count]:
    """Conversations of a client whose relay fails first answers of others than its favourite with this chance."""
    draw = random.Random(5)
    counts: dict[str, Count] = {}
    for _ in range(draws):
        while True:
            name = draw.choice(NAMES)
            counts = after_draw(counts, NAMES, name)
            if name == NAMES[0] or draw.random() >= meddling:
                break
            lost = after_loss(counts, name, 1 / len(NAMES))
            noted = after_draw(counts, NAMES, None, [name])  # beside the draw, which stays a draw
            counts = lost if taken_back else noted
    return counts


def test_answers_that_fail_until_it_is_the_favourite_are_seen() -> None:
    assert suspected(history(meddling=0.3, taken_back=True))[0].name == NAMES[0]
    # Control: where a draw counts as an answer, nothing but chance is seen, even with all of them bent.
    assert suspected(history(meddling=0.3, taken_back=False)) == ()
    assert suspected(history(meddling=1.0, taken_back=False, draws=400)) == ()


def test_chance_alone_is_not_suspected() -> None:
    assert suspected(history(meddling=0.0, taken_back=True)) == ()


def test_a_node_that_answered_has_read_and_keeps_its_count() -> None:
    fleet = Fleet("http://127.0.0.1:9", _policy())
    fleet._sightings = sightings = VolatileSightings()
    any_: Any = None
    drawn = Drawn("node-1", "prod", any_, any_, (), len(NAMES))
    sightings.remember("prod", NAMES, "node-1")
    fleet.count_failed(drawn)
    assert fleet.counts("prod")["node-1"] == Count(1 / 8, 1, 1)
    fleet.count_failed(drawn, read=False)
    assert fleet.counts("prod")["node-1"] == Count(0.0, 0, 2)
    assert {count.served for count in fleet.counts("prod").values()} == {0}
    with pytest.raises(RelayUnreachable):
        fleet.draw()


class Changing:
    """Shows the same nodes under another channel each time."""

    def __init__(self, *channels: str) -> None:
        nodes = [ListedNode(name, name.encode().ljust(32)) for name in NAMES]
        self._lists = [Directory.build(channel, nodes).raw for channel in channels]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": self._lists.pop(0)})


def test_another_channel_each_time_so_that_counts_begin_anew(tmp_path: Path) -> None:
    _, table = publish(tmp_path, bytes(48))
    text = f"{POLICY_HEAD}{table}[fleet]\nlogged = false\n"
    with serving(Changing("prod", "prod-2", "prod-3", "prod-4")) as url:
        fleet = Fleet(url, Policy.parse(text.encode()))
        assert fleet.directory().channel == "prod"
        for _ in range(2):
            with pytest.raises(DirectoryRefused) as refused:
                fleet.directory()
            assert refused.value.code == "directory_channel"
        fleet._log = None  # control: without a channel to hold it to, any will do
        assert fleet.directory().channel == "prod-4"


def _policy() -> Policy:
    return replace(Policy.production(), fleet=FleetDemands(logged=False))
