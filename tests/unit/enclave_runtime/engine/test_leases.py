"""A lease changes what is computed and nothing of what comes out; what it holds is bounded, and gone when it ends."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lease_pages import table_of
from step_rows import planned_rows

from enclave_runtime.engine.cpu import binding
from enclave_runtime.engine.engine import Engine
from enclave_runtime.engine.engine_config import EngineConfig
from enclave_runtime.engine.errors import EngineFault, EngineStopped, TooManyLeases
from enclave_runtime.engine.lease import Lease
from enclave_runtime.engine.lease_room import STORES, lease_rooms
from enclave_runtime.engine.model import load_model
from enclave_runtime.engine.pages import ArrayPages
from enclave_runtime.engine.request import GenerationRequest

SALT = bytes(range(32))


@pytest.fixture
def leasing(tiny_folder: Path) -> Iterator[Engine]:
    config = EngineConfig(max_batch=2, max_queue=8, max_context=448, step_budget=80)
    engine = Engine(load_model(tiny_folder), config, public_prefix=True, leases=2, lease_tokens=320)
    engine.start()
    yield engine
    engine.stop()


def tokens(seed: int, count: int) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange(3, 250) for _ in range(count)]


def computed(engine: Engine, rows: list[int], prompt: list[int], lease: Lease | None, count: int = 1) -> int:
    rows.clear()
    engine.submit(GenerationRequest(prompt, count, temperature=0.0, lease=lease, ignore_eos=True)).collect()
    return sum(rows)


def used(engine: Engine) -> int:
    return engine.pool.total_pages - engine.pool.free_pages


needs_compiled = pytest.mark.skipif(binding.library() is None, reason="the compiled decoder is not built")


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("decoder", [pytest.param("compiled", marks=needs_compiled), "torch"])
def test_a_conversation_is_the_same_with_and_without_a_lease(
    tiny_folder: Path, decoder: str, store: str
) -> None:
    """Bit for bit, turn by turn, answers included: log-probabilities are compared, too."""
    config = EngineConfig(max_batch=2, max_queue=8, max_context=448, step_budget=80)
    plain = Engine(load_model(tiny_folder, decoder), config)
    leasing = Engine(load_model(tiny_folder, decoder), config, leases=1, lease_tokens=448, lease_store=store)
    for engine in (plain, leasing):
        engine.start()
    try:
        said = spoken(leasing)
        for conversation in range(4):
            lease = leasing.open_lease(SALT)
            prompt = tokens(conversation, 70)
            for turn in range(3):
                said.clear()
                request = GenerationRequest(
                    prompt, 60, temperature=0.8, seed=turn, ignore_eos=True, top_logprobs=1, lease=lease
                )
                answer = leasing.submit(request).collect()
                assert plain.submit(replace(request, lease=None)).collect() == answer
                prompt = [*prompt, *said, *tokens(100 + turn, 20)]
            leasing.close_lease(lease).result()
        assert used(leasing) == 0
        assert not bool(leasing.pool.storage.any())
    finally:
        plain.stop()
        leasing.stop()


def spoken(engine: Engine) -> list[int]:
    """The tokens of answers from now on."""
    said: list[int] = []
    extend = engine._extend

    def noting(sequence: Any, token: int, logprobs: Any = None) -> None:
        said.append(token)
        extend(sequence, token, logprobs)

    engine._extend = noting  # type: ignore[method-assign]
    return said


def test_the_next_turn_computes_what_is_new(leasing: Engine) -> None:
    rows, lease = planned_rows(leasing), leasing.open_lease(SALT)
    prompt = tokens(1, 200)
    assert computed(leasing, rows, prompt, lease) == 200
    assert computed(leasing, rows, prompt, lease) == 200 - 192
    assert computed(leasing, rows, [*prompt, *tokens(2, 50)], lease) == 250 - 192
    assert computed(leasing, rows, [*prompt, *tokens(2, 50)], None) == 250
    assert computed(leasing, rows, [*prompt[:100], 3, *prompt[101:]], lease) == 200 - 64, "up to what differs"
    assert computed(leasing, rows, [*prompt, *tokens(2, 50)], lease) == 250 - 64, "one conversation at a time"


@needs_compiled
def test_an_answers_own_keys_are_kept(leasing: Engine) -> None:
    rows, lease, said = planned_rows(leasing), leasing.open_lease(SALT), spoken(leasing)
    prompt = tokens(1, 100)
    computed(leasing, rows, prompt, lease, count=60)
    assert computed(leasing, rows, [*prompt, *said, 5], lease) == 161 - 128


def test_a_lease_holds_so_many_positions_and_so_many_are_open(leasing: Engine) -> None:
    rows, lease = planned_rows(leasing), leasing.open_lease(SALT)
    prompt = tokens(1, 440)
    computed(leasing, rows, prompt, lease)
    assert used(leasing) == leasing.pool.pages_for(320)
    assert computed(leasing, rows, prompt, lease) == 440 - 320
    other = leasing.open_lease(SALT)
    with pytest.raises(TooManyLeases):
        leasing.open_lease(bytes(32))
    leasing.close_lease(other).result()
    leasing.close_lease(leasing.open_lease(SALT)).result()
    leasing.close_lease(lease).result()
    leasing.close_lease(lease).result()
    assert used(leasing) == 0


def test_a_shorter_conversation_leaves_nothing_of_the_longer_one(leasing: Engine) -> None:
    rows, lease = planned_rows(leasing), leasing.open_lease(SALT)
    computed(leasing, rows, tokens(1, 300), lease)
    computed(leasing, rows, tokens(2, 80), lease)
    table = table_of(lease)
    assert not bool(leasing.pool.storage[:, :, table.pages[4:]].any())
    assert bool(leasing.pool.storage[:, :, table.pages[:4]].any())


@pytest.mark.parametrize("how", ["cancelled", "failed"])
def test_an_answer_that_did_not_end_is_not_kept(leasing: Engine, how: str) -> None:
    lease = leasing.open_lease(SALT)
    step = leasing.model.decoder.step

    def broken(spans: Any, pool: Any) -> Any:
        leasing.model.decoder.step = step  # type: ignore[method-assign]
        step(spans, pool)
        raise MemoryError

    generation = leasing.submit(GenerationRequest(tokens(1, 100), 300, ignore_eos=True, lease=lease))
    if how == "failed":
        leasing.model.decoder.step = broken  # type: ignore[method-assign]
        with pytest.raises(EngineFault):
            generation.collect()
    else:
        generation.cancel()
        generation.collect()
    assert used(leasing) == 0
    assert not bool(leasing.pool.storage.any())


def test_a_lease_that_ended_keeps_and_gives_nothing(leasing: Engine) -> None:
    rows, lease = planned_rows(leasing), leasing.open_lease(SALT)
    computed(leasing, rows, tokens(1, 200), lease)
    leasing.close_lease(lease).result()
    for _ in range(2):
        assert computed(leasing, rows, tokens(1, 200), lease) == 200
    assert used(leasing) == 0


def test_when_the_engine_stops_or_breaks_leases_are_gone(leasing: Engine) -> None:
    rows, lease = planned_rows(leasing), leasing.open_lease(SALT)
    computed(leasing, rows, tokens(1, 200), lease)
    assert bool(leasing.pool.storage.any())
    leasing.stop()
    assert not bool(leasing.pool.storage.any())
    with pytest.raises(EngineStopped):
        leasing.open_lease(SALT)
    with pytest.raises(EngineStopped):
        leasing.close_lease(lease).result()


def test_pages_of_somebody_else_in_a_lease_end_the_engine(leasing: Engine) -> None:
    rows, lease = planned_rows(leasing), leasing.open_lease(SALT)
    computed(leasing, rows, tokens(1, 200), lease)
    table_of(lease).owner += 1
    with pytest.raises(Exception, match="page_ownership"):
        leasing.close_lease(lease).result()
    leasing._thread.join()  # type: ignore[union-attr]
    assert not leasing.alive
    assert not bool(leasing.pool.storage.any())


def test_a_public_prefix_and_a_lease_go_together(leasing: Engine) -> None:
    rows, lease = planned_rows(leasing), leasing.open_lease(SALT)
    public = tokens(9, 128)
    assert leasing.keep_public_prefix(public) == 128
    prompt = [*public, *tokens(1, 150)]
    assert computed(leasing, rows, prompt, lease) == 150
    assert computed(leasing, rows, prompt, lease) == 278 - 256


@given(
    st.lists(st.lists(st.integers(0, 3), max_size=400), max_size=6),
    st.binary(max_size=40),
    st.sampled_from(STORES),
)
@settings(max_examples=40)
def test_what_is_given_is_the_common_beginning_in_whole_blocks(
    turns: list[list[int]], salt: bytes, store: str
) -> None:
    """Keys and values stand for their tokens here: what a request is given is what its own prompt would give."""
    pool = ArrayPages(layers=1, kv_heads=1, head_dim=1, pages=64, page_tokens=16)
    lease = Lease(salt, lease_rooms(store, pool, 1, 256)(1), 256)
    held: list[int] = []
    for number, turn in enumerate(turns):
        if not turn:
            continue
        prompt = np.array(turn, dtype=np.int64)
        table = pool.allocate(2 + number, len(prompt))
        given_positions = lease.begin(prompt, table, pool)
        common = next(
            (i for i, (a, b) in enumerate(zip(held, turn, strict=False)) if a != b), min(len(held), len(turn))
        )
        assert given_positions == min(common, len(turn) - 1) // 64 * 64
        flat = pool.storage[0, 0, table.pages].flatten()
        assert flat[:given_positions].tolist() == [float(token) + 1 for token in turn[:given_positions]]
        pool.check_span(table, 0, len(prompt))
        for position, token in enumerate(turn):
            pool.storage[0, :, table.pages[position // 16], position % 16] = float(token) + 1
        lease.keep(prompt, table, pool)
        held = turn[: min(len(turn), 256) // 64 * 64]
        pool.release(table)
    lease.end()
    assert pool.free_pages == 64
    assert not bool(pool.storage.any())
