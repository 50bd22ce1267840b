"""How the demo shows a step: what runs, then what came of it and how long it took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


@contextmanager
def step(console: Console, what: str) -> Iterator[list[str]]:
    """Show a step while it runs; lines appended to the list are shown behind it."""
    result: list[str] = []
    before = time.monotonic()
    with console.status(what):
        yield result
    took = time.monotonic() - before
    console.print(f"[green]✓[/] {what} [dim]{took:.1f} s[/]", highlight=False)
    for line in result:
        console.print(f"  [dim]{line}[/]", highlight=False)
