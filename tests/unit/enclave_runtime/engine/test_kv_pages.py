"""KV pages: one owner each, zero before the next."""

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from enclave_runtime.engine.errors import PageOwnershipError, PagesExhausted
from enclave_runtime.engine.pages import FREE, ArrayPages, PageTable
from enclave_runtime.engine.torch_pages import TorchPages

Pool = ArrayPages | TorchPages


def small_pool(kind: type[Pool] = TorchPages) -> Pool:
    return kind(layers=2, kv_heads=2, head_dim=4, pages=12, page_tokens=4)


def write(pool: Pool, table: PageTable, start: int, count: int) -> None:
    pool.check_span(table, start, count)
    for position in range(start, start + count):
        page, within = int(table.pages[position // 4]), position % 4
        pool.storage[:, 0, page, within] = float(table.owner)
        pool.storage[:, 1, page, within] = -float(table.owner)


class Pages(RuleBasedStateMachine):
    """Any order of allocating, writing and freeing keeps every page with one owner, and free pages zero."""

    tables = Bundle("tables")
    kind: type[Pool] = ArrayPages

    def __init__(self) -> None:
        super().__init__()
        self.pool = small_pool(self.kind)
        self.held: dict[int, tuple[PageTable, int]] = {}
        self.next_owner = 1

    @rule(target=tables, tokens=st.integers(1, 30))
    def allocate(self, tokens: int) -> int:
        owner, self.next_owner = self.next_owner, self.next_owner + 1
        before = self.pool.free_pages
        try:
            self.held[owner] = self.pool.allocate(owner, tokens), tokens
        except PagesExhausted:
            assert self.pool.pages_for(tokens) > before == self.pool.free_pages
        return owner

    @rule(owner=tables, data=st.data())
    def write(self, owner: int, data: st.DataObject) -> None:
        if owner in self.held:
            table, tokens = self.held[owner]
            start = data.draw(st.integers(0, tokens - 1))
            write(self.pool, table, start, data.draw(st.integers(1, tokens - start)))

    @rule(owner=consumes(tables))
    def release(self, owner: int) -> None:
        if owner in self.held:
            self.pool.release(self.held.pop(owner)[0])

    @invariant()
    def one_owner_and_zero_when_free(self) -> None:
        owned: dict[int, int] = {}
        for owner, (table, _) in self.held.items():
            for page in table.pages.tolist():
                assert page not in owned
                owned[page] = owner
        for page in range(self.pool.total_pages):
            content = self.pool.storage[:, :, page]
            assert self.pool.owner_of(page) == owned.get(page, FREE)
            assert set(np.abs(np.asarray(content)).flatten().tolist()) <= {0.0, float(owned.get(page, 0))}


Pages.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestPages = Pages.TestCase


class PagesOfTorch(Pages):
    """The same for the decoder on torch."""

    kind = TorchPages


PagesOfTorch.TestCase.settings = Pages.TestCase.settings
TestPagesOfTorch = PagesOfTorch.TestCase


def test_reading_gives_what_was_stored_in_order() -> None:
    pool = small_pool()
    assert isinstance(pool, TorchPages)
    first, second, third = (pool.allocate(owner, 4) for owner in (1, 2, 3))
    pool.release(second)
    table = pool.allocate(4, 44 - 4)
    assert table.first < 0
    slots = torch.from_numpy(pool.slots(table, 0, 9))
    keys = torch.arange(9.0).view(9, 1, 1).expand(9, 2, 4)
    pool.store(1, slots, keys, keys + 100)
    found_keys, found_values = pool.read(1, table, 9)
    assert torch.equal(found_keys[0, :, 0], torch.arange(9.0))
    assert torch.equal(found_values[1, :, 3], torch.arange(9.0) + 100)
    assert not bool(pool.read(0, table, 9)[0].any())
    assert first.first >= 0 <= third.first


def test_pages_of_another_owner_are_not_touched() -> None:
    pool = small_pool()
    mine, theirs = pool.allocate(1, 8), pool.allocate(2, 8)
    forged = PageTable(1, theirs.pages.copy())
    for act in (pool.check, pool.release, lambda table: pool.check_span(table, 0, 1)):
        with pytest.raises(PageOwnershipError):
            act(forged)
    pool.release(mine)
    with pytest.raises(PageOwnershipError):
        pool.release(mine)
    with pytest.raises(PageOwnershipError):
        pool.allocate(FREE, 4)
    with pytest.raises(PageOwnershipError):
        pool.check(PageTable(FREE, np.array([5])))


@pytest.mark.parametrize(("start", "count"), [(-1, 1), (0, 0), (0, 9), (8, 1)])
def test_positions_beyond_the_pages_are_refused(start: int, count: int) -> None:
    pool = small_pool()
    table = pool.allocate(1, 8)
    with pytest.raises(PageOwnershipError):
        pool.check_span(table, start, count)
