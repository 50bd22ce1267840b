"""``cloister bench`` on real arms: recorded, compared, and the model's label where nothing was measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from sealed_node import write_tiny_model


def cloister(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "client_sdk", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(
    "others",
    [("sealed",), pytest.param(("sealed+ohttp", "sealed+ohttp+paced"), marks=pytest.mark.exhaustive)],
)
def test_plain_against_sealed(tmp_path: Path, others: tuple[str, ...]) -> None:
    model, out = write_tiny_model(tmp_path / "model"), tmp_path / "run"
    arms = [part for name in ("plain", *others) for part in ("--arm", name)]
    state = ("--model", str(model), "--state", str(tmp_path / "state"))
    load = ("--requests", "3", "--max-tokens", "4", "--rate", "20")
    done = cloister("bench", "run", "-o", str(out), *arms, *state, *load)
    assert done.returncode == 0, done.stderr
    compared = cloister("bench", "compare", str(out), "--json")
    assert compared.returncode == 0, compared.stderr
    found = {each["second"]["arm"]: each for each in json.loads(compared.stdout)}
    assert set(found) == set(others)
    for name, each in found.items():
        assert each["slots_with_differing_answers"] == 0  # the arms did the same work
        assert {"closed-1", "open-20"} <= {row["load"] for row in each["rows"]}
        measured = {row["metric"] for row in each["rows"]}
        assert {"ttft", "output_tokens_per_s", "first_token", "empty_request"} <= measured
        whole_node = name != "sealed"
        assert each["second"]["simulated"] is whole_node
        assert len(each["second"]["evidence_sha256"]) == whole_node


def test_the_model_says_modelled_everywhere(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    options = ("--model", str(model), "--requests", "2", "--concurrency", "2", "--max-tokens", "4")
    shown = cloister("bench", "model", *options)
    assert shown.returncode == 0, shown.stderr
    tables = [line for line in shown.stdout.splitlines() if line.startswith(("| placement", "| row"))]
    assert len(tables) == 2
    for heading in tables:
        columns = [column.strip() for column in heading.strip("|").split("|")][1:]
        assert all("(modelled)" in column or "(published)" in column for column in columns)
    as_json = json.loads(cloister("bench", "model", *options, "--json").stdout)
    assert as_json["provenance"] == "modelled"
    assert {row["provenance"] for row in as_json["per_token"]} == {"modelled"}
