"""The ranks of a sealed node: processes of its own that each compute a share of the model, behind a seal each.

They are forked before the model's libraries start threads, confined as the node is, with nothing between them and it
but memory that they share and a pair of sockets each. They take every path that the node takes to warm up, seal
themselves when it says so, and end with it.
"""

import os
import signal
from collections.abc import Collection
from pathlib import Path

from enclave_runtime import kernel_calls, seal
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
    node = os.getpid()
    for mine in links[1:]:
        if os.fork() == 0:
            status = 1
            try:
                for descriptor in close:
                    os.close(descriptor)
                mine.keep(links)
                _be_rank(mine, model, confined, tolerate, node)
                status = 0
            finally:
                os._exit(status)  # whatever went wrong goes no further
    links[0].keep(links)
    return links[0]


def _be_rank(
    links: RankLinks, model: Path, confined: SealReport, tolerate: Collection[Piece], node: int
) -> None:
    kernel_calls.prctl(kernel_calls.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != node:
        return
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # it ends when the node does
    # Imported only now: these libraries start threads, which must be born confined.
    from enclave_runtime.engine.ranks import share_of
    from enclave_runtime.engine.tensor_parallel import LinkedRanks, follow

    ranks = LinkedRanks(links)
    shard, config = share_of(model, links.rank, links.count)
    ranks.ready()
    follow(
        config,
        shard,
        ranks,
        lambda: _close(confined, links.descriptors, tolerate),
    )


def _close(confined: SealReport, kept: Collection[int], tolerate: Collection[Piece]) -> None:
    seal.seal(confined, keep_streams=kept, tolerate=tolerate)
