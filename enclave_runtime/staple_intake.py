"""Fresh staples on their way from the host's pipe into what the node shows: judged, and not too often."""

import asyncio
import contextlib
import os
from typing import Protocol

from enclave_runtime.metrics import Metrics
from enclave_runtime.staple_check import StapleCheck
from enclave_runtime.staple_feed import LEAST_S, StapleFeed, StapleRefused, successor
from measurements.staple import Staple


class Carrier(Protocol):
    """What shows the staple: ``enclave_runtime.identity.Identity``."""

    @property
    def staple(self) -> Staple: ...

    async def adopt_staple(self, staple: Staple) -> None: ...


def take_staples(
    loop: asyncio.AbstractEventLoop,
    descriptor: int,
    identity: Carrier,
    check: StapleCheck | None = None,
    metrics: Metrics | None = None,
) -> None:
    """Take fresh staples from the pipe for as long as the host writes into it. One that ``check`` refuses, or that is
    no successor, changes nothing but a metric.
    """
    feed, renewals = StapleFeed(), set[asyncio.Task[None]]()
    taken_at = -LEAST_S

    def read() -> None:
        data = b""
        with contextlib.suppress(OSError):
            data = os.read(descriptor, 65_536)
        if not data:
            loop.remove_reader(descriptor)
            return
        files: list[bytes] = []
        try:
            files.extend(feed.feed(data))
        except StapleRefused:
            told(refused=True)
        for file in files:
            staple = judged(file)
            if staple is not None:
                take(staple)

    def judged(file: bytes) -> Staple | None:
        staple = None
        with contextlib.suppress(StapleRefused):
            staple = (successor if check is None else check.successor)(identity.staple, file)
        told(refused=staple is None)
        return staple

    def told(*, refused: bool) -> None:
        if metrics is not None:
            metrics.staple_judged(refused=refused)

    def take(staple: Staple) -> None:
        nonlocal taken_at
        if loop.time() - taken_at >= LEAST_S:
            taken_at = loop.time()
            renewal = loop.create_task(identity.adopt_staple(staple))
            renewals.add(renewal)
            renewal.add_done_callback(renewals.discard)

    os.set_blocking(descriptor, False)
    loop.add_reader(descriptor, read)
