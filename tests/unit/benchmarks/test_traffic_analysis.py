"""The observer of encrypted answers: recorded as a relay sees them, judged so that a leak would show."""

import asyncio
import itertools
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from benchmarks import traffic_analysis, virtual_time
from benchmarks.commands import register
from benchmarks.recorded_traffic import Trace, record
from benchmarks.spoken_answers import TOPICS, WORDS, Spoken, speak, tokenizer
from benchmarks.traffic_analysis import Found, as_expected, judge
from benchmarks.traffic_classifier import entropy, features, shared_bits, wilson
from ohttp.padding import ladder_rung

pytest.importorskip("sklearn", reason="scikit-learn is not installed (extra bench)")

EACH, TREES = 15, 20


def answers() -> list[Spoken]:
    cut, _ = tokenizer(None)
    draw = random.Random(5)
    return [
        speak(topic, cut, draw, random.Random(number), alike=True)
        for topic in WORDS
        for number in range(EACH)
    ]


@pytest.fixture(scope="module")
def recorded() -> dict[str, list[Trace]]:
    spoken = answers()
    return {profile.name: record(spoken, profile) for profile in traffic_analysis.PROFILES}


def test_virtual_time_is_exact_and_takes_none() -> None:
    async def wait() -> list[float]:
        loop, found = asyncio.get_running_loop(), []
        for seconds in (3600.0, 0.25, 0.0):
            await asyncio.sleep(seconds)
            found.append(loop.time())
        return found

    assert virtual_time.run(wait()) == [3600.0, 3600.25, 3600.25]

    async def never() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="nothing will happen"):
        virtual_time.run(never())


def test_constant_cells_show_their_number_alone(recorded: dict[str, list[Trace]]) -> None:
    for trace in recorded["constant"]:
        assert len(set(trace.sizes[1:-1])) == 1
        gaps = {round(later - earlier, 9) for earlier, later in itertools.pairwise(trace.times)}
        assert gaps == {0.1}
        assert ladder_rung(len(trace.sizes)) == len(trace.sizes)
    by_number: dict[int, set[tuple[int, ...]]] = {}
    for trace in recorded["constant"]:
        by_number.setdefault(len(trace.sizes), set()).add(trace.sizes)
    assert all(len(shapes) == 1 for shapes in by_number.values())


def test_the_observer_can_see_and_constant_blinds_it(recorded: dict[str, list[Trace]]) -> None:
    twins = [*range(EACH)] * len(WORDS)
    found = {name: judge("words", name, traces, twins, 3, TREES) for name, traces in recorded.items()}
    assert found["off"].accuracy.low > 0.8  # the control: without cells it reads the words' lengths
    assert found["constant"].accuracy.is_chance
    assert found["constant"].accuracy.share == found["constant"].rung.share
    assert found["constant"].bits_of_gap == 0.0
    assert found["off"].bits_of_size > found["constant"].bits_of_size


def test_a_defence_that_leaks_is_told() -> None:
    """A constant rate whose cells grew with their content would look the same to the eye, and not to the bench."""
    draw = random.Random(1)
    beat = tuple(n / 10 for n in range(20))
    traces = [
        Trace(label, tuple(530 + draw.randint(0, 3) + more for _ in range(20)), beat)
        for label, more in (("short", 0), ("long", 2))
        for _ in range(40)
    ]
    alone = range(len(traces))
    leaking = judge(traffic_analysis.QUESTIONS[0].name, "constant", traces, alone, 1, TREES)
    assert not leaking.accuracy.is_chance
    assert not as_expected([leaking])
    blind = [replace(trace, label=draw.choice(("short", "long"))) for trace in traces]
    honest: Found = judge(traffic_analysis.QUESTIONS[0].name, "constant", blind, alone, 1, TREES)
    assert honest.accuracy.is_chance
    assert not as_expected([replace(honest, profile="off")])  # an observer that cannot see proves nothing


def test_answers_that_are_twins_are_guessed_by_chance_and_not_below_it() -> None:
    draw = random.Random(4)
    shapes = [tuple(draw.randint(1, 10**6) for _ in range(20)) for _ in range(40)]
    beat = tuple(n / 10 for n in range(20))
    traces = [Trace(label, shape, beat) for label in "abc" for shape in shapes]
    together = judge("words", "constant", traces, [*range(40)] * 3, 1, TREES)
    assert together.accuracy.share == pytest.approx(1 / 3)
    assert together.accuracy.is_chance
    apart = judge(
        "words", "constant", traces, range(120), 1, TREES
    )  # control: the forest knows each by its twin
    assert apart.accuracy.share < 0.1
    assert not apart.accuracy.is_chance


def test_answers_alike_differ_in_words_alone() -> None:
    cut, name = tokenizer(Path("/nowhere"))
    assert "5 letters" in name
    spoken = {
        topic.name: speak(topic, cut, random.Random(9), random.Random(3), alike=True) for topic in TOPICS
    }
    assert len({(len(one.tokens), one.gaps) for one in spoken.values()}) == 1
    usual = {
        topic.name: speak(topic, cut, random.Random(9), random.Random(3), alike=False) for topic in TOPICS
    }
    assert len({len(one.tokens) for one in usual.values()}) > 3


def test_bits() -> None:
    assert entropy("aabb") == pytest.approx(1.0)
    assert entropy("aaaa") == 0.0
    label = [number % 2 for number in range(400)]
    found, chance = shared_bits(label, label, 1)
    assert found == pytest.approx(1.0, abs=0.02)
    draw = random.Random(2)
    found, chance = shared_bits([draw.randint(0, 9) for _ in label], label, 1)
    assert found <= 2 * chance < 0.1


def test_wilson() -> None:
    low, high = wilson(50, 100)
    assert (low, high) == (pytest.approx(0.4038, abs=1e-3), pytest.approx(0.5962, abs=1e-3))
    for total in range(1, 400):
        assert wilson(0, total)[0] == pytest.approx(0.0, abs=1e-9)
        assert wilson(0, total)[0] <= 0.0
        assert wilson(total, total)[1] >= 1.0


def test_features_have_one_length() -> None:
    shapes = {features(Trace("x", (1,) * n, tuple(map(float, range(n))))).shape for n in (1, 2, 47, 48, 500)}
    assert len(shapes) == 1


@pytest.mark.exhaustive
def test_the_command_says_that_constant_holds(tmp_path: Path) -> None:
    app = typer.Typer()
    register(app)
    arguments = [
        "bench",
        "traffic",
        "--answers",
        "40",
        "--state",
        str(tmp_path),
        "--out",
        str(tmp_path),
        "--json",
    ]
    ran = CliRunner().invoke(app, arguments, standalone_mode=False)
    assert ran.return_value == 0, ran.output
    told = json.loads(ran.stdout)
    assert len(told["found"]) == 9
    names = {"accuracy.svg", "accuracy.png", "traces.svg", "traces.png", "traffic.json"}
    assert {path.name for path in tmp_path.iterdir()} == names
