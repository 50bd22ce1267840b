"""What each defence of a node costs by itself: ``python -m benchmarks.defences MODEL``.

Every arm is a process of its own with one defence more than the arm before it (``benchmarks.defence_arm``); they take
turns with the same request, so that other load falls on all. A ratio is with/without, from pairs of one round, with
its interval; an arm against itself is the noise floor.
"""

import argparse
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Final

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import environment
from benchmarks.statistics import Ratio, effect, median

COMPARED: Final = (
    ("KV pages zeroed", "bare", "pages", 0),
    ("all freed memory wiped", "pages", "memory", 0),
    ("seal", "memory", "sealed", 0),
    ("metrics through a second process, 100 a second", "sealed", "egress", 0),
    ("paced cells: first text", "open", "paced", 0),
    ("paced cells: end of the answer", "open", "paced", 1),
    ("noise: an arm against itself", "bare", "bare again", 0),
)
"""What is compared: a name, the arm without, the arm with, and which of a request's times."""


class Arm:
    """A process that answers requests one at a time."""

    def __init__(self, name: str, model: Path) -> None:
        command = [sys.executable, "-m", "benchmarks.defence_arm", name.removesuffix(" again"), str(model)]
        plain = {k: v for k, v in os.environ.items() if k not in ("PYTHONMALLOC", "GLIBC_TUNABLES")}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=plain)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._ask: IO[bytes] = self.process.stdin
        self._answers: IO[bytes] = self.process.stdout
        self._name = name

    def await_ready(self) -> None:
        """Wait until it has loaded its model. Raises RuntimeError where it ended instead."""
        if self._answers.readline() != b"ready\n":
            raise RuntimeError(f"the arm '{self._name}' did not start")

    def request(self) -> tuple[float, ...]:
        """One request: the seconds it took."""
        self._ask.write(b"\n")
        self._ask.flush()
        return tuple(json.loads(self._answers.readline()))

    def stop(self) -> None:
        """End the process."""
        self._ask.close()
        self.process.wait(20)


def measure(model: Path, rounds: int) -> dict[str, list[tuple[float, ...]]]:
    """Every arm's times by round."""
    names = list(dict.fromkeys(name for _, without, with_it, _ in COMPARED for name in (without, with_it)))
    times: dict[str, list[tuple[float, ...]]] = {name: [] for name in names}
    with ExitStack() as running:
        arms = {}
        for name in names:
            arms[name] = Arm(name, model)
            running.callback(arms[name].stop)
        for arm in track(arms.values(), "starting", console=Console(stderr=True), transient=True):
            arm.await_ready()
        for number in track(range(rounds), "measuring", console=Console(stderr=True), transient=True):
            for name in names if number % 2 else reversed(names):
                times[name].append(arms[name].request())
    return times


def summary(times: dict[str, list[tuple[float, ...]]]) -> list[dict[str, Any]]:
    """One row for each comparison."""
    rows = []
    for what, without, with_it, which in COMPARED:
        pairs = [(a[which], b[which]) for a, b in zip(times[without], times[with_it], strict=True)]
        ratio: Ratio = effect([pairs])
        rows.append(
            {
                "defence": what,
                "without_s": median([a for a, _ in pairs]),
                "with_s": median([b for _, b in pairs]),
                "ratio": ratio.ratio,
                "low": ratio.low,
                "high": ratio.high,
                "pairs": len(pairs),
            }
        )
    return rows


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.defences", description=__doc__)
    parser.add_argument("model", type=Path, help="a .gguf file or a model folder")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    if not options.model.exists():
        print(f"error {options.model}: there is no such model", file=sys.stderr)
        return 1
    where = environment.describe(options.model)
    rows = summary(measure(options.model, options.rounds))
    if options.json:
        print(json.dumps({"environment": where, "rows": rows}, indent=1))
        return 0
    table = Table("defence", "without", "with", "with/without (95 %)", box=None, pad_edge=False)
    for row in rows:
        interval = f"{row['ratio']:.3f} ({row['low']:.3f} – {row['high']:.3f})"
        table.add_row(row["defence"], f"{row['without_s']:.3f} s", f"{row['with_s']:.3f} s", interval)
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
