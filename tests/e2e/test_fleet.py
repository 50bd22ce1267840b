"""A user of several nodes: the list is made, shown, compared, and drawn from, all by the command line."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from private_world import World, cloister, private_world, relay
from sealed_node import write_tiny_model


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    with private_world(folder, write_tiny_model(folder / "model")) as made:
        yield made


def test_a_list_is_made_shown_and_drawn_from(world: World, tmp_path: Path) -> None:
    listed, bare, seen = tmp_path / "directory.json", tmp_path / "nodes.json", tmp_path / "sightings.json"
    policy = tmp_path / "policy.toml"
    policy.write_text(world.policy_file.read_text() + "[fleet]\nmin_nodes = 1\n")
    strict = tmp_path / "strict.toml"
    strict.write_text(world.policy_file.read_text() + "[fleet]\n")
    with relay({"node": f"http://127.0.0.1:{world.node.port}"}, listed.read_bytes) as url:
        through = ["--relay", url, "--policy", str(policy)]
        made = cloister("directory", "make", "node", *through, "-o", str(bare))
        assert made.returncode == 0, made.stderr
        names = ["node", "down"]
        incomplete = cloister("directory", "make", *names, *through, "-o", str(bare))
        assert (incomplete.returncode, "down: " in incomplete.stderr) == (1, True)
        left_out = cloister("directory", "make", *names, *through, "-o", str(bare), "--leave-out")
        assert (left_out.returncode, "down is left out: " in left_out.stderr) == (0, True)
        listed.write_bytes(bare.read_bytes())
        unlisted = cloister("chat", "hello", "--fleet", url, "--policy", str(policy))
        assert unlisted.returncode == 3
        assert "directory_not_logged" in unlisted.stderr
        by = [str(bare), "--log", str(world.folder / "log"), "--signer", str(world.folder / "signer.key")]
        by += ["-o", str(listed)]
        published = cloister("directory", "publish", *by)
        assert published.returncode == 0, published.stderr
        assert published.stdout.startswith("list 1 of prod is entry ")
        asked = ["--fleet", url, "--policy", str(policy), "--sightings", str(seen)]
        answered = cloister("chat", "hello", *asked, "--max-tokens", "4")
        assert answered.returncode == 0, answered.stderr
        assert answered.stdout.strip()
        assert "drawn: node" in answered.stderr
        told = json.loads(cloister("directory", "check", *through, "--sightings", str(seen), "--json").stdout)
        assert (told["log"]["origin"], told["log"]["sequence"]) == ("log.test/releases", 1)
        (node,) = told["nodes"]
        assert (node["name"], node["served"], node["failed"], told["suspected"]) == ("node", 1, 0, [])
        again = json.loads(cloister("directory", "publish", *by, "--json").stdout)
        assert (again["sequence"], again["renewed"]) == (1, True)
        remembering = [*through, "--memory", str(tmp_path / "memory.json")]
        shown = cloister("directory", "check", *remembering)
        assert "list 1 of prod, entry " in shown.stdout
        assert "cosigned by witness.test" in shown.stdout
        refused = cloister("chat", "hello", "--fleet", url, "--policy", str(strict))
        assert refused.returncode == 3
        assert "directory_too_short" in refused.stderr
        without = cloister("chat", "hello", "--fleet", url, "--policy", str(world.policy_file))
        assert without.returncode == 1
        assert "[fleet]" in without.stderr
