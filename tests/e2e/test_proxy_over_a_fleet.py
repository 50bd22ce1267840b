"""A program that knows nothing of nodes talks to the proxy; the proxy draws one for each of its conversations."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from private_world import World, cloister, now, private_world, serving
from sealed_node import MODEL_NAME, Node, running, write_tiny_model

from client_sdk.client import PrivateClient
from client_sdk.conversations import Conversations
from client_sdk.directory import Directory, ListedNode
from client_sdk.fleet import Fleet
from client_sdk.policy import FleetDemands
from client_sdk.proxy import Proxy
from measurements.publish import ReleaseLog
from measurements.publish_list import publish_list
from measurements.signing_key import SigningKey
from ohttp.relay import Relay


class Watched:
    """A relay, and what it was asked for."""

    def __init__(self, targets: dict[str, str], directory: bytes = b"") -> None:
        self.asked: list[str] = []
        self.directory = directory
        client = httpx2.AsyncClient(timeout=30, trust_env=False)
        self._relay = Relay(targets, client, directory=lambda: self.directory)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self.asked.append(scope["path"])
        await self._relay(scope, receive, send)

    def requests(self) -> list[str]:
        """The nodes that were sent a request, in order."""
        return [path.split("/")[1] for path in self.asked if path.endswith("/ohttp")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    with private_world(folder, write_tiny_model(folder / "model")) as made:
        yield made


@pytest.fixture(scope="module")
def second(world: World) -> Iterator[Node]:
    """Another node of the same release, with keys of its own."""
    with running(world.folder, world.folder / "model", staple=world.folder / "staple.json") as node:
        yield node


@pytest.fixture
def watched(world: World, second: Node) -> Iterator[tuple[Watched, str]]:
    """The relay before both nodes, with their list in the log."""
    ports = {"node-a": world.node.port, "node-b": second.port}
    relay = Watched({name: f"http://127.0.0.1:{port}" for name, port in ports.items()})
    with serving(relay) as url:
        listed = []
        for name in ports:
            with PrivateClient(f"{url}/{name}", world.policy, timeout=30) as client:
                listed.append(ListedNode(name, client.node().cpu.claims.ohttp_keys))
        log = ReleaseLog.open(world.folder / "log", now)
        signer = SigningKey.load(world.folder / "signer.key")
        relay.directory = publish_list(log, listed, "prod", [signer]).document.encode()
        relay.asked.clear()
        yield relay, url


def ask(api: openai.OpenAI, *said: str) -> str:
    messages: Any = [
        {"role": ("user", "assistant")[place % 2], "content": one} for place, one in enumerate(said)
    ]
    done = api.chat.completions.create(model=MODEL_NAME, messages=messages, max_tokens=4, temperature=0)
    return done.choices[0].message.content or ""


def test_turns_stay_at_one_node_and_conversations_spread(
    world: World, watched: tuple[Watched, str], tmp_path: Path
) -> None:
    relay, url = watched
    policy = replace(world.policy, fleet=FleetDemands())
    fleet = Fleet(
        url,
        policy,
        sightings=tmp_path / "seen.json",
        memory=tmp_path / "memory.json",
        timeout=30,
        random=random.Random(1).randbytes,
    )
    with serving(Proxy(Conversations(fleet))) as proxy:
        api = openai.OpenAI(base_url=f"{proxy}/v1", api_key="unused", max_retries=0)
        nodes: list[str] = []
        # Twelve conversations over the program's one connection.
        for number in range(12):
            before = len(relay.requests())
            first = ask(api, f"question {number}")
            ask(api, f"question {number}", first, "and now?")
            served = relay.requests()[before:]
            assert len(served) == 2
            assert len(set(served)) == 1
            nodes += served[:1]
        assert set(nodes) == {"node-a", "node-b"}
        counts = fleet.counts("prod")
        assert {name: count.served for name, count in counts.items()} == dict(Counter(nodes))
        assert sum(path == "/directory" for path in relay.asked) == 12
        # The list that each draw was from was in the log, and is remembered.
        (seen,) = json.loads((tmp_path / "memory.json").read_text())["seen"]
        assert seen["list_sequence"] > 0


def test_a_node_that_stops_is_replaced_at_the_next_attempt(
    world: World, watched: tuple[Watched, str], tmp_path: Path
) -> None:
    """Nodes are named anew behind the relay, as after a restart: the keys are no longer those of the list."""
    relay, url = watched
    fleet = Fleet(url, replace(world.policy, fleet=FleetDemands(min_nodes=1)), timeout=30)
    alone = Directory.parse(relay.directory).node("node-a")
    assert alone is not None
    log = ReleaseLog.open(world.folder / "log", now)
    signer = SigningKey.load(world.folder / "signer.key")
    relay.directory = publish_list(log, [alone], "prod", [signer]).document.encode()
    with serving(Proxy(Conversations(fleet))) as proxy:
        api = openai.OpenAI(base_url=f"{proxy}/v1", api_key="unused", max_retries=0)
        first = ask(api, "question")
        relay._relay._targets["node-a"] = "http://127.0.0.1:9"
        with pytest.raises(openai.InternalServerError) as down:
            ask(api, "question", first, "more")
        assert down.value.status_code == 503
        relay._relay._targets["node-a"] = f"http://127.0.0.1:{world.node.port}"
        assert ask(api, "question", first, "more")
        count = fleet.counts("prod")["node-a"]
        assert (count.served, count.failed) == (2, 1)


def test_the_command(world: World, watched: tuple[Watched, str], tmp_path: Path) -> None:
    _, url = watched
    policy, seen = tmp_path / "policy.toml", tmp_path / "seen.json"
    policy.write_text(world.policy_file.read_text() + "[fleet]\n")
    options = ["--policy", str(policy), "--sightings", str(seen), "--memory", str(tmp_path / "memory.json")]
    with _proxy("--fleet", url, *options) as base:
        api = openai.OpenAI(base_url=f"{base}/v1", api_key="unused", max_retries=0)
        assert ask(api, "question")
    counts = json.loads(seen.read_text())["channels"]["prod"]
    # The draw before it listens, and the conversation's.
    assert sum(served for _, served, _ in counts.values()) == 2
    both = cloister("proxy", "--fleet", url, "--relay", url, "--policy", str(policy))
    assert (both.returncode, "give one of --relay and --fleet" in both.stderr) == (1, True)
    without = cloister("proxy", "--fleet", url, "--policy", str(world.policy_file))
    assert (without.returncode, "[fleet]" in without.stderr) == (1, True)


@contextmanager
def _proxy(*arguments: str) -> Iterator[str]:
    """``cloister proxy`` in a process of its own; its URL."""
    command = [sys.executable, "-m", "client_sdk", "proxy", *arguments, "--port", "0"]
    said = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"})
    try:
        assert said.stderr is not None
        url, until = None, time.monotonic() + 60
        while url is None and time.monotonic() < until:
            line = said.stderr.readline()
            assert line, "the proxy ended"
            url = re.search(r"listening on (\S+)/v1", line)
        assert url is not None
        yield url.group(1)
    finally:
        said.send_signal(signal.SIGINT)
        said.wait(30)
        if said.stderr is not None:
            said.stderr.close()
