"""A timeout without a clock: somebody else decides when a task's block has taken too long."""

import asyncio
from types import TracebackType


class Cutoff:
    """``with Cutoff() as cutoff``: whoever calls ``cutoff.cut`` ends the block with TimeoutError.

    As ``asyncio.timeout`` does, by cancelling the task and taking that back where the block ends; a cancellation from
    elsewhere at the same time goes on as such. It is for those who watch over many tasks with one timer: it has none.
    """

    __slots__ = ("_cancelling", "_cut", "_task")

    def __enter__(self) -> "Cutoff":
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("only a task can be cut off")
        self._task: asyncio.Task[object] | None = task
        self._cancelling = task.cancelling()
        self._cut = False
        return self

    def cut(self) -> None:
        """End the block, now; nothing where it has ended or was cut already."""
        if self._task is not None and not self._cut:
            self._cut = True
            self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if (
            self._cut
            and task is not None
            and task.uncancel() <= self._cancelling
            and kind is asyncio.CancelledError
        ):
            raise TimeoutError from error
