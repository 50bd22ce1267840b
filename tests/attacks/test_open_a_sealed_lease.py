"""Somebody reaches the memory where leases keep keys and values beside the pool: to read it, or to have a request go on
from other ones than its own.

Whoever can write a node's private memory has won already; what is held here is that pages which lie outside the pool
are of use to nobody without their lease, and that a page which is not the one that was kept ends the engine instead of
steering an answer. Controls: the same with leases that keep their pages in the pool.
"""

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from lease_pages import table_of
from sealed_node import write_tiny_model
from step_rows import planned_rows

from enclave_runtime.engine.engine import Engine
from enclave_runtime.engine.engine_config import EngineConfig
from enclave_runtime.engine.errors import EngineFault
from enclave_runtime.engine.lease import Lease
from enclave_runtime.engine.lease_room import SealedRoom, SealedRooms
from enclave_runtime.engine.model import load_model
from enclave_runtime.engine.request import GenerationRequest

SALT = bytes(range(32))
TOKENS = 256


def engine_with(store: str, folder: Path) -> Engine:
    config = EngineConfig(max_batch=1, max_queue=4, max_context=448, step_budget=256)
    engine = Engine(load_model(folder), config, leases=2, lease_tokens=TOKENS, lease_store=store)
    engine.start()
    return engine


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def sealed(tiny_folder: Path) -> Iterator[Engine]:
    engine = engine_with("sealed", tiny_folder)
    yield engine
    engine.stop()


@pytest.fixture
def pooled(tiny_folder: Path) -> Iterator[Engine]:
    engine = engine_with("pool", tiny_folder)
    yield engine
    engine.stop()


def prompt(seed: int) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange(3, 250) for _ in range(200)]


def ask(engine: Engine, seed: int, lease: Lease) -> None:
    engine.submit(GenerationRequest(prompt(seed), 1, temperature=0.0, lease=lease)).collect()


def room_of(lease: Lease) -> SealedRoom:
    assert isinstance(lease._room, SealedRoom)
    return lease._room


def kept(engine: Engine) -> np.ndarray:
    """All memory of sealed leases."""
    rooms = engine._leases._make_room.__self__  # type: ignore[attr-defined]
    assert isinstance(rooms, SealedRooms)
    return rooms.memory


def keys_of(engine: Engine, seed: int, page: int) -> bytes:
    """What a page of the prompt holds while a request is computed."""
    found = np.zeros(engine.pool.page_bytes, dtype=np.uint8)
    leave = engine._scheduler.leave

    def looking(sequence: object) -> None:
        table = sequence.table  # type: ignore[attr-defined]
        engine.pool.read_page(int(table.pages[page]), found)
        leave(sequence)  # type: ignore[arg-type]

    engine._scheduler.leave = looking  # type: ignore[method-assign, assignment]
    engine.submit(GenerationRequest(prompt(seed), 1, temperature=0.0)).collect()
    engine._scheduler.leave = leave  # type: ignore[method-assign]
    return found.tobytes()


def test_scan_the_memory_beside_the_pool_for_keys_and_values(sealed: Engine) -> None:
    canary = keys_of(sealed, 1, page=2)
    lease = sealed.open_lease(SALT)
    ask(sealed, 1, lease)
    assert any(canary)
    assert kept(sealed).any()
    whole = kept(sealed).tobytes()
    for begin in range(0, len(canary), 32):
        part = canary[begin : begin + 32]
        assert not any(part) or part not in whole


def test_control_in_the_pool_they_are_found(pooled: Engine) -> None:
    canary = keys_of(pooled, 1, page=2)
    lease = pooled.open_lease(SALT)
    ask(pooled, 1, lease)
    page = np.zeros(pooled.pool.page_bytes, dtype=np.uint8)
    pooled.pool.read_page(int(table_of(lease).pages[2]), page)
    assert page.tobytes() == canary


def swap_two_places(engine: Engine, victim: Lease, other: Lease) -> None:
    memory = room_of(victim)._memory
    memory[[0, 1]] = memory[[1, 0]]


def put_another_leases_page(engine: Engine, victim: Lease, other: Lease) -> None:
    room_of(victim)._memory[0] = room_of(other)._memory[0]


def put_another_lease_whole(engine: Engine, victim: Lease, other: Lease) -> None:
    """Its pages and the numbers they were sealed under, as they are."""
    room_of(victim)._memory[:] = room_of(other)._memory
    room_of(victim)._nonces[:] = room_of(other)._nonces


def put_back_what_it_held_before(engine: Engine, victim: Lease, other: Lease) -> None:
    before = room_of(victim)._memory.copy()
    ask(engine, 3, victim)
    ask(engine, 1, victim)
    room_of(victim)._memory[:] = before


def alter_one_bit(engine: Engine, victim: Lease, other: Lease) -> None:
    room_of(victim)._memory[3, 17] ^= 4


def clear_a_page(engine: Engine, victim: Lease, other: Lease) -> None:
    room_of(victim)._memory[1] = 0


def say_it_was_computed_for_other_tokens(engine: Engine, victim: Lease, other: Lease) -> None:
    """The lease's own pages, for a question that the attacker asks in its name."""
    victim._chain[:] = victim._hashes(np.array(prompt(2)), 64)


@pytest.mark.parametrize(
    "attack",
    [
        swap_two_places,
        put_another_leases_page,
        put_another_lease_whole,
        put_back_what_it_held_before,
        alter_one_bit,
        clear_a_page,
        say_it_was_computed_for_other_tokens,
    ],
)
def test_a_page_that_is_not_the_one_that_was_kept(
    sealed: Engine, attack: Callable[[Engine, Lease, Lease], None]
) -> None:
    rows = planned_rows(sealed)
    victim, other = sealed.open_lease(SALT), sealed.open_lease(bytes(32))
    ask(sealed, 1, victim)
    ask(sealed, 2, other)
    rows.clear()
    ask(sealed, 1, victim)
    assert sum(rows) == 200 - 192, "untouched, it is used"
    attack(sealed, victim, other)
    asked = 2 if attack is say_it_was_computed_for_other_tokens else 1
    with pytest.raises(EngineFault):
        ask(sealed, asked, victim)
    assert not sealed.alive
    assert not kept(sealed).any()
    assert not engine_memory(sealed).any()


def engine_memory(engine: Engine) -> np.ndarray:
    storage: np.ndarray = engine.pool.storage  # type: ignore[attr-defined]
    return np.asarray(storage)


def test_control_pages_in_the_pool_can_be_swapped_and_an_answer_goes_on_from_them(pooled: Engine) -> None:
    rows, victim = planned_rows(pooled), pooled.open_lease(SALT)
    ask(pooled, 1, victim)
    pages = table_of(victim).pages
    pages[[0, 1]] = pages[[1, 0]]
    rows.clear()
    ask(pooled, 1, victim)
    assert sum(rows) == 200 - 192
    assert pooled.alive


def test_nothing_is_left_of_a_sealed_lease_and_its_key_is_gone(sealed: Engine) -> None:
    free = sealed.pool.free_pages
    for seed in range(5):
        lease, beside = sealed.open_lease(SALT), sealed.open_lease(bytes(32))
        ask(sealed, seed, lease)
        ask(sealed, seed + 1, beside)
        room = room_of(lease)
        sealed.close_lease(lease).result()
        assert room._key is None
        assert not room._memory.any()
        assert not room._nonces
        assert kept(sealed).any(), "the other one stays"
        sealed.close_lease(beside).result()
        assert not kept(sealed).any()
        assert not room._plain.any()
    assert sealed.pool.free_pages == free == sealed.pool.total_pages, "they took no page of the pool"


def test_the_memory_is_the_process_its_own(sealed: Engine) -> None:
    """Private and of no file: in a confidential VM that is encrypted memory. Shared pages are the driver's alone."""
    address = kept(sealed).ctypes.data
    for line in Path("/proc/self/maps").read_text().splitlines():
        found = re.match(r"([0-9a-f]+)-([0-9a-f]+) (....) [0-9a-f]+ 00:00 0 *(\[heap\])?$", line)
        if found and int(found[1], 16) <= address < int(found[2], 16):
            assert found[3] == "rw-p"
            return
    pytest.fail("no private mapping of no file holds it")
