"""A tenant who reads the memory that the engine gives it, before writing any of its own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sealed_node import write_tiny_model

from enclave_runtime.engine.draft import Draft
from enclave_runtime.engine.engine import Engine
from enclave_runtime.engine.engine_config import EngineConfig
from enclave_runtime.engine.model import load_model
from enclave_runtime.engine.pages import ArrayPages
from enclave_runtime.engine.request import GenerationRequest


@pytest.fixture
def pool() -> ArrayPages:
    return ArrayPages(layers=2, kv_heads=1, head_dim=8, pages=4, page_tokens=4)


def victim_then_attacker(pool: ArrayPages) -> np.ndarray:
    """The victim's keys and values pass through the pool; returns what the next owner of its pages can read."""
    secret = np.random.default_rng(4).standard_normal((10, 1, 8))
    table = pool.allocate(1, 16)
    pool.check_span(table, 0, len(secret))
    for position, row in enumerate(secret):
        pool.storage[:, :, table.pages[position // 4], position % 4] = row
    pool.release(table)
    attacker = pool.allocate(2, 16)
    return pool.storage[:, :, attacker.pages]


def test_reading_new_pages_tells_nothing_of_the_owner_before(pool: ArrayPages) -> None:
    assert not bool(victim_then_attacker(pool).any())


def test_control_without_clearing_the_pages_hold_the_victims_keys(
    pool: ArrayPages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_written", Forgetful())
    assert bool(victim_then_attacker(pool).any())


class Forgetful:
    """A record of written pages that never records one."""

    def __getitem__(self, pages: Any) -> object:
        return np.zeros(len(pages), dtype=np.bool_)

    def __setitem__(self, _pages: object, _value: object) -> None:
        pass


@pytest.fixture
def drafted(tmp_path: Path) -> Iterator[Engine]:
    model = write_tiny_model(tmp_path / "tiny")
    config = EngineConfig(max_batch=2, max_queue=2, max_context=256, step_budget=80)
    engine = Engine(load_model(model), config, draft=load_model(model))
    engine.start()
    yield engine
    engine.stop()


def what_the_next_to_come_is_given(engine: Engine) -> np.ndarray:
    """The draft's pages as the next request finds them, after a victim's answer and one that was broken off."""
    found: list[np.ndarray] = []
    draft = engine._scheduler.draft
    assert draft is not None
    begin = draft.begin
    victims = [GenerationRequest([65, 66, 67] * 20, 100, ignore_eos=True) for _ in range(2)]
    first, second = [engine.submit(victim) for victim in victims]
    first.collect()
    second.cancel()
    second.collect()

    def looking(sequence: Any) -> None:
        begin(sequence)
        found.append(draft.pool.storage[:, :, sequence.draft.table.pages].copy())

    draft.begin = looking  # type: ignore[method-assign]
    engine.submit(GenerationRequest([70], 150, ignore_eos=True)).collect()
    return found[0]


def test_reading_the_drafts_new_pages_tells_nothing_of_the_owner_before(drafted: Engine) -> None:
    assert not bool(what_the_next_to_come_is_given(drafted).any())


def test_control_a_draft_that_does_not_clear_its_pages_hands_them_on(
    drafted: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = drafted._scheduler.draft
    assert isinstance(draft, Draft)
    monkeypatch.setattr(draft.pool, "_written", Forgetful())
    assert bool(what_the_next_to_come_is_given(drafted).any())
