"""A block that somebody else ends: cut once, never after its end, and no cancellation from elsewhere is swallowed."""

import asyncio

import pytest

from ohttp.cutoff import Cutoff


async def forever(entered: list[Cutoff]) -> None:
    with Cutoff() as cutoff:
        entered.append(cutoff)
        await asyncio.Event().wait()


def test_cutting_ends_the_block_and_leaves_the_task_as_it_was() -> None:
    async def work() -> None:
        entered: list[Cutoff] = []
        loop = asyncio.get_running_loop()
        for _ in range(2):
            loop.call_soon(lambda: entered[-1].cut())
        with pytest.raises(TimeoutError):
            await forever(entered)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        entered[0].cut()  # the block is over: nothing to cut
        await asyncio.sleep(0)

    asyncio.run(work())


def test_a_block_that_is_not_cut_ends_as_it_does() -> None:
    async def block() -> None:
        with Cutoff():
            await asyncio.sleep(0)
            raise KeyError

    with pytest.raises(KeyError):
        asyncio.run(block())


@pytest.mark.parametrize("cut_too", [False, True])
def test_a_cancellation_from_elsewhere_goes_on_as_one(cut_too: bool) -> None:
    async def work() -> None:
        entered: list[Cutoff] = []
        task = asyncio.create_task(forever(entered))
        await asyncio.sleep(0)
        task.cancel()
        if cut_too:
            entered[0].cut()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(work())
