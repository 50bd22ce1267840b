"""Counts of who served: chance raises no alarm, steering does, and the file is what it says."""

import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from client_sdk.errors import ClientError
from client_sdk.sightings import Count, FileSightings, Steering, VolatileSightings, after_draw, suspected

NAMES = [f"node-{number:02}" for number in range(20)]


def history(draw: random.Random, draws: int, steered: float) -> dict[str, Count]:
    """Counts after honest draws, of which somebody bends a share to one node."""
    served = dict.fromkeys(NAMES, 0)
    for _ in range(draws):
        served[NAMES[7] if draw.random() < steered else draw.choice(NAMES)] += 1
    return {name: Count(draws / len(NAMES), count) for name, count in served.items()}


def test_chance_alone_raises_an_alarm_in_fewer_than_one_history_of_a_hundred() -> None:
    draw = random.Random(1)
    alarms = sum(bool(suspected(history(draw, 1000, 0.0))) for _ in range(400))
    assert alarms <= 4


def test_one_conversation_in_twenty_bent_to_one_node_is_seen_after_a_thousand() -> None:
    draw = random.Random(2)
    seen = [suspected(history(draw, 1000, 0.05)) for _ in range(100)]
    assert sum(bool(found) and found[0].name == NAMES[7] for found in seen) >= 85
    strong = suspected(history(draw, 300, 0.5))
    assert strong[0].name == NAMES[7]
    assert "more than the 15" in str(strong[0])


def test_a_node_that_never_serves_is_seen_too() -> None:
    counts = {name: Count(50.0, 52 if name != NAMES[3] else 0) for name in NAMES}
    (found,) = suspected(counts)
    assert found.name == NAMES[3]
    assert "less than" in str(found)


def test_counting() -> None:
    counts = after_draw({}, ["a", "b"], "a", ["b"])
    assert counts == {"a": Count(0.5, 1, 0), "b": Count(0.5, 0, 1)}
    counts = after_draw(counts, ["a", "c", "d", "e"], "c")
    assert counts["a"] == Count(0.75, 1, 0)
    assert "b" not in counts
    assert after_draw(counts, ["a", "c", "d", "e"], None, ["a"])["a"] == Count(0.75, 1, 1)
    assert suspected({}) == ()
    assert suspected({"new": Count()}) == ()
    assert isinstance(suspected({"odd": Count(0.0, 1)})[0], Steering)


def test_a_file_keeps_counts_by_channel_and_for_several_processes(tmp_path: Path) -> None:
    path = tmp_path / "sightings.json"
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(lambda name: FileSightings(path).remember("prod", NAMES, name), NAMES * 3):
            pass
    kept = FileSightings(path)
    assert kept.counts("beta") == {}
    assert {count.served for count in kept.counts("prod").values()} == {3}
    assert kept.counts("prod")[NAMES[0]].expected == pytest.approx(3.0)
    volatile = VolatileSightings()
    for name in NAMES * 3:
        volatile.remember("prod", NAMES, name)
    assert {name: c.served for name, c in volatile.counts("prod").items()} == dict.fromkeys(NAMES, 3)
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"version":2,"channels":{}}',
        b'{"version":1,"channels":[]}',
        b'{"version":1,"channels":{"prod":{"a":[1,2]}}}',
        b'{"version":1,"channels":{"prod":{"a":[-1,2,3]}}}',
        b'{"version":1,"channels":{"prod":{"a":[1,2.5,3]}}}',
        b'{"version":1,"channels":{"prod":{"a":[1,true,3]}}}',
        b'{"version":1,"channels":{"prod":{"a":[NaN,1,3]}}}',
        b"[" * 100_000,
    ],
)
def test_a_file_that_is_something_else(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "sightings.json"
    path.write_bytes(data)
    with pytest.raises(ClientError) as error:
        FileSightings(path).counts("prod")
    assert error.value.code == "sightings_malformed"


def test_a_cut_file_is_something_else(tmp_path: Path) -> None:
    path = tmp_path / "sightings.json"
    FileSightings(path).remember("prod", ["a"], "a")
    whole = path.read_bytes()
    assert json.loads(whole)["channels"]["prod"]["a"] == [1.0, 1, 0]
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ClientError):
            FileSightings(path).counts("prod")


class SlowRead(dict[str, dict[str, Count]]):
    """Gives another thread every chance between what was read and what is written."""

    def get(self, key: Any, default: Any = None) -> Any:
        found = super().get(key, default)
        time.sleep(0.001)
        return found


def test_threads_that_count_at_once_lose_nothing() -> None:
    sightings = VolatileSightings()
    sightings._channels = SlowRead()
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda _: sightings.remember("prod", NAMES, NAMES[0]), range(64)))
    assert sightings.counts("prod")[NAMES[0]].served == 64
