"""Every bench once, as small as it goes: ``python -m benchmarks.smoke``. It shows that they run, not how fast they are.

No threshold is looked at. What needs something that is not here (evidence with known verdicts, a peer's package) is
left out, with the reason. The exit status is 1 if a bench failed.
"""

import argparse
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

TIMEOUT_S = 400.0
FOUND = 3
"""The status of a bench that ran and found what it looks for; with so few samples that means nothing here."""


@dataclass(frozen=True, slots=True)
class Bench:
    """One command; ``needs`` says what is missing where it cannot run."""

    name: str
    command: tuple[str, ...]
    needs: str = ""
    also_fine: tuple[int, ...] = ()


def benches(state: Path, out: Path, vectors: Path) -> tuple[Bench, ...]:
    """All of them; the arms first, since the comparison reads what they recorded."""
    arms = [
        part for name in ("plain", "sealed", "sealed+ohttp", "sealed+ohttp+paced") for part in ("--arm", name)
    ]
    few = ("--requests", "2", "--max-tokens", "4", "--state", str(state))
    model = next(iter(sorted((state / "models").glob("*.gguf"))), Path("no-model.gguf"))
    demo = "" if model.is_file() else f"no model in {state / 'models'}"
    evidence = "" if vectors.is_dir() else f"{vectors} is not there"
    return (
        Bench("run", _cloister("bench", "run", "-o", str(out / "run"), *arms, *few)),
        Bench("compare", _cloister("bench", "compare", str(out / "run"), "--report", str(out / "report"))),
        Bench("model", _cloister("bench", "model", *few, "--concurrency", "2")),
        Bench(
            "traffic analysis",
            _cloister("bench", "traffic", "--answers", "12", "--state", str(state)),
            also_fine=(FOUND,),
        ),
        Bench("CPU evidence", _module("cpu_evidence", str(vectors)), evidence),
        Bench("GPU evidence", _module("gpu_evidence", "--rounds", "2")),
        Bench("OHTTP beside peers", _module("ohttp_peers", "--rounds", "2"), _missing("pyhpke", "ehbp")),
        Bench("gateway", _module("ohttp_gateway", "--rounds", "2")),
        Bench("decoders' memory", _module("ohttp_memory", "--bytes", "4000000")),
        Bench(
            "perplexity",
            _cloister("bench", "perplexity", "--model", str(model), "--windows", "1", "--length", "16"),
            demo,
        ),
        Bench("zero on free", _module("zero_on_free", str(model), "--rounds", "1"), demo),
        Bench("first token", _module("first_token", str(model), "--rounds", "1"), demo),
        Bench("streams", _module("many_streams", "--streams", "20", "--waves", "1")),
        Bench("log", _module("transparency", "--entries", "2000")),
        Bench("leases", _module("leases", str(model), "--rounds", "1"), demo),
        Bench("guessing ahead", _module("speculation", str(model), "--rounds", "1", "--tokens", "8"), demo),
        Bench("a simulated year", _module("simulated_year", "--days", "73")),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all benches and print a table. Returns 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.smoke", description=__doc__)
    parser.add_argument("--state", type=Path, default=Path(".cloister"), help="the folder of cloister demo")
    parser.add_argument("--vectors", type=Path, default=Path("../shared/vectors"))
    options = parser.parse_args(arguments)
    console = Console()
    table = Table("bench", "seconds", "outcome", box=None)
    failed = False
    out = Path(tempfile.mkdtemp(prefix="cloister-smoke-"))
    try:
        for bench in benches(options.state, out, options.vectors):
            if bench.needs:
                table.add_row(bench.name, "–", f"left out: {bench.needs}")
                continue
            with console.status(bench.name):
                took, said = _run(bench)
            failed = failed or said is not None
            table.add_row(bench.name, f"{took:.1f}", "[red]failed[/]" if said is not None else "ran")
            if said is not None:
                console.print(f"{bench.name}: {said}", style="red", markup=False, highlight=False)
    finally:
        shutil.rmtree(out, ignore_errors=True)
    console.print(table)
    return int(failed)


def _run(bench: Bench) -> tuple[float, str | None]:
    """Seconds taken, and the last words of one that failed."""
    began = time.monotonic()
    try:
        done = subprocess.run(bench.command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return time.monotonic() - began, f"not done after {TIMEOUT_S:.0f} s"
    words = (
        None
        if done.returncode in (0, FOUND)
        else (done.stderr or done.stdout).strip()[-400:] or f"status {done.returncode}"
    )
    return time.monotonic() - began, words


def _cloister(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "client_sdk", *arguments)


def _module(name: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", f"benchmarks.{name}", *arguments)


def _missing(*packages: str) -> str:
    absent = [package for package in packages if importlib.util.find_spec(package) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""


if __name__ == "__main__":
    sys.exit(main())
