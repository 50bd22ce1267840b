"""Two recorded runs: what may be compared, and what a file must be."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from benchmarks import environment, render
from benchmarks.comparison import RunError, compare, parse_run, read_run
from benchmarks.metrics import TTFT
from benchmarks.plain_vs_sealed import Plan, summarise_metric

HERE = {"cpu": "c", "cores": 2, "machine": "x86_64", "model_sha256": "ab"}


def recorded(ttft: float = 1.0, **members: Any) -> bytes:
    spread = [ttft * factor for factor in (0.98, 0.99, 1.0, 1.01, 1.02)]
    document = {
        "schema": "cloister-bench/1",
        "provenance": "measured",
        "environment": HERE,
        "plan": Plan().manifest(),
        "samples": {
            "ttft": {"plain": spread, "sealed": [2 * s for s in spread]},
            "tpot": {"plain": [None], "sealed": []},
        },
        **members,
    }
    return json.dumps(document).encode()


def test_a_change_is_found_in_both_arms() -> None:
    result = compare(parse_run(recorded()), parse_run(recorded(1.5)))
    assert result["comparable"]
    assert [(row["name"], row["arm"], row["verdict"]) for row in result["rows"]] == [
        ("ttft", "plain", "worse"),
        ("ttft", "sealed", "worse"),
    ]
    assert result["rows"][0]["second_over_first"]["ratio"] == pytest.approx(1.5)
    assert result["rows"][0]["second_over_first"]["provenance"] == "measured"


def test_the_same_run_shows_no_change() -> None:
    result = compare(parse_run(recorded()), parse_run(recorded()))
    assert {row["verdict"] for row in result["rows"]} == {"no change shown"}


@pytest.mark.parametrize(
    ("members", "differing"),
    [
        ({"environment": {**HERE, "cpu": "other"}}, "cpu"),
        ({"environment": {**HERE, "model_sha256": "cd"}}, "model_sha256"),
        ({"plan": Plan(slots=9).manifest()}, "plan"),
    ],
)
def test_another_machine_model_or_plan_gives_no_ratio(members: dict[str, Any], differing: str) -> None:
    result = compare(parse_run(recorded()), parse_run(recorded(**members)))
    assert (result["comparable"], result["differing"]) == (False, [differing])
    assert "rows" not in result


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "run_malformed"),
        (b"[]", "run_malformed"),
        (b"[" * 100_000, "run_malformed"),
        (recorded(schema="cloister-bench/9"), "run_schema"),
        (recorded(provenance="modelled"), "run_provenance"),
        (recorded(samples={"ttft": {"plain": [1]}}), "run_malformed"),
        (recorded(samples={"ttft": {"plain": ["x"], "sealed": []}}), "run_malformed"),
        (recorded(environment=3), "run_malformed"),
    ],
)
def test_a_file_that_is_no_recorded_run_is_refused(data: bytes, code: str) -> None:
    with pytest.raises(RunError) as caught:
        parse_run(data)
    assert caught.value.code == code


@given(st.binary(max_size=100))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(RunError):
        parse_run(data)


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    data = recorded()
    for end in range(len(data)):
        with pytest.raises(RunError):
            parse_run(data[:end])
    with pytest.raises(RunError) as caught:
        read_run(tmp_path / "none.json")
    assert caught.value.code == "run_unreadable"


def test_the_table_shows_formula_interval_and_simulation() -> None:
    metric = summarise_metric(TTFT, {"plain": [1.0, 1.01] * 4, "sealed": [2.0, 2.1] * 4})
    summary = {
        "environment": {"model": "m", "cores": 2, "cpu": "c", "sealed": {"simulated": True}},
        "metrics": [metric],
        "slots_with_differing_answers": 1,
        "limits": ["One boot per arm."],
    }
    console = Console(record=True, width=200, file=open("/dev/null", "w"))  # noqa: SIM115
    render.show_run(console, summary)
    render.show_comparison(console, {"comparable": False, "differing": ["cpu"]})
    shown = console.export_text()
    for part in (
        "ttft",
        TTFT.formula,
        "SIMULATED",
        "costs",
        "measured",
        "2.05 [2, 2.1]",
        "One boot",
        "not comparable",
    ):
        assert part in shown, part


def test_the_environment_names_machine_and_model(tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(b"weights")
    found = environment.describe(model)
    assert found["cores"] >= 1
    assert len(found["model_sha256"]) == 64
    model.write_bytes(b"Weights")
    assert environment.model_digest(model) != found["model_sha256"]
    assert environment.model_digest(tmp_path) == environment.model_digest(model)
