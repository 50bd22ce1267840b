"""Ranks in shared memory: everybody reads all parts in order, nothing is left there, and a lost rank is named."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave_runtime.engine import rank_links, tensor_parallel
from enclave_runtime.engine.errors import EngineFault, RankLost
from enclave_runtime.engine.rank_links import RankLinks
from enclave_runtime.engine.tensor_parallel import LinkedRanks, _Order, follow


@pytest.fixture
def linked() -> Iterator[Callable[[int], tuple[RankLinks, ...]]]:
    made: list[RankLinks] = []

    def make(count: int) -> tuple[RankLinks, ...]:
        links = RankLinks.make(count)
        made.extend(links)
        return links

    yield make
    for each in made:
        each.close()


def together(*works: Callable[[], Any]) -> list[Any]:
    """What each of ``works`` gives, or the error that it ends with; each in a thread."""
    found: list[Any] = [None] * len(works)

    def run(index: int) -> None:
        try:
            found[index] = works[index]()
        except BaseException as error:
            found[index] = error

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


@pytest.mark.parametrize("count", [2, 3])
def test_everybody_has_everybodys_piece_in_order_and_nothing_stays(
    linked: Callable[[int], tuple[RankLinks, ...]], count: int
) -> None:
    links = linked(count)
    pieces = [bytes([65 + rank]) * 5 for rank in range(count)]

    def rounds(rank: int) -> list[list[bytes]]:
        return [links[rank].exchange(pieces[rank]) for _ in range(3)]

    found = together(*(lambda rank=rank: rounds(rank) for rank in range(count)))
    assert found == [[pieces] * 3] * count
    assert not any(links[0].memory[:])


@settings(deadline=None, max_examples=30)
@given(order=st.integers(1, 10), size=st.integers(0, 100))
def test_orders_are_heard_whole(order: int, size: int) -> None:
    links = RankLinks.make(3)
    body = bytes(range(size))
    kept, rank_links.PLACE = rank_links.PLACE, 32
    try:
        found = together(lambda: links[0].tell(order, body), links[1].hear, links[2].hear)
    finally:
        rank_links.PLACE = kept
        for each in links:
            each.close()
    assert found == [None, (order, body), (order, body)]
    assert not any(links[0].memory[:])


def test_parts_longer_than_a_place_go_in_turn(
    linked: Callable[[int], tuple[RankLinks, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_links, "PLACE", 64)
    monkeypatch.setattr(tensor_parallel, "PLACE", 64)
    parts = [torch.randn(5, 7) for _ in range(2)]
    ranks = [LinkedRanks(links) for links in linked(2)]
    found = together(*(lambda rank=rank: ranks[rank].parts(parts[rank]) for rank in range(2)))
    for mine in found:
        assert [torch.equal(one, other) for one, other in zip(mine, parts, strict=True)] == [True, True]
        mine[0] += 1  # sums are taken in place


def test_numbers_reach_the_others(linked: Callable[[int], tuple[RankLinks, ...]]) -> None:
    leader, other = (LinkedRanks(links) for links in linked(2))
    _, (order, numbers) = together(lambda: leader.tell(_Order.COPY, [1, -2, 1 << 40]), other.hear)
    assert order is _Order.COPY
    assert numbers.tolist() == [1, -2, 1 << 40]
    numbers.fill(0)  # they are overwritten after use


def test_a_rank_that_is_gone_late_or_elsewhere_is_lost(
    linked: Callable[[int], tuple[RankLinks, ...]],
) -> None:
    leader, other = linked(2)
    told, heard = together(lambda: leader.tell(1, b""), lambda: other.exchange(b"x"))
    assert isinstance(told, RankLost)
    assert isinstance(heard, RankLost)
    late, _ = linked(2)
    with pytest.raises(RankLost, match="too long"):
        late.exchange(b"x", patience=0.01)
    for again in (lambda: late.exchange(b"x"), lambda: late.tell(1, b"")):
        with pytest.raises(RankLost, match="gone"):
            again()
    leader, other = linked(2)
    other.close()
    for _ in range(2):  # lost once, it stays lost
        with pytest.raises(RankLost, match="gone"):
            leader.tell(1, b"")
    leader, other = linked(2)
    leader.close()
    with pytest.raises(RankLost, match="gone"):
        other.hear()


def test_a_process_keeps_its_own_end_alone(linked: Callable[[int], tuple[RankLinks, ...]]) -> None:
    links = linked(3)
    links[1].keep(links)
    assert [end.fileno() >= 0 for each in links for end in each.sockets] == [False, False, True, False]
    assert links[1].descriptors == {links[1].sockets[0].fileno()}


def test_a_rank_seals_itself_when_it_is_told_and_says_so(
    linked: Callable[[int], tuple[RankLinks, ...]],
) -> None:
    leader, other = (LinkedRanks(links) for links in linked(2))
    sealed: list[int] = []

    def lead() -> None:
        leader.tell(_Order.SEAL)
        leader.parts(torch.zeros(1))
        sealed.append(2)
        leader.tell(_Order.END)

    config: Any = type("Config", (), {"head_dim": 2})()
    shard: Any = type("Shard", (), {"config": config, "weights": _Weights()})()
    assert together(lead, lambda: follow(config, shard, other, lambda: sealed.append(1))) == [None, None]
    assert sealed == [1, 2]


class _Weights:
    embedding = torch.zeros(1)


def test_a_rank_without_a_seal_is_no_rank_of_a_node(linked: Callable[[int], tuple[RankLinks, ...]]) -> None:
    links = linked(2)
    leader, other = (LinkedRanks(each) for each in links)
    config: Any = type("Config", (), {"head_dim": 2})()
    shard: Any = type("Shard", (), {"config": config, "weights": _Weights()})()

    def fail() -> None:
        try:
            follow(config, shard, other)
        finally:
            links[1].close()

    def lead() -> None:
        leader.tell(_Order.SEAL)
        leader.parts(torch.zeros(1))

    lost, refused = together(lead, fail)
    assert isinstance(lost, RankLost)
    assert isinstance(refused, EngineFault)
