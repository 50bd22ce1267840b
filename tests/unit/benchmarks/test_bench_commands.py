"""``cloister bench``: order of a run, exit codes, and what is said where nothing can be measured."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
import typer
from bench_server import Answering, Ticking

from benchmarks import commands
from benchmarks.arms import Arm, Booted, remote_arm
from benchmarks.experiment import Plan, order
from benchmarks.experiment import run as run_experiment
from benchmarks.recording import read


def run(*arguments: str) -> int:
    app = typer.Typer()
    app.callback()(lambda: None)
    commands.register(app)
    return int(app(["bench", *arguments], standalone_mode=False))


def arm(name: str, clock: Ticking, booted: list[str], pace: float = 0.25) -> Arm:
    @asynccontextmanager
    async def boot() -> AsyncIterator[Booted]:
        booted.append(name)
        transport = Answering(clock, pace=pace)
        async with httpx2.AsyncClient(transport=transport, base_url="http://node") as client:
            yield Booted(client, "m", {"boot": 1.0}, {"evidence_sha256": name})

    return Arm(name, boot)


def record(out: Path, boots: int, *, machine: str = "here") -> list[str]:
    clock, booted = Ticking(), list[str]()
    arms = [arm("plain", clock, booted), arm("sealed", clock, booted, pace=0.5)]
    plan = Plan(boots=boots, requests=4, concurrency=(1, 2), rates=(1000.0,))
    asyncio.run(
        run_experiment(arms, plan, out, environment={"model_sha256": "s"}, machine=machine, clock=clock)
    )
    return booted


def test_the_order_cancels_drift_and_repeats_the_first_arm(tmp_path: Path) -> None:
    assert record(tmp_path, 2) == ["plain", "sealed", "plain", "plain", "sealed", "plain"]
    turns = order([arm("a", Ticking(), []), arm("b", Ticking(), [])], 2)
    assert [turn.recording for turn in turns] == ["a", "b", "a~again", "a~again", "b", "a"]
    assert [turn.boot for turn in turns] == [0, 0, 0, 1, 1, 1]


def test_a_run_goes_on_where_it_stopped_and_may_be_continued_elsewhere(tmp_path: Path) -> None:
    record(tmp_path, 1)
    assert record(tmp_path, 1) == []
    assert record(tmp_path, 2, machine="there") == ["plain", "sealed", "plain"]
    found = read(tmp_path / "plain")
    assert found.machines() == {"here", "there"}
    assert {load.name for load in found.loads} == {"closed-1", "closed-2", "open-1000"}


def test_both_arms_are_asked_the_same(tmp_path: Path) -> None:
    record(tmp_path, 1)
    asked = [
        [
            (load.name, timing.slot, timing.prompt)
            for load in read(tmp_path / name).loads
            for timing in load.timings
        ]
        for name in ("plain", "sealed", "plain~again")
    ]
    assert asked[0] == asked[1] == asked[2]


def test_comparing_a_run_and_two_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(tmp_path, 4)
    assert run("compare", str(tmp_path), "--json", "--report", str(tmp_path / "report")) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["first"]["arm"] == "plain"
    ttft = next(row for row in found["rows"] if (row["load"], row["metric"]) == ("closed-1", "ttft"))
    assert ttft["ratio"]["ratio"] == pytest.approx(2.0)
    assert ttft["verdict"] == "costs"
    assert {path.name for path in (tmp_path / "report").iterdir()} >= {
        "report.md",
        "summary.json",
        "ratios.svg",
    }
    assert run("compare", str(tmp_path / "sealed"), str(tmp_path / "plain")) == 0
    assert "nothing is claimed" in capsys.readouterr().out.replace("\n", " ")


def test_what_cannot_be_compared_has_a_status_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(tmp_path / "here", 1)
    record(tmp_path / "there", 1, machine="there")
    assert run("compare", str(tmp_path / "here" / "plain"), str(tmp_path / "there" / "sealed")) == 3
    assert "not comparable" in capsys.readouterr().out
    assert run("compare", str(tmp_path / "nowhere")) == 1
    assert "no_run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--arm", "odd", "--model", "MODEL"), "need --target"),
        (("--arm", "plain", "--arm", "plain", "--model", "MODEL"), "given once"),
        (("--target", "openai:http://127.0.0.1:1"), "exactly one --arm"),
        (("--arm", "x", "--target", "http://127.0.0.1:1"), "--policy"),
        (("--profile", "huge"), "profile"),
        (("--arm", "x", "--target", "openai:http://127.0.0.1:1"), "transport"),
        (("--rate", "0"), "positive"),
    ],
)
def test_what_cannot_be_run_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(b"GGUF")
    given = [str(model) if argument == "MODEL" else argument for argument in arguments]
    assert run("run", "-o", str(tmp_path / "out"), *given) == 1
    assert said in capsys.readouterr().err.replace("\n", " ")


def test_a_node_behind_a_relay_needs_a_policy() -> None:
    with pytest.raises(ValueError, match="policy"):
        remote_arm("x", "http://127.0.0.1:1", None)
