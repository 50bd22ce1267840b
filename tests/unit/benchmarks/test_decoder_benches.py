"""Perplexity against its definition, and the benches of the decoder on a tiny model."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import typer

from benchmarks import commands, first_token, perplexity, random_model, zero_on_free
from enclave_runtime.engine.decoder import Span
from enclave_runtime.engine.model import load_model


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(random_model.SHAPES, "tiny", (64, 2, 2, 1, 32, 96, 320))
        random_model.write(path, "tiny", "q8_0", lambda at, of: None)
    return path


def run(*arguments: str) -> int:
    app = typer.Typer()
    app.callback()(lambda: None)
    commands.register(app)
    return int(app(["bench", *arguments], standalone_mode=False))


def test_perplexity_is_e_to_the_mean_surprise() -> None:
    found = perplexity.summary([math.log(2.0), math.log(8.0)])
    assert found.value == pytest.approx(4.0)
    assert found.error == pytest.approx(math.log(2.0))
    assert found.tokens == 2


def test_the_second_half_of_each_window_is_scored_with_what_stands_before_it(tiny_gguf: Path) -> None:
    decoder = load_model(tiny_gguf, "torch").decoder
    windows = [[int(t) for t in np.random.default_rng(seed).integers(0, 257, 12)] for seed in range(3)]
    found = perplexity.surprises(decoder, windows, 1)
    expected = []
    for at in range(5, 11):  # position by position, all windows at each
        for window in windows:
            pool = decoder.new_pool(1, 16)
            prefix = np.array(window[: at + 1])
            logits = decoder.step([Span(prefix, 0, pool.allocate(1, 16), True)], pool)[0]
            weights = np.exp(logits.astype(np.float64))
            expected.append(float(-np.log(weights[window[at + 1]] / weights.sum())))
    assert found == pytest.approx(expected, abs=1e-4)


def test_a_model_that_knows_nothing_is_as_surprised_as_a_die(tiny_gguf: Path) -> None:
    class Nothing:
        """A decoder whose logits are all alike."""

        def reserve(self, positions: int, *, rows: int, threads: int) -> None: ...

        new_pool = load_model(tiny_gguf, "torch").decoder.new_pool

        def step(self, spans: list[Span], pool: object) -> np.ndarray:
            return np.zeros((sum(span.wants_logits for span in spans), 6), dtype=np.float32)

    found = perplexity.summary(perplexity.surprises(Nothing(), [[1, 2, 3, 4, 5, 0]], 1))  # type: ignore[arg-type]
    assert found.value == pytest.approx(6.0)
    assert found.tokens == 3


def test_a_text_that_is_too_short_is_refused() -> None:
    assert perplexity.cut(range(8), 2, 4) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(ValueError, match="8 are needed"):
        perplexity.cut(range(7), 2, 4)


def test_the_command_prints_every_arm_that_is_here(
    tiny_gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text"
    text.write_text("Some words, and then some more. " * 8)
    few = ("--windows", "2", "--length", "16", "--text", str(text), "--threads", "1")
    assert run("perplexity", "--model", str(tiny_gguf), *few, "--json") == 0
    row = json.loads(capsys.readouterr().out)["models"]["tiny"]
    assert row["float32"]["tokens"] == 16
    if "ours" in row:
        assert row["ours"]["surprise"] == pytest.approx(row["float32"]["surprise"], abs=0.02)
    assert run("perplexity", "--model", str(tiny_gguf), *few, "--formats", "Q4_0") == 1  # no quantiser
    assert run("perplexity", "--model", str(tiny_gguf), *few, "--no-exact") == 0
    assert "tiny" in capsys.readouterr().out
    assert run("perplexity", "--model", str(tmp_path / "none"), *few) == 1


def test_overwriting_pages_is_measured_with_and_without(tiny_gguf: Path) -> None:
    decoder = load_model(tiny_gguf).decoder
    decoder.reserve(192, rows=64, threads=1)
    found = zero_on_free.measure(decoder, 1)
    assert found["speed_left"] == pytest.approx(found["without_s"] / found["with_s"])


def test_the_first_token_is_timed_in_a_process_of_its_own(
    tiny_gguf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert first_token.main([str(tiny_gguf), "--rounds", "1", "--threads", "1"]) == 0
    row = json.loads(capsys.readouterr().out)["ours"]
    assert 0 <= row["token"] < 320
    assert row["process_s"] > row["after_imports_s"]
