"""The ranks of a sealed node: processes of its own that each compute a share of the model, behind a seal each.

They are forked before the model's libraries start threads, confined as the node is, with nothing between them and it
but memory that they share and a pair of sockets each. They take every path that the node takes to warm up, seal
themselves when it says so, and end with it.
"""

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

from enclave_runtime import confined_child, seal
from enclave_runtime.engine.rank_links import RankLinks
from enclave_runtime.seal import Piece, SealReport


def start(
    count: int, model: Path, confined: SealReport, *, tolerate: Collection[Piece], close: Collection[int]
) -> RankLinks:
    """Start ranks 1 to ``count - 1`` of the model at ``model``; the links of rank 0, which is the caller.

    They inherit the confinement ``confined``; the descriptors ``close`` are none of their business. A rank that fails
    ends, and whoever waits for it hears that it is lost.
    """
    links = RankLinks.make(count)
    for mine in links[1:]:
        confined_child.fork(partial(_be_rank, mine, links, model, confined, tolerate), close=close)
    links[0].keep(links)
    return links[0]


def _be_rank(
    mine: RankLinks,
    everybodys: Sequence[RankLinks],
    model: Path,
    confined: SealReport,
    tolerate: Collection[Piece],
) -> None:
    mine.keep(everybodys)
    # Imported only now: these libraries start threads, which must be born confined.
    from enclave_runtime.engine.ranks import share_of
    from enclave_runtime.engine.tensor_parallel import LinkedRanks, follow

    ranks = LinkedRanks(mine)
    shard, config = share_of(model, mine.rank, mine.count)
    ranks.ready()
    follow(
        config, shard, ranks, partial(seal.seal, confined, keep_streams=mine.descriptors, tolerate=tolerate)
    )
