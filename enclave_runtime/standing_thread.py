"""Threads that exist before the seal, for work that must not hold up the event loop.

A sealed process cannot start a thread. These start when they are made, one each, and stay.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Result = TypeVar("_Result")


class StandingThread:
    """One thread that does one thing after the other."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        # An executor starts its thread with the first task and keeps it.
        self._executor.submit(int).result()

    async def run(self, work: Callable[[], _Result]) -> _Result:
        """What ``work`` returns or raises, without stopping the event loop meanwhile."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def stop(self) -> None:
        """End the thread after the work at hand; what still waits is dropped."""
        self._executor.shutdown(wait=True, cancel_futures=True)
