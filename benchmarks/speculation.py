"""What guessing ahead saves: ``python -m benchmarks.speculation MODEL.gguf``.

The same questions to the same model without guesses, with prompt lookup, and with drafts made of the model itself: the
whole of it (every guess comes true: what checking costs at best) and its first layers alone (a draft that nobody
trained to be one, so few of its guesses do). A draft that was trained for its model lies between the two. Arms take
turns within each round; answers are compared token by token, since they have to be the same.
"""

import argparse
import json
import mmap
import statistics
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import environment
from enclave_runtime.engine.engine import Engine
from enclave_runtime.engine.engine_config import EngineConfig
from enclave_runtime.engine.gguf_file import parse_gguf
from enclave_runtime.engine.gguf_weights import GgufTensors
from enclave_runtime.engine.model import LoadedModel, load_model, make_decoder
from enclave_runtime.engine.request import GenerationRequest
from enclave_runtime.engine.weights import StoredTensor

QUESTIONS = (
    "What is the capital of France, and what is it known for?",
    "Explain in a few sentences why the sky is blue.",
    "Write a short list of things to pack for a week in the mountains.",
    "Repeat this sentence three times: The quick brown fox jumps over the lazy dog.",
)


@dataclass
class Arm:
    """An engine, and what its model has computed since the last look."""

    name: str
    engine: Engine
    turns: int = 0
    guesses: int = 0

    def watch(self) -> None:
        """Count the turns (one request's in one step, each of which gives a token at least) and the guesses that the
        model checks; what a draft computes is not among them.
        """
        decoder: Any = self.engine.model.decoder
        step = decoder.step

        def counted(spans: Any, pool: Any) -> Any:
            wanted = [id(span.table) for span in spans if span.wants_logits]
            self.turns += len(set(wanted))
            self.guesses += len(wanted) - len(set(wanted))
            return step(spans, pool)

        decoder.step = counted


class FirstLayers:
    """A `TensorSource` of a model's first layers."""

    def __init__(self, source: GgufTensors, layers: int) -> None:
        self._source, self._layers = source, layers

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Without the layers that are cut off."""
        kept = {f"model.layers.{layer}." for layer in range(self._layers)}
        shapes = self._source.shapes().items()
        return {
            name: shape
            for name, shape in shapes
            if not name.startswith("model.layers.") or ".".join(name.split(".")[:3]) + "." in kept
        }

    def read_into(self, name: str, out: Any) -> None:
        """As the whole model's."""
        self._source.read_into(name, out)

    def kind(self, name: str) -> int:
        """As the whole model's."""
        return self._source.kind(name)

    def stored(self, name: str) -> StoredTensor:
        """As the whole model's."""
        return self._source.stored(name)


def first_layers(path: Path, whole: LoadedModel, layers: int) -> LoadedModel:
    """The model at ``path`` without all but its first ``layers``."""
    with path.open("rb") as handle:
        data = memoryview(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ))
    config = replace(whole.config, layers=layers)
    source = FirstLayers(GgufTensors(parse_gguf(data), data, whole.config), layers)
    return replace(whole, config=config, decoder=make_decoder(config, source))


def arms(path: Path, guesses: int, layers: int, batch: int) -> list[Arm]:
    """All arms, running."""
    config = EngineConfig(max_batch=batch, max_queue=64, max_context=1024, step_budget=256)
    made = []
    for name in ("nobody", "prompt lookup", "itself", f"first {layers} layers"):
        model = load_model(path)
        draft = None
        if name == "itself":
            draft = load_model(path)
        elif name.startswith("first"):
            draft = first_layers(path, model, layers)
        speculate = guesses if name == "prompt lookup" else 0
        engine = Engine(model, replace(config, speculate=speculate), draft=draft, draft_guesses=guesses)
        engine.start()
        made.append(Arm(name, engine))
        made[-1].watch()
    return made


def ask(arm: Arm, batch: int, tokens: int, temperature: float) -> tuple[float, list[str], int]:
    """Seconds, answers and the number of tokens in them, for the first ``batch`` questions at once."""
    model = arm.engine.model
    requests = []
    for number, question in enumerate((QUESTIONS * (batch // len(QUESTIONS) + 1))[:batch]):
        prompt = model.tokenizer.encode(model.chat_template.render([{"role": "user", "content": question}]))
        requests.append(
            GenerationRequest(prompt, tokens, temperature=temperature, seed=number, ignore_eos=True)
        )
    begun = time.perf_counter()
    answers = [generation.collect() for generation in [arm.engine.submit(request) for request in requests]]
    seconds = time.perf_counter() - begun
    return seconds, [answer.text for answer in answers], sum(answer.token_count for answer in answers)


def measure(
    running: list[Arm], batch: int, tokens: int, temperature: float, rounds: int
) -> list[dict[str, Any]]:
    """One row for each arm."""
    rates: dict[str, list[float]] = {arm.name: [] for arm in running}
    said: dict[str, list[str]] = {}
    for arm in running:
        said[arm.name] = ask(arm, batch, tokens, temperature)[1]  # also the round that warms up
        arm.turns = arm.guesses = 0
    total = 0
    for number in track(range(rounds), "measuring", console=Console(stderr=True), transient=True):
        for arm in running if number % 2 else reversed(running):
            seconds, _, total = ask(arm, batch, tokens, temperature)
            rates[arm.name].append(total / seconds)
    plain = statistics.median(rates[running[0].name])
    rows = []
    for arm in running:
        made = total * rounds
        rows.append(
            {
                "arm": arm.name,
                "batch": batch,
                "temperature": temperature,
                "tokens_per_s": statistics.median(rates[arm.name]),
                "ratio": statistics.median(rates[arm.name]) / plain,
                "tokens_per_turn": made / arm.turns,
                "came_true": (made - arm.turns) / arm.guesses if arm.guesses else None,
                "same": said[arm.name] == said[running[0].name],
            }
        )
    return rows


def main() -> int:
    """Measure and print. Returns 1 for a model that is not there or answers that are not the same."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speculation", description=__doc__)
    parser.add_argument("model", type=Path, help="a .gguf file")
    parser.add_argument("--guesses", type=int, default=4)
    parser.add_argument("--layers", type=int, default=2, help="of the draft that is cut out of the model")
    parser.add_argument("--tokens", type=int, default=64, help="in each answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    if not options.model.is_file():
        print(f"error {options.model}: there is no such file", file=sys.stderr)
        return 1
    rows = []
    for batch in (1, 4):
        running = arms(options.model, options.guesses, options.layers, batch)
        for temperature in (0.0, 0.8):
            rows += measure(running, batch, options.tokens, temperature, options.rounds)
        for arm in running:
            arm.engine.stop()
    if options.json:
        print(json.dumps({"environment": environment.describe(options.model), "rows": rows}, indent=1))
    else:
        heads = (
            "batch",
            "temperature",
            "guesses by",
            "tokens/s",
            "ratio",
            "tokens a step",
            "came true",
            "same",
        )
        table = Table(*heads, box=None)
        for row in rows:
            true = "–" if row["came_true"] is None else f"{row['came_true']:.0%}"
            figures = (
                f"{row['tokens_per_s']:.0f}",
                f"{row['ratio']:.2f}",
                f"{row['tokens_per_turn']:.2f}",
                true,
            )
            same = "yes" if row["same"] else "NO"
            table.add_row(str(row["batch"]), str(row["temperature"]), row["arm"], *figures, same)
        Console().print(table)
    return 0 if all(row["same"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
