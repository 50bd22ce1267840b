"""A model over several processes: each rank computes its share of every layer, rank 0 leads and answers to the engine.

The other ranks follow (`follow`): rank 0 tells them of every allocation, release and copy of pages and of every step,
they keep their own book of who owns which page of their part of keys and values, and zero it by the same rules. Sums
over ranks are taken in the order of the ranks, in float32, from everybody's part: every rank has the same bits, and a
request's logits do not depend on who shares its steps.

A rank that is lost ends the engine (`RankLost`); the others clear their pages and end. What crosses between ranks is
activations: links of GPUs must be ones that evidence vouches for (``enclave_runtime.gpu_links``); over gloo it is plain
TCP, for one machine of one's own. In a sealed node the ranks share memory instead (`LinkedRanks`).
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from enclave_runtime.engine.config import ModelConfig
from enclave_runtime.engine.decoder import Span
from enclave_runtime.engine.errors import EngineFault, PageOwnershipError, RankLost
from enclave_runtime.engine.model import DecoderMaker
from enclave_runtime.engine.pages import PagePool, PageTable
from enclave_runtime.engine.rank_links import PATIENCE_S, PLACE, START_PATIENCE_S, RankLinks
from enclave_runtime.engine.shard import Shard, read_shard
from enclave_runtime.engine.torch_decoder import TorchDecoder
from enclave_runtime.engine.torch_pages import TorchPages
from enclave_runtime.engine.weights import TensorSource

STEP_TIMEOUT = timedelta(seconds=PATIENCE_S)
"""How long a rank may take for its part of a sum before it counts as lost."""
_IDLE = timedelta(days=3650)  # between two requests, followers wait for as long as it takes


class _Order(enum.IntEnum):
    """What rank 0 tells the others; the numbers that go with it are int64."""

    POOL = 1  # pages, page tokens
    RESERVE = 2  # positions, rows, threads
    ALLOCATE = 3  # owner, tokens, pages...
    RELEASE = 4  # owner, pages...
    COPY = 5  # first, pages, source's owner, its count of pages, target's owner, source's pages..., target's pages...
    ZERO = 6  # pages...
    CLEAR = 7
    STEP = (
        8  # spans; for each span start, wants logits, tokens, owner, count of pages; then tokens..., pages...
    )
    END = 9
    SEAL = 10


class RankExchange(Protocol):
    """How the processes of a model reach each other. Everything raises `RankLost`."""

    @property
    def rank(self) -> int: ...
    @property
    def count(self) -> int: ...
    def tell(self, order: _Order, numbers: Sequence[int] | np.ndarray = ()) -> None:
        """Say something to all ranks; rank 0 does."""

    def hear(self) -> tuple[_Order, np.ndarray]:
        """The next thing that rank 0 says."""

    def parts(self, mine: Tensor) -> list[Tensor]:
        """Everybody's ``mine`` in the order of the ranks."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """The processes of a model: who this one is, and how they reach each other."""

    rank: int
    count: int
    orders: Any  # process group: what rank 0 says
    sums: Any  # process group: parts of layers

    @classmethod
    def join(cls, rank: int, count: int, store: Any, sums: str = "gloo") -> "Ranks":
        """Meet the other ranks; everybody calls this. ``store`` is one that all ranks see.

        Orders go over gloo, parts of layers over ``sums``: ``gloo`` for ranks on the CPU, ``nccl`` for a GPU each.
        Only followers wait without an end, between two orders. Raises `RankLost`.
        """
        try:
            dist.init_process_group("gloo", rank=rank, world_size=count, store=store, timeout=STEP_TIMEOUT)
            orders = dist.new_group(timeout=_IDLE if rank else STEP_TIMEOUT, backend="gloo")
            return cls(rank, count, orders, dist.new_group(timeout=STEP_TIMEOUT, backend=sums))
        except RuntimeError:
            raise RankLost("the ranks did not meet") from None

    def tell(self, order: _Order, numbers: Sequence[int] | np.ndarray = ()) -> None:
        """Say something to all ranks; rank 0 does. Raises `RankLost`."""
        body = torch.from_numpy(np.asarray(numbers, dtype=np.int64).copy())
        try:
            dist.broadcast(torch.tensor([int(order), len(body)]), 0, group=self.orders)
            if len(body):
                dist.broadcast(body, 0, group=self.orders)
        except RuntimeError:
            raise RankLost("a rank does not hear orders any more") from None
        body.zero_()

    def hear(self) -> tuple[_Order, np.ndarray]:
        """The next thing that rank 0 says. Raises `RankLost`."""
        head = torch.zeros(2, dtype=torch.int64)
        try:
            dist.broadcast(head, 0, group=self.orders)
            body = torch.zeros(int(head[1]), dtype=torch.int64)
            if len(body):
                dist.broadcast(body, 0, group=self.orders)
        except RuntimeError:
            raise RankLost("rank 0 is gone") from None
        return _Order(int(head[0])), body.numpy()

    def parts(self, mine: Tensor) -> list[Tensor]:
        """Everybody's ``mine`` in the order of the ranks. Raises `RankLost`."""
        everybodys = [torch.empty_like(mine) for _ in range(self.count)]
        try:
            dist.all_gather(everybodys, mine.contiguous(), group=self.sums)
        except RuntimeError:
            raise RankLost("a rank did not send its part") from None
        return everybodys


class LinkedRanks:
    """`RankExchange` over `RankLinks`, for ranks on the CPU of one machine."""

    def __init__(self, links: RankLinks) -> None:
        self.rank, self.count, self._links = links.rank, links.count, links

    def tell(self, order: _Order, numbers: Sequence[int] | np.ndarray = ()) -> None:
        self._links.tell(int(order), np.asarray(numbers, dtype=np.int64).tobytes())

    def hear(self) -> tuple[_Order, np.ndarray]:
        order, body = self._links.hear()
        return _Order(order), np.frombuffer(body, dtype=np.int64).copy()

    def parts(self, mine: Tensor) -> list[Tensor]:
        numbers = mine.contiguous().numpy()
        flat = numbers.tobytes()
        everybodys = [np.empty_like(numbers) for _ in range(self.count)]
        for start in range(0, len(flat), PLACE):
            pieces = self._links.exchange(flat[start : start + PLACE])
            for whole, piece in zip(everybodys, pieces, strict=True):
                whole.reshape(-1).view(np.uint8)[start : start + len(piece)] = np.frombuffer(piece, np.uint8)
        return [torch.from_numpy(whole) for whole in everybodys]

    def ready(self) -> None:
        """Wait until every rank has its weights. Raises `RankLost`."""
        self._links.exchange(b"", patience=START_PATIENCE_S)


def lead(ranks: LinkedRanks) -> DecoderMaker:
    """What makes rank 0's decoder, for `load_model`, once all the others have their weights too."""

    def make(config: ModelConfig, source: TensorSource) -> TensorParallelDecoder:
        shard = read_shard(config, source, 0, ranks.count)
        ranks.ready()
        return TensorParallelDecoder(config, shard, ranks)

    return make


class ShardedDecoder(TorchDecoder):
    """A rank's part of `TorchDecoder`: every rank calls `step` with the same spans and gets the same logits."""

    def __init__(self, whole: ModelConfig, shard: Shard, ranks: RankExchange) -> None:
        super().__init__(shard.config, shard.weights)
        self._whole, self._shard, self._ranks = whole, shard, ranks

    def _attend(self, *arguments: Any) -> Tensor:
        return self._summed(super()._attend(*arguments))

    def _feed_forward(self, *arguments: Any) -> Tensor:
        return self._summed(super()._feed_forward(*arguments))

    def _logits(self, state: Tensor, spans: Sequence[Span]) -> Tensor:
        mine, words = super()._logits(state, spans), len(self._shard.weights.head)
        if not len(mine):
            return torch.empty(0, self._whole.vocab_size, device=mine.device)
        padded = functional.pad(mine[:, :words], (0, self._shard.words - words))
        return torch.cat(self._ranks.parts(padded), dim=1)[:, : self._whole.vocab_size].contiguous()

    def _summed(self, mine: Tensor) -> Tensor:
        first, *others = self._ranks.parts(mine)
        for part in others:
            first += part
        return first


class TensorParallelDecoder(ShardedDecoder):
    """`Decoder` for the engine, on rank 0: does its own part and makes the other ranks follow."""

    @property
    def config(self) -> ModelConfig:
        return self._whole

    def manifest(self) -> Mapping[str, str]:
        return {"decoder": "torch", "path": f"float32 on {self._ranks.count} ranks", "digest": ""}

    def new_pool(self, pages: int, page_tokens: int) -> PagePool:
        """This rank's part of the pages. The others keep theirs in step with it; the latest pool is the one."""
        self._ranks.tell(_Order.POOL, (pages, page_tokens))
        return _LeadingPool(self._shard.config, pages, page_tokens, self._ranks)

    def reserve(self, positions: int, *, rows: int = 256, threads: int = 2) -> None:
        self._ranks.tell(_Order.RESERVE, (positions, rows, threads))
        super().reserve(positions, rows=rows, threads=threads)

    def step(self, spans: Sequence[Span], pool: PagePool) -> np.ndarray:
        """See `Decoder.step`. Raises `RankLost`."""
        for span in spans:
            pool.check_span(span.table, span.start, len(span.tokens))
        order = _step_order(spans)
        self._ranks.tell(_Order.STEP, order)
        order.fill(0)
        try:
            return super().step(spans, pool)
        except Exception:  # the others wait for this rank's part: there is no going on without them
            raise RankLost("a step that the ranks did not do together") from None

    def seal_others(self) -> None:
        """Have every other rank seal itself, and wait for it. Between two steps. Raises `RankLost`."""
        self._ranks.tell(_Order.SEAL)
        self._ranks.parts(torch.zeros(1))

    def end(self) -> None:
        """Tell the other ranks to clear their pages and end."""
        self._ranks.tell(_Order.END)


def follow(
    config: ModelConfig, shard: Shard, ranks: RankExchange, seal: Callable[[], object] | None = None
) -> None:
    """Do a rank's part until rank 0 ends it or is lost; then every page is zero. ``seal`` is what seals this process,
    when rank 0 says so.

    Raises `RankLost`, `PageOwnershipError` where the ranks' books of pages differ, `EngineFault` for an order that
    makes no sense.
    """
    decoder = ShardedDecoder(config, shard, ranks)
    pool: PagePool | None = None
    try:
        while True:
            order, numbers = ranks.hear()
            if order is _Order.END:
                return
            if order is _Order.POOL:
                if pool is not None:
                    pool.clear()
                pool = decoder.new_pool(int(numbers[0]), int(numbers[1]))
            elif order is _Order.RESERVE:
                share = max(1, int(numbers[2]) // ranks.count)
                decoder.reserve(int(numbers[0]), rows=int(numbers[1]), threads=share)
            elif order is _Order.SEAL:
                if seal is None:
                    raise EngineFault("an order to seal a process that has no seal")
                seal()
                ranks.parts(torch.zeros(1))
            elif pool is None:
                raise EngineFault("an order before there are pages")
            elif order is _Order.STEP:
                decoder.step(_spans(numbers), pool)
            else:
                _keep_book(order, numbers, pool)
            numbers.fill(0)
    finally:
        if pool is not None:
            pool.clear()


class _LeadingPool(TorchPages):
    """Rank 0's pages; what happens to them happens on the other ranks too."""

    def __init__(self, config: ModelConfig, pages: int, page_tokens: int, ranks: RankExchange) -> None:
        super().__init__(
            layers=config.layers,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            pages=pages,
            page_tokens=page_tokens,
        )
        self.page_bytes = 0  # what lies here is rank 0's part of a page
        self._ranks = ranks
        self._releasing = False

    def allocate(self, owner: int, tokens: int) -> PageTable:
        table = super().allocate(owner, tokens)
        self._ranks.tell(_Order.ALLOCATE, np.concatenate([[owner, tokens], table.pages]))
        return table

    def release(self, table: PageTable) -> None:
        owner, pages = table.owner, table.pages.copy()
        self._releasing = True  # the others zero by their own book
        try:
            super().release(table)
        finally:
            self._releasing = False
        self._ranks.tell(_Order.RELEASE, np.concatenate([[owner], pages]))

    def zero(self, pages: np.ndarray) -> None:
        super().zero(pages)
        if not self._releasing and len(pages):
            self._ranks.tell(_Order.ZERO, pages)

    def copy(self, source: PageTable, target: PageTable, pages: int, *, first: int = 0) -> None:
        super().copy(source, target, pages, first=first)
        head = [first, pages, source.owner, len(source.pages), target.owner]
        self._ranks.tell(_Order.COPY, np.concatenate([head, source.pages, target.pages]))

    def clear(self) -> None:
        """Everything here first: the other ranks may be why the engine ends, and clear their own when it does."""
        super().clear()
        with suppress(RankLost):
            self._ranks.tell(_Order.CLEAR)


def _keep_book(order: _Order, numbers: np.ndarray, pool: PagePool) -> None:
    if order is _Order.ALLOCATE:
        table = pool.allocate(int(numbers[0]), int(numbers[1]))
        if not np.array_equal(table.pages, numbers[2:]):
            raise PageOwnershipError("ranks give out different pages")
    elif order is _Order.RELEASE:
        pool.release(PageTable(int(numbers[0]), numbers[1:].copy()))
    elif order is _Order.COPY:
        first, pages, giver, count, taker = (int(number) for number in numbers[:5])
        source, target = numbers[5 : 5 + count].copy(), numbers[5 + count :].copy()
        pool.copy(PageTable(giver, source), PageTable(taker, target), pages, first=first)
    elif order is _Order.ZERO:
        pool.zero(numbers)
    else:
        pool.clear()


def _step_order(spans: Sequence[Span]) -> np.ndarray:
    heads = [
        (span.start, span.wants_logits, len(span.tokens), span.table.owner, len(span.table.pages))
        for span in spans
    ]
    flat = [number for head in heads for number in head]
    bodies = [part for span in spans for part in (span.tokens, span.table.pages)]
    return np.concatenate([np.array([len(spans), *flat], dtype=np.int64), *bodies])


def _spans(numbers: np.ndarray) -> list[Span]:
    count = int(numbers[0])
    heads, at, spans = numbers[1 : 1 + 5 * count].reshape(count, 5), 1 + 5 * count, []
    for start, wants, tokens, owner, pages in heads.tolist():
        body = numbers[at : at + tokens + pages]
        spans.append(Span(body[:tokens], start, PageTable(owner, body[tokens:].copy()), bool(wants)))
        at += tokens + pages
    return spans
