"""A tenant who reads the memory that the engine gives it, before writing any of its own."""

import pytest
import torch

from enclave_runtime.engine.pages import PagePool


@pytest.fixture
def pool() -> PagePool:
    return PagePool(layers=2, kv_heads=1, head_dim=8, pages=4, page_tokens=4)


def victim_then_attacker(pool: PagePool) -> torch.Tensor:
    """The victim's keys and values pass through the pool; returns what the next owner of its pages can read."""
    secret = torch.randn(10, 1, 8, generator=torch.Generator().manual_seed(4))
    table = pool.allocate(1, 16)
    slots = torch.from_numpy(pool.slots(table, 0, 10))
    for layer in range(2):
        pool.store(layer, slots, secret, secret)
    pool.release(table)
    attacker = pool.allocate(2, 16)
    return torch.stack([torch.stack(pool.read(layer, attacker, 16)) for layer in range(2)])


def test_reading_new_pages_tells_nothing_of_the_owner_before(pool: PagePool) -> None:
    assert not bool(victim_then_attacker(pool).any())


def test_control_without_clearing_the_pages_hold_the_victims_keys(
    pool: PagePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forgetful:
        """A record of written pages that never records one."""

        def __getitem__(self, _pages: object) -> object:
            return torch.zeros(4, dtype=torch.bool).numpy()

        def __setitem__(self, _pages: object, _value: object) -> None:
            pass

    monkeypatch.setattr(pool, "_written", Forgetful())
    assert bool(victim_then_attacker(pool).any())
