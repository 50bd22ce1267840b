"""What the image commands show: progress on standard error, failures in one line, results as JSON."""

import json
import sys
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from images.errors import CensusError, ImageError, ImageMismatch, InputChanged, InputUnavailable

OK, USAGE_OR_IO, NOT_AVAILABLE, REFUSED = range(4)

_errors = Console(stderr=True, soft_wrap=True)


class Bars:
    """A bar on standard error for each step, shown on a terminal only."""

    def __enter__(self) -> Callable[[str, int, int], None]:
        columns = (
            TextColumn("{task.description:<9}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._bars = Progress(*columns, console=_errors, transient=True, disable=not _errors.is_terminal)
        self._tasks: dict[str, TaskID] = {}
        self._bars.start()
        return self._report

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def _report(self, step: str, done: int, total: int) -> None:
        if step not in self._tasks:
            self._tasks[step] = self._bars.add_task(step, total=total)
        self._bars.update(self._tasks[step], completed=done, total=total)


def failed(error: ImageError, status: int) -> int:
    """Say why, what was expected and found where something was compared, and what to do; the exit status."""
    _errors.print(f"error {error}", style="red", markup=False, highlight=False)
    if error.expected is not None or error.found is not None:
        _errors.print(f"expected {error.expected}\nfound    {error.found}", markup=False, highlight=False)
    if error.advice:
        _errors.print(error.advice, markup=False, highlight=False)
    return status


def status_of(error: ImageError) -> int:
    """The exit status that an error stands for."""
    if isinstance(error, CensusError | ImageMismatch | InputChanged):
        return REFUSED
    if isinstance(error, InputUnavailable):
        return NOT_AVAILABLE
    return USAGE_OR_IO


def tell(what: str) -> None:
    """Say something on standard error."""
    _errors.print(what, markup=False, highlight=False)


def not_available(what: str) -> int:
    """Say that something cannot be done here; the exit status for that."""
    _errors.print(f"not available here: {what}", markup=False, highlight=False)
    return NOT_AVAILABLE


def print_json(document: object) -> None:
    """One JSON document on standard output."""
    json.dump(document, sys.stdout, indent=2)
    print()
