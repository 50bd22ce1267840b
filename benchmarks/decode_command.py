"""``cloister bench decode``: the compiled decoder beside what a user would take instead, in one run."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

OK, USAGE_OR_IO, NOT_AVAILABLE = range(3)
HELP = """Measure the decoder: tokens a second at batch 1, 8 and 32, and for a prompt of 512 tokens.

Each arm is a process of its own on the same file and the same number of threads; the arms take turns within every
round, and medians of the rounds are shown, with ratios to ours and the fraction of the memory bandwidth that batch 1
reaches. Our arm computes quantised weights with 16-bit activations as a node does; `ours, 8-bit activations` does as
llama.cpp does. llama.cpp takes part with --llama-python, an environment with llama-cpp-python built for this machine;
transformers (bfloat16) with --transformers, and with --compiled through torch.compile (it needs a C++ compiler, and
minutes before the first round).
"""
#: name, sequences at once (0: a prompt), steps in a round
WORK = (("d1", 1, 24), ("d8", 8, 8), ("d32", 32, 4), ("p512", 0, 1))
_errors = Console(stderr=True, soft_wrap=True)


class ArmFailed(Exception):
    """An arm's process ended before its time."""


class Arm:
    """A process that does work when it is told to (benchmarks.decode_arms)."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        waiting = {"OMP_WAIT_POLICY": "passive"}  # an arm that has finished must not spin while others work
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **waiting}
        )
        self.facts: dict[str, Any] = self._read()

    def seconds(self, sequences: int, steps: int) -> float:
        """How long the arm takes."""
        pipe: IO[str] | None = self._process.stdin
        assert pipe is not None
        print(json.dumps({"sequences": sequences, "steps": steps}), file=pipe, flush=True)
        return float(self._read())

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ArmFailed(f"{self.name} ended with status {self._process.wait()}")
        return json.loads(line)

    def end(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait()


def decode(
    model: Annotated[Path | None, typer.Option(help="A GGUF file; else --shape and --precision.")] = None,
    shape: Annotated[str, typer.Option(help="Random weights of this shape: 135m or 1b.")] = "135m",
    precision: Annotated[str, typer.Option(help="Of random weights: bf16, q8_0, q4_0 or q4_1.")] = "bf16",
    threads: Annotated[int, typer.Option(min=1, max=256, help="Threads of each arm.")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="How often all arms take their turn.")] = 7,
    llama_python: Annotated[Path | None, typer.Option(help="The Python with llama-cpp-python.")] = None,
    transformers: Annotated[bool, typer.Option("--transformers", help="Measure transformers too.")] = False,
    compiled: Annotated[
        bool, typer.Option("--compiled", help="Also transformers with a static cache, compiled.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Also draw the ratios to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the run as JSON.")] = False,
) -> int:
    """See ``cloister bench decode --help``."""
    from benchmarks import random_model  # numpy, which the command line must not need

    if shape not in random_model.SHAPES or precision not in random_model.PRECISIONS:
        _errors.print(f"error: --shape {', '.join(random_model.SHAPES)}; --precision one of"
                      f" {', '.join(random_model.PRECISIONS)}")  # fmt: skip
        return USAGE_OR_IO
    if model is not None and not model.exists():
        _errors.print(f"error: {model}: there is no such file", style="red", markup=False, highlight=False)
        return USAGE_OR_IO
    arms: list[Arm] = []
    with tempfile.TemporaryDirectory() as folder, Progress(console=_errors, transient=True) as bars:
        try:
            quantised = model is not None or precision != "bf16"
            if model is None:
                model = Path(folder) / f"{shape}-{precision}.gguf"
                task = bars.add_task("random weights")
                random_model.write(
                    model, shape, precision, lambda at, of: bars.update(task, completed=at, total=of)
                )
            for name, command in _commands(model, threads, llama_python, transformers, compiled, quantised):
                arms.append(Arm(name, command))
            limits = rates(Path(folder), threads, tiles=str(arms[0].facts["rate"]).startswith("amx"))
            taken = _measure(arms, rounds, bars)
        except (ArmFailed, OSError) as error:
            _errors.print(f"error: {error}", style="red", markup=False, highlight=False)
            return USAGE_OR_IO
        finally:
            for arm in arms:
                arm.end()
    run = _summary(arms, taken, limits, {"model": model.name, "threads": threads, "rounds": rounds})
    if plot is not None:
        _draw(run, plot)
    if as_json:
        print(json.dumps(run, indent=1))
    else:
        _show(run)
    return OK


def rates(folder: Path, threads: int, *, tiles: bool = False) -> dict[str, float]:
    """Read bandwidth and arithmetic rates (cpu_rates.c; with ``tiles`` of AMX too); empty without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return {}
    source, program = Path(__file__).with_name("cpu_rates.c"), folder / "rates"
    subprocess.run([compiler, "-O3", "-pthread", "-o", str(program), str(source)], check=True)
    found = subprocess.run(
        [str(program), str(threads), *(["tiles"] if tiles else [])],
        check=True,
        capture_output=True,
        text=True,
    )
    result: dict[str, float] = json.loads(found.stdout)
    return result


def _commands(
    model: Path,
    threads: int,
    llama_python: Path | None,
    transformers: bool,
    compiled: bool,
    quantised: bool,
) -> list[tuple[str, list[str]]]:
    def ours(kind: str, variant: str) -> list[str]:
        return [sys.executable, "-m", "benchmarks.decode_arms", kind, str(model), str(threads), variant]

    commands = [("ours", ours("ours", "fine"))]
    if quantised:
        commands.append(("ours, 8-bit activations", ours("ours", "coarse")))
    if transformers:
        commands.append(("transformers, sdpa", ours("transformers", "eager")))
    if compiled:
        commands.append(("transformers, static cache, torch.compile", ours("transformers", "static")))
    if llama_python is not None:
        script = Path(__file__).with_name("llama_arm.py")
        commands.append(("llama.cpp", [str(llama_python), str(script), str(model), str(threads)]))
    return commands


def _measure(arms: list[Arm], rounds: int, bars: Progress) -> dict[tuple[str, str], list[float]]:
    taken: dict[tuple[str, str], list[float]] = {}
    task = bars.add_task("warm-up", total=(rounds + 1) * len(WORK) * len(arms))
    for number in range(-1, rounds):  # the first round warms up and does not count
        for name, sequences, steps in WORK:
            for arm in arms if number % 2 else arms[::-1]:
                # torch.compile takes minutes for each kind of work: say what is waited for.
                bars.update(task, description=f"{'warm-up' if number < 0 else 'rounds'}: {arm.name}, {name}")
                seconds = arm.seconds(sequences, steps)
                bars.advance(task)
                if number >= 0:
                    taken.setdefault((arm.name, name), []).append(seconds)
    return taken


def _summary(
    arms: list[Arm],
    taken: dict[tuple[str, str], list[float]],
    limits: dict[str, float],
    about: dict[str, Any],
) -> dict[str, Any]:
    rows = {}
    for arm in arms:
        speeds = {
            name: (sequences * steps or 512 * steps) / statistics.median(taken[arm.name, name])
            for name, sequences, steps in WORK
        }
        rows[arm.name] = {"tokens_s": speeds, **arm.facts}
    weights = rows["ours"].get("weight_bytes")
    fraction = None
    if weights and limits:
        fraction = rows["ours"]["tokens_s"]["d1"] * weights * 1e-9 / limits["read_GB_s"]
    for row in rows.values():
        if row.get("rate") in limits:
            row["p512_of_rate"] = row["tokens_s"]["p512"] * row["multiply_adds"] * 1e-9 / limits[row["rate"]]
    return {**about, "limits": limits, "arms": rows, "d1_of_read_bandwidth": fraction}


def _show(run: dict[str, Any]) -> None:
    table = Table(
        "tokens/s", *(name for name, *_ in WORK), "ready s", title=f"{run['model']}, {run['threads']} threads"
    )
    ours = run["arms"]["ours"]["tokens_s"]
    for arm, row in run["arms"].items():
        speeds = row["tokens_s"]
        cells = [f"{speeds[name]:,.1f}" + ("" if arm == "ours" else f"  (ours {ours[name] / speeds[name]:.2f} ×)")
                 for name, *_ in WORK]  # fmt: skip
        table.add_row(arm, *cells, f"{row['ready_s']:.1f}")
    console = Console()
    console.print(table)
    console.print(f"limits: {run['limits'] or 'not measured (no C compiler)'}")
    if run["d1_of_read_bandwidth"] is not None:
        console.print(f"batch 1 reads {run['d1_of_read_bandwidth']:.0%} of the memory bandwidth measured")
    for arm, row in run["arms"].items():
        if "p512_of_rate" in row:
            console.print(
                f"{arm}: the prompt's products are {row['p512_of_rate']:.0%} of {row['rate']} ({row['kernels']})"
            )


def _draw(run: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(run["arms"])
    for number, (arm, row) in enumerate(run["arms"].items()):
        places = [at + number * width for at in range(len(WORK))]
        axes.bar(places, [row["tokens_s"][name] for name, *_ in WORK], width, label=arm)
    axes.set_xticks([at + 0.4 - width / 2 for at in range(len(WORK))], [name for name, *_ in WORK])
    axes.set_yscale("log")
    axes.set_ylabel("tokens/s")
    axes.set_title(f"{run['model']}, {run['threads']} threads")
    axes.legend()
    figure.savefig(path)
