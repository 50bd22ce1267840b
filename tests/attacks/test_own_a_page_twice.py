"""Two requests, one page: any order of arrivals, ends, faults and copies is tried to make it happen."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave_runtime.engine.errors import PageOwnershipError, PagesExhausted
from enclave_runtime.engine.pages import FREE, ArrayPages, PageTable

PAGES, PAGE_TOKENS = 12, 4

ACTIONS = st.one_of(
    st.tuples(st.just("allocate"), st.integers(1, 20), st.just(0)),
    st.tuples(st.just("write"), st.integers(0, 7), st.integers(1, 20)),
    st.tuples(st.just("release"), st.integers(0, 7), st.just(0)),
    st.tuples(st.just("copy"), st.integers(0, 7), st.integers(0, 7)),
)


def new_pool() -> ArrayPages:
    return ArrayPages(layers=2, kv_heads=1, head_dim=4, pages=PAGES, page_tokens=PAGE_TOKENS)


def run(pool: ArrayPages, actions: list[tuple[str, int, int]]) -> list[PageTable]:
    """Do all that can be done; the tables that are still held."""
    held: list[PageTable] = []
    owner = 0
    for kind, first, second in actions:
        table = held[first % len(held)] if held and kind != "allocate" else None
        if kind == "allocate":
            owner += 1
            try:
                held.append(pool.allocate(owner, first))
            except PagesExhausted:
                continue
        elif table is None:
            continue
        elif kind == "write":
            count = min(second, len(table.pages) * PAGE_TOKENS)
            pool.check_span(table, 0, count)
            for position in range(count):
                page = table.pages[position // PAGE_TOKENS]
                pool.storage[:, :, page, position % PAGE_TOKENS] = float(table.owner)
        elif kind == "copy":
            source = held[second % len(held)]
            if source is not table:
                pool.copy(source, table, min(len(source.pages), len(table.pages)))
        else:
            held.remove(table)
            pool.release(table)
        check(pool, held)
    return held


def check(pool: ArrayPages, held: list[PageTable]) -> None:
    pages = [int(page) for table in held for page in table.pages]
    assert len(pages) == len(set(pages)), "a page with two owners"
    for table in held:
        assert {pool.owner_of(int(page)) for page in table.pages} == {table.owner}
    free = [page for page in range(PAGES) if pool.owner_of(page) == FREE]
    assert set(free) == set(range(PAGES)) - set(pages)
    assert not bool(pool.storage[:, :, free].any()), "a free page that is not zero"


@given(st.lists(ACTIONS, max_size=30))
@settings(max_examples=150)
def test_no_page_ever_has_two_owners_and_every_free_page_is_zero(actions: list[tuple[str, int, int]]) -> None:
    pool = new_pool()
    for table in run(pool, actions):
        pool.release(table)
    assert pool.free_pages == PAGES
    assert not bool(pool.storage.any())


def test_using_pages_under_another_name_is_refused() -> None:
    pool = new_pool()
    victim, thief = pool.allocate(1, 8), pool.allocate(2, 8)
    forged = PageTable(2, victim.pages.copy())
    for attempt in (
        lambda: pool.check_span(forged, 0, 1),
        lambda: pool.release(forged),
        lambda: pool.copy(forged, thief, 1),
        lambda: pool.copy(thief, forged, 1),
        lambda: pool.copy(thief, PageTable(1, thief.pages.copy()), 1),
        lambda: pool.copy(victim, thief, 3),
    ):
        with pytest.raises(PageOwnershipError):
            attempt()
    pool.release(victim)
    with pytest.raises(PageOwnershipError):
        pool.check_span(forged, 0, 1)


def test_control_a_pool_that_forgets_who_owns_what_gives_a_page_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = new_pool()
    monkeypatch.setattr(pool, "_owners", np.zeros(PAGES, dtype=np.int64).view(Forgetful))
    first, second = pool.allocate(1, 8), pool.allocate(2, 8)
    assert set(first.pages) & set(second.pages)


class Forgetful(np.ndarray):  # type: ignore[type-arg]
    """The defence removed: owners that are never written down."""

    def __setitem__(self, key: object, value: object) -> None:
        pass
