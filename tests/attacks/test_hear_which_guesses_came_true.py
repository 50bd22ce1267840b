"""An observer of the wire listens to how many tokens come at once: a draft agrees with its model more on some topics
than on others, so which guesses came true tells what is spoken of (arXiv 2411.01076, 2410.17175).

Two drafts stand for two topics, one that always agrees and one that never does; the answer is the same.
"""

import asyncio
import json
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from gateway_driver import OFF, Node, Reply, inner
from safetensors.torch import load_file, save_file
from sealed_node import MODEL_NAME, ROOM, chat, write_tiny_model

from enclave_runtime.api import inner_app
from enclave_runtime.completions import EngineCompletions
from enclave_runtime.engine.engine import Engine
from enclave_runtime.engine.engine_config import EngineConfig
from enclave_runtime.engine.model import load_model
from enclave_runtime.metrics import Metrics
from enclave_runtime.metrics_schema import DEFAULT
from enclave_runtime.standing_thread import StandingThread
from ohttp.padding import CellProfile

BEAT = CellProfile("constant", 512, 60)
TOKENS = 40
STEP_S = 0.03
"""What a step of the model takes where nothing hides it: long enough for each to be heard, whatever else goes on."""


class Listener:
    """An engine with a draft behind a gateway, and what the wire shows of one answer."""

    def __init__(self, model: Path, draft: Path) -> None:
        config = EngineConfig(max_batch=2, max_queue=2, max_context=ROOM, step_budget=80)
        self.engine = Engine(load_model(model), config, draft=load_model(draft))
        self.engine.start()
        self.pause_s = 0.0
        self.thread = StandingThread("prompts")
        step = self.engine.model.decoder.step

        def slowly(spans: Any, pool: Any) -> Any:
            time.sleep(self.pause_s)
            return step(spans, pool)

        self.engine.model.decoder.step = slowly  # type: ignore[method-assign]

    def observed(self, profile: CellProfile, pause_s: float = 0.0) -> tuple[str, Reply]:
        """The answer's text, and the outer response; steps take ``pause_s`` at least."""
        self.pause_s = pause_s
        completions = EngineCompletions(self.engine, MODEL_NAME, self.thread)
        app = inner_app(completions, None, Metrics(DEFAULT, lambda: 0), lambda: 0.0)  # type: ignore[arg-type]
        asked = chat("hello", temperature=0, max_tokens=TOKENS, ignore_eos=True, stream=True)
        response, reply = asyncio.run(Node(app, profile=profile).ask(inner(json.dumps(asked).encode())))
        events = [json.loads(line[6:]) for line in response.body.split(b"\n") if line.startswith(b"data: {")]
        return "".join(event["choices"][0]["delta"].get("content") or "" for event in events), reply

    def stop(self) -> None:
        self.engine.stop()
        self.thread.stop()


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Listener, Listener]]:
    """One where every guess comes true, and one where none does."""
    folder = tmp_path_factory.mktemp("models")
    model, contrary = write_tiny_model(folder / "tiny"), write_tiny_model(folder / "contrary")
    weights = load_file(contrary / "model.safetensors")
    weights["model.norm.weight"] *= -1  # what the model likes least, this draft likes most
    save_file(weights, contrary / "model.safetensors")
    made = Listener(model, model), Listener(model, contrary)
    yield made
    for listener in made:
        listener.stop()


def sizes(reply: Reply) -> list[int]:
    return [len(part) for part in reply.parts]


def bursts(reply: Reply) -> int:
    """How many times something came after a silence."""
    return 1 + sum(later - earlier > STEP_S / 2 for earlier, later in pairwise(reply.times))


def test_guesses_are_not_heard_in_cells_at_their_own_pace(topics: tuple[Listener, Listener]) -> None:
    (one, agreeing), (other, contrary) = (listener.observed(BEAT) for listener in topics)
    assert one == other
    assert sizes(agreeing) == sizes(contrary)
    assert len(set(sizes(agreeing)[1:-1])) == 1


def test_control_without_cells_each_part_is_the_tokens_of_one_step(topics: tuple[Listener, Listener]) -> None:
    for _ in range(
        5
    ):  # on a busy machine what comes at once may be heard in pieces, and the attacker asks again
        (one, agreeing), (other, contrary) = (listener.observed(OFF, STEP_S) for listener in topics)
        assert one == other
        if bursts(contrary) > 2 * bursts(agreeing):
            return
    pytest.fail(f"{bursts(contrary)} steps where no guess came true are not told from {bursts(agreeing)}")
