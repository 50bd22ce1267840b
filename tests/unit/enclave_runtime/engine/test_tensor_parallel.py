"""One model over several ranks: as threads for every shape, as processes over gloo for the real thing."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from weight_sources import random_weights

from enclave_runtime.engine.config import ModelConfig
from enclave_runtime.engine.decoder import Decoder, Span
from enclave_runtime.engine.engine import Engine
from enclave_runtime.engine.engine_config import EngineConfig
from enclave_runtime.engine.errors import (
    EngineFault,
    InvalidRequest,
    PageOwnershipError,
    RankLost,
    UnsupportedModel,
)
from enclave_runtime.engine.lease_room import lease_rooms
from enclave_runtime.engine.model import load_model
from enclave_runtime.engine.pages import PagePool
from enclave_runtime.engine.ranks import RankedModel
from enclave_runtime.engine.request import GenerationRequest
from enclave_runtime.engine.rope import RopeConfig
from enclave_runtime.engine.shard import read_shard
from enclave_runtime.engine.tensor_parallel import (
    ShardedDecoder,
    TensorParallelDecoder,
    _keep_book,
    _Order,
    follow,
)
from enclave_runtime.engine.torch_decoder import TorchDecoder
from enclave_runtime.engine.torch_pages import TorchPages
from enclave_runtime.engine.torch_weights import assemble

CONFIG = ModelConfig(
    vocab_size=271,
    hidden_size=64,
    layers=2,
    heads=8,
    kv_heads=4,
    head_dim=16,
    intermediate_size=96,
    context_length=256,
    norm_epsilon=1e-5,
    tied_head=False,
    rope=RopeConfig(10000.0),
)
FAMILIES = {
    "llama": CONFIG,
    "tied": replace(CONFIG, tied_head=True, vocab_size=270),
    "qwen2": replace(CONFIG, projection_bias=True),
    "qwen3": replace(CONFIG, head_norm=True, head_dim=24),
}


class Meeting:
    """Stands where processes and gloo stand: ranks are threads that wait for each other."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.barrier = threading.Barrier(count, timeout=20)
        self.places: list[Any] = [None] * count

    def exchange(self, rank: int, mine: Any) -> list[Any]:
        self.places[rank] = mine
        try:
            self.barrier.wait()
            found = list(self.places)
            self.barrier.wait()
        except threading.BrokenBarrierError:
            raise RankLost("a thread is gone") from None
        return found


class ThreadRanks:
    """`Ranks` over a `Meeting`."""

    def __init__(self, rank: int, meeting: Meeting) -> None:
        self.rank, self.count, self._meeting = rank, meeting.count, meeting

    def tell(self, order: _Order, numbers: Any = ()) -> None:
        self._meeting.exchange(self.rank, (order, np.array(numbers, dtype=np.int64)))

    def hear(self) -> tuple[_Order, np.ndarray]:
        order, numbers = self._meeting.exchange(self.rank, None)[0]
        return order, numbers.copy()

    def parts(self, mine: torch.Tensor) -> list[torch.Tensor]:
        return [part.clone() for part in self._meeting.exchange(self.rank, mine)]


@pytest.fixture
def over_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[ModelConfig, int], Any]]:
    """Make a leading decoder whose followers are threads; with their pools and what they ended with."""
    threads: list[threading.Thread] = []
    meetings: list[Meeting] = []
    pools: list[PagePool] = []
    ended: list[BaseException | None] = []
    original = ShardedDecoder.new_pool

    def noted(self: ShardedDecoder, pages: int, page_tokens: int) -> PagePool:
        pool = original(self, pages, page_tokens)
        pools.append(pool)
        return pool

    def make(config: ModelConfig, count: int) -> Any:
        meeting, source = Meeting(count), random_weights(config)
        meetings.append(meeting)

        def work(rank: int) -> None:
            try:
                with torch.inference_mode():
                    ranks: Any = ThreadRanks(rank, meeting)
                    follow(config, read_shard(config, source, rank, count), ranks)
                ended.append(None)
            except BaseException as error:
                ended.append(error)
                meeting.barrier.abort()

        for rank in range(1, count):
            threads.append(threading.Thread(target=work, args=(rank,), daemon=True))
            threads[-1].start()
        leader: Any = ThreadRanks(0, meeting)
        decoder = TensorParallelDecoder(config, read_shard(config, source, 0, count), leader)
        return decoder, pools, ended

    monkeypatch.setattr(ShardedDecoder, "new_pool", noted)
    yield make
    for meeting in meetings:
        meeting.barrier.abort()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def script(decoder: Decoder, pool: PagePool, vocabulary: int) -> np.ndarray:
    """Prompts whole and cut, decoding beside a prompt, a copied prefix, pages given back and used again."""
    words = np.random.default_rng(3).integers(0, vocabulary, size=(3, 100))
    found = []
    first, second = pool.allocate(1, 90), pool.allocate(2, 40)
    found.append(
        decoder.step(
            [Span(words[0, :64], 0, first, False), Span(words[1, :20], 0, second, True)], pool
        ).copy()
    )
    found.append(
        decoder.step(
            [Span(words[1, 20:21], 20, second, True), Span(words[0, 64:80], 64, first, True)], pool
        ).copy()
    )
    pool.release(second)
    third = pool.allocate(3, 80)
    pool.copy(first, third, 4)
    found.append(
        decoder.step(
            [Span(words[0, 64:70], 64, third, True), Span(words[2, :1], 80, first, True)], pool
        ).copy()
    )
    pool.zero(third.pages[4:])
    pool.release(first)
    pool.release(third)
    return np.concatenate(found)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("count", [2, 4])
def test_logits_are_those_of_one_process_and_pages_are_zeroed_everywhere(
    over_threads: Any, family: str, count: int
) -> None:
    config = FAMILIES[family]
    plain = TorchDecoder(config, assemble(config, random_weights(config)))
    plain.reserve(128)
    wanted = script(plain, plain.new_pool(16, 16), config.vocab_size)
    decoder, pools, _ = over_threads(config, count)
    pool = decoder.new_pool(16, 16)
    decoder.reserve(128)
    found = script(decoder, pool, config.vocab_size)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()
    assert np.array_equal(found.argmax(1), wanted.argmax(1))
    pool.clear()
    decoder.end()  # heard when everything before was done
    assert len(pools) == count - 1
    for each in (pool, *pools):
        assert each.storage.shape[4] == config.kv_heads // count
        assert each.free_pages == 16
        assert not bool(each.storage.any())


def test_a_followers_page_is_zero_before_anyone_else_owns_it(over_threads: Any) -> None:
    decoder, pools, _ = over_threads(CONFIG, 2)
    pool = decoder.new_pool(8, 16)
    decoder.reserve(128)
    table = pool.allocate(1, 60)
    decoder.step([Span(np.arange(50), 0, table, True)], pool)
    assert bool(pools[0].storage[:, :, :4].any())
    pool.release(table)
    other = pool.allocate(2, 16)
    pool.allocate(3, 16)  # heard when everything before was done
    assert pools[0].owner_of(int(other.pages[0])) == 2
    assert not bool(pools[0].storage.any())


def test_leases_cannot_be_sealed_where_each_rank_has_a_part_of_a_page(over_threads: Any) -> None:
    decoder, _, _ = over_threads(CONFIG, 2)
    with pytest.raises(InvalidRequest, match="sealed"):
        lease_rooms("sealed", decoder.new_pool(8, 16), 1, 64)


def test_a_request_has_the_same_bits_alone_and_among_others(over_threads: Any) -> None:
    decoder, _, _ = over_threads(CONFIG, 2)
    pool = decoder.new_pool(16, 16)
    decoder.reserve(128)
    words = np.random.default_rng(4).integers(0, CONFIG.vocab_size, size=(5, 30))
    tables = [pool.allocate(1 + row, 32) for row in range(5)]
    spans = [Span(words[row], 0, tables[row], True) for row in range(5)]
    together = decoder.step(spans, pool).copy()
    for row in range(5):
        assert np.array_equal(decoder.step([spans[row]], pool)[0], together[row])


def test_ranks_that_disagree_about_pages_stop() -> None:
    pool = TorchPages(layers=1, kv_heads=1, head_dim=2, pages=8, page_tokens=16)
    with pytest.raises(PageOwnershipError):
        _keep_book(_Order.ALLOCATE, np.array([1, 20, 3, 4]), pool)
    with pytest.raises(PageOwnershipError):
        _keep_book(_Order.RELEASE, np.array([2, 0, 1]), pool)


def test_an_order_before_there_are_pages_ends_a_rank() -> None:
    class Told:
        rank, count = 1, 2

        def hear(self) -> tuple[_Order, np.ndarray]:
            return _Order.RELEASE, np.array([1, 0])

    ranks: Any = Told()
    with pytest.raises(EngineFault):
        follow(CONFIG, read_shard(CONFIG, random_weights(CONFIG), 1, 2), ranks)


@pytest.mark.parametrize(
    ("changes", "ranks"),
    [
        ({"kv_heads": 2}, 4),
        ({"kv_heads": 1}, 2),
        ({"heads": 9, "kv_heads": 3}, 2),
        ({"intermediate_size": 97}, 2),
    ],
)
def test_a_model_that_does_not_divide_is_refused_by_name(changes: dict[str, int], ranks: int) -> None:
    config = replace(CONFIG, **changes)
    with pytest.raises(UnsupportedModel) as refused:
        read_shard(config, random_weights(config), 0, ranks)
    assert refused.value.code == "not_divisible"


def answers(model: Any) -> list[str]:
    engine = Engine(model, EngineConfig(max_batch=3, max_context=128, step_budget=70))
    engine.start()
    requests = [
        GenerationRequest([5, 6, 7] * times, 16, temperature=heat, seed=3)
        for times, heat in ((1, 0.0), (30, 0.0), (2, 0.9), (9, 0.0))
    ]
    pieces = [generation.collect(120) for generation in [engine.submit(request) for request in requests]]
    engine.stop()
    assert not bool(engine.pool.storage.any())
    return [piece.text for piece in pieces]


def test_two_processes_over_gloo_give_the_answers_of_one(tiny_folder: Path) -> None:
    with RankedModel(tiny_folder, 2) as ranked:
        assert ranked.model.decoder.manifest()["path"] == "float32 on 2 ranks"
        assert answers(ranked.model) == answers(load_model(tiny_folder, "torch"))
    assert [process.returncode for process in ranked.processes] == [0]


def test_a_rank_that_dies_ends_the_engine(tiny_folder: Path) -> None:
    with RankedModel(tiny_folder, 2) as ranked:
        engine = Engine(ranked.model, EngineConfig(max_batch=2, max_context=128, step_budget=70))
        engine.start()
        engine.submit(GenerationRequest([5, 6], 4)).collect(120)
        ranked.processes[0].kill()
        ranked.processes[0].wait()
        with pytest.raises(EngineFault):
            engine.submit(GenerationRequest([5, 6], 4)).collect(120)
        engine.stop()
        assert not engine.alive
        assert not bool(engine.pool.storage.any())


def test_a_model_that_does_not_divide_starts_nobody(tiny_folder: Path) -> None:
    with pytest.raises(UnsupportedModel):
        RankedModel(tiny_folder, 4)


def test_gpus_that_are_not_there_start_nobody(tiny_folder: Path) -> None:
    with pytest.raises(UnsupportedModel) as refused:
        RankedModel(tiny_folder, 2, "cuda")
    assert refused.value.code == "no_gpus"
    with pytest.raises(UnsupportedModel):
        RankedModel(tiny_folder, 2, "abacus")


def test_a_rank_that_cannot_start_is_noticed(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enclave_runtime.engine.ranks.sys.executable", "/bin/false")
    with pytest.raises(RankLost):
        RankedModel(tiny_folder, 2)
