"""``cloister bench run | compare``."""

import asyncio
import json
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, TaskID

from benchmarks import arms, comparison, environment, plain_vs_sealed, render
from benchmarks.load import LoadError
from benchmarks.plain_vs_sealed import Plan
from client_sdk.demo.model import resolve_model
from client_sdk.policy import Policy

OK, USAGE_OR_IO = 0, 1

_errors = Console(stderr=True, soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add ``cloister bench`` and its commands."""
    bench = typer.Typer(name="bench", help="Measure what privacy costs.", no_args_is_help=True)
    bench.command("run", help=_RUN)(run)
    bench.command("compare", help=_COMPARE)(compare)
    app.add_typer(bench)


_RUN = """Measure plain against sealed, in turn, within one run.

The sealed arm is a node reached through a relay and verified like any user would: one that runs already
(--relay and --policy), or one started here from what `cloister demo` left in --state. The plain arm is started
here: the same engine with the same settings and model, over plain HTTP on the loopback interface. Prints time
to first text, tokens/s, requests/s and an empty request's time, each with its formula; ratios with intervals,
and plain against itself as the noise floor.
"""

_COMPARE = """Compare two recorded runs (files from bench run --out).

Only runs on the same machine with the same model and plan are compared; otherwise it says what differs, and
the exit status is 1.
"""


def run(
    state: Annotated[Path, typer.Option(help="The state folder of `cloister demo`.")] = Path(".cloister"),
    relay: Annotated[str | None, typer.Option(help="The relay's URL for a sealed node that runs.")] = None,
    policy: Annotated[
        Path | None, typer.Option(help="The policy to verify it by; default: the demo's.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model it serves; default: the demo's model.")] = None,
    slots: Annotated[int, typer.Option(min=1, help="Questions asked one at a time, twice to each arm.")] = 8,
    max_tokens: Annotated[int, typer.Option(min=2, help="Tokens of an answer at most.")] = 48,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at a time in the closed loop.")] = 4,
    blocks: Annotated[int, typer.Option(min=1, help="Rounds of four closed loops, two of each arm.")] = 4,
    out: Annotated[
        Path | None, typer.Option(help="Also write the run, with its samples, to this file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the run as JSON.")] = False,
) -> int:
    """See ``cloister bench run --help``."""
    plan = Plan(slots=slots, max_tokens=max_tokens, concurrency=concurrency, blocks=blocks)
    judged_by = Policy.load(policy or state / "policy.toml")
    weights = resolve_model(model, state / "models")
    where = environment.describe(weights)
    try:
        with ExitStack() as running:
            reached = relay or running.enter_context(arms.sealed_node(state, weights))
            summary = asyncio.run(_run(reached, judged_by, weights, plan, where))
    except LoadError as error:
        _errors.print(f"error {error}", style="red", markup=False, highlight=False)
        return USAGE_OR_IO
    if out is not None:
        out.write_text(json.dumps(summary, indent=1))
    if as_json:
        json.dump(summary, sys.stdout, indent=1)
        print()
    else:
        render.show_run(Console(), summary)
    return OK


def compare(
    first: Annotated[Path, typer.Argument(help="A recorded run.")],
    second: Annotated[Path, typer.Argument(help="Another; ratios are second/first.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> int:
    """See ``cloister bench compare --help``."""
    try:
        result = comparison.compare(comparison.read_run(first), comparison.read_run(second))
    except comparison.RunError as error:
        _errors.print(f"error {error}", style="red", markup=False, highlight=False)
        return USAGE_OR_IO
    if as_json:
        json.dump(result, sys.stdout, indent=1)
        print()
    else:
        render.show_comparison(Console(), result)
    return OK if result["comparable"] else USAGE_OR_IO


async def _run(relay: str, policy: Policy, model: Path, plan: Plan, where: dict[str, Any]) -> dict[str, Any]:
    async with arms.sealed_arm(relay, policy) as (sealed, facts):
        with (
            arms.plain_node(model, facts["runtime"]) as url,
            Progress(console=_errors, transient=True, disable=not _errors.is_terminal) as bars,
        ):
            tasks: dict[str, TaskID] = {}

            def progress(step: str, done: int, total: int) -> None:
                if step not in tasks:
                    tasks[step] = bars.add_task(step, total=total)
                bars.update(tasks[step], completed=done)

            async with arms.plain_arm(url) as plain:
                samples = await plain_vs_sealed.measure(plain, sealed, plan, time.monotonic, progress)
    where = {**where, "sealed": facts, "load_average_after": os.getloadavg()[0]}
    return plain_vs_sealed.summarise(samples, plan, where)
