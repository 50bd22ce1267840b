"""Leases and a draft at once, with requests that end in every way: answers stay what they are, and nothing is left."""

import contextlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enclave_runtime.engine.engine import Engine
from enclave_runtime.engine.engine_config import EngineConfig
from enclave_runtime.engine.errors import EngineFault, TooManyLeases
from enclave_runtime.engine.generation import Generation
from enclave_runtime.engine.lease import Lease
from enclave_runtime.engine.model import load_model
from enclave_runtime.engine.request import GenerationRequest

ACTIONS = 250


def requests() -> list[GenerationRequest]:
    """Turns of three conversations: each turn begins with the turn before it."""
    chance, made = random.Random(5), []
    for conversation in range(3):
        prompt: list[int] = []
        for turn in range(4):
            prompt = [*prompt, *(chance.randrange(3, 250) for _ in range(chance.randrange(20, 60)))]
            temperature = (0.0, 0.8)[turn % 2]
            made.append(
                GenerationRequest(prompt, 12, temperature=temperature, seed=conversation, ignore_eos=True)
            )
    return made


def failing(decoder: Any, chance: random.Random, share: float) -> None:
    step = decoder.step

    def broken(spans: Any, pool: Any) -> Any:
        logits = step(spans, pool)
        if chance.random() < share:
            raise MemoryError
        return logits

    decoder.step = broken


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.exhaustive)])
def test_everything_at_once(make_engine: Callable[..., Engine], tiny: Any, tmp_path: Path, seed: int) -> None:
    asked, chance = requests(), random.Random(seed)
    plain = make_engine(max_context=320)
    expected = [plain.submit(request).collect() for request in asked]
    draft = load_model(tiny.folder(tmp_path / "cut", num_hidden_layers=1))
    config = EngineConfig(max_batch=4, max_queue=64, max_context=320, step_budget=80)
    engine = Engine(
        plain.model, config, draft=draft, draft_guesses=3, leases=3, lease_tokens=192, public_prefix=True
    )
    engine.start()
    try:
        engine.keep_public_prefix(list(asked[3].prompt_tokens))
        kept = engine.pool.total_pages - engine.pool.free_pages
        failing(engine.model.decoder, chance, 0.01)
        failing(draft.decoder, chance, 0.01)
        leases: list[Lease] = []
        running: list[tuple[int, Generation]] = []
        ended = {"whole": 0, "cancelled": 0, "failed": 0}

        def gather(number: int, generation: Generation) -> None:
            with contextlib.suppress(EngineFault):
                answer = generation.collect()
                if answer.finish_reason != "cancelled":
                    assert answer == expected[number]
                ended["whole" if answer.finish_reason != "cancelled" else "cancelled"] += 1
                return
            ended["failed"] += 1

        for _ in range(ACTIONS):
            what = chance.random()
            if what < 0.1:
                with contextlib.suppress(TooManyLeases):
                    leases.append(engine.open_lease(chance.randbytes(32)))
            elif what < 0.16 and leases:
                engine.close_lease(leases.pop(chance.randrange(len(leases))))
            elif what < 0.22 and running:
                chance.choice(running)[1].cancel()
            else:
                number = chance.randrange(len(asked))
                lease = chance.choice([None, *leases])
                values = {
                    name: getattr(asked[number], name) for name in GenerationRequest.__dataclass_fields__
                }
                running.append((number, engine.submit(GenerationRequest(**(values | {"lease": lease})))))
            while len(running) > 8:
                gather(*running.pop(0))
        for number, generation in running:
            gather(number, generation)
        for lease in leases:
            engine.close_lease(lease).result()
        assert ended["whole"] > ACTIONS / 4
        assert ended["cancelled"] > 0
        assert ended["failed"] > 0
        assert engine.alive
        assert engine.pool.total_pages - engine.pool.free_pages == kept, "the public prefix alone"
        used = engine._scheduler.public_prefix._table.pages  # type: ignore[union-attr]
        free = [page for page in range(engine.pool.total_pages) if page not in set(used.tolist())]
        assert not bool(engine.pool.storage[:, :, free].any())
    finally:
        engine.stop()
