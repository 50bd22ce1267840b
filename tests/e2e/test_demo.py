"""The demo as a newcomer runs it, but with a tiny model, so that it needs no network."""

import re
from pathlib import Path

from private_world import cloister
from sealed_node import write_tiny_model


def test_the_demo_ends_with_an_answer_and_two_refusals(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    done = cloister(
        "demo",
        "--state",
        str(tmp_path / "state"),
        "--model",
        str(model),
        "--max-tokens",
        "8",
        "--question",
        "Hello?",
    )
    assert done.returncode == 0, done.stderr
    for shown in (
        "refused: MEASUREMENT_MISMATCH at log.measurement",
        "refused: ohttp_keys_mismatch at binding",
    ):
        assert shown in done.stdout
    held, pieces = map(int, re.search(r"(\d+) of (\d+) pieces of the seal in force", done.stdout).groups())
    assert pieces - held <= 1  # memory is locked only where the machine allows it
    assert "SIMULATED" in done.stdout
    assert "SIMULATED" in done.stderr
    assert "time to first token" in done.stderr
    left = {path.name for path in (tmp_path / "state").iterdir()}
    assert {"policy.toml", "staple.json", "log", "image", "platform", "client-memory.json"} <= left


def test_a_model_that_is_not_there_is_said_before_anything_is_made(tmp_path: Path) -> None:
    done = cloister("demo", "--state", str(tmp_path / "state"), "--model", "nowhere.gguf")
    assert done.returncode == 1
    assert "model_missing" in done.stderr
    assert not (tmp_path / "state" / "log").exists()
