"""``cloister bench``: exit codes, and what is said where nothing can be measured."""

import json
from pathlib import Path

import pytest
import typer

from benchmarks import commands
from client_sdk.errors import ClientError


def run(*arguments: str) -> int:
    app = typer.Typer()
    app.callback()(lambda: None)
    commands.register(app)
    return int(app(["bench", *arguments], standalone_mode=False))


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    document = {
        "schema": "cloister-bench/1",
        "provenance": "measured",
        "environment": {"cpu": "c"},
        "plan": {},
        "samples": {"ttft": {"plain": [1.0, 1.1, 0.9, 1.0], "sealed": [2.0, 2.1, 2.0, 2.2]}},
    }
    path = tmp_path / "run.json"
    path.write_text(json.dumps(document))
    return path


def test_compare(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compare", str(recorded), str(recorded), "--json") == 0
    assert json.loads(capsys.readouterr().out)["comparable"] is True
    other = tmp_path / "other.json"
    other.write_text(recorded.read_text().replace('"c"', '"d"'))
    assert run("compare", str(recorded), str(other)) == 1
    assert "not comparable" in capsys.readouterr().out
    assert run("compare", str(recorded), str(tmp_path / "none")) == 1
    assert "run_unreadable" in capsys.readouterr().err


def test_a_run_without_a_policy_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ClientError):  # The command line shows it as one sentence and ends with 1.
        run("run", "--state", str(tmp_path))
