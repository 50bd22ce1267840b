"""``cloister bench run``: record arms under the same load."""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from benchmarks import environment, workload
from benchmarks.arms import LOCAL, Arm, local_arm, remote_arm
from benchmarks.experiment import Plan, Turn, order
from benchmarks.experiment import run as run_experiment
from benchmarks.load import LoadError
from benchmarks.recording import RecordingError
from client_sdk.demo.model import resolve_model
from client_sdk.policy import Policy

OK, USAGE_OR_IO = 0, 1

HELP = """Record arms under the same load: the same prompts, seeds, lengths and times for each.

With arms that can be started here (plain, sealed, sealed+ohttp, sealed+ohttp+paced; give --arm several times) each is
booted --boots times in an order that cancels drift, the first one twice as often: against itself it gives the noise
floor. With --target, one arm that runs elsewhere is recorded: a relay's URL (verified by --policy first) or
openai:URL. An interrupted run goes on where it stopped. Then: cloister bench compare OUT.
"""

_errors = Console(stderr=True, soft_wrap=True)


def run(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder for the recordings, one in it for each arm.")
    ],
    arm: Annotated[
        list[str], typer.Option(help=f"An arm: {', '.join(LOCAL)}, or any name with --target.")
    ] = [],  # noqa: B006
    target: Annotated[str, typer.Option(help="'local', a relay's URL, or openai:URL.")] = "local",
    policy: Annotated[
        Path | None, typer.Option(help="The policy that a node behind --target is verified by.")
    ] = None,
    state: Annotated[
        Path, typer.Option(help="The folder for image, platform and logs of local arms.")
    ] = Path(".cloister"),
    model: Annotated[
        str | None, typer.Option(help="The model of local arms; default: the demo's model.")
    ] = None,
    boots: Annotated[
        int, typer.Option(min=1, help="Boots of each arm; 4 or more for intervals over boots.")
    ] = 1,
    profile: Annotated[str, typer.Option(help="Prompt lengths: short, medium or long.")] = "short",
    trace: Annotated[
        Path | None, typer.Option(help="A JSONL file of at_s, prompt, max_tokens instead.")
    ] = None,
    requests: Annotated[int, typer.Option(min=1, help="Requests in each load of a boot.")] = 8,
    max_tokens: Annotated[int, typer.Option(min=2, help="Tokens of every answer, exactly.")] = 32,
    concurrency: Annotated[
        list[int], typer.Option(min=1, help="A closed loop with so many lanes; may repeat.")
    ] = [1],  # noqa: B006
    rate: Annotated[
        list[float], typer.Option(help="A Poisson schedule with so many requests/s; may repeat.")
    ] = [],  # noqa: B006
    seed: Annotated[int, typer.Option(min=0, help="Seed of prompts and schedule.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was recorded as JSON.")] = False,
) -> int:
    """See ``cloister bench run --help``."""
    try:
        plan = Plan(
            boots=boots,
            profile=profile,
            requests=requests,
            max_tokens=max_tokens,
            concurrency=tuple(concurrency),
            rates=tuple(rate),
            seed=seed,
        )
        if profile not in workload.PROFILES:
            raise ValueError(f"a profile is one of {', '.join(workload.PROFILES)}")
        weights = None
        if target == "local":
            weights = resolve_model(model, state / "models")
            engine = {"max_batch": max(8, *plan.concurrency)}
            arms = [
                local_arm(name, state, weights, engine) for name in arm or ("plain", "sealed+ohttp+paced")
            ]
            if len({each.name for each in arms}) != len(arms):
                raise ValueError(
                    "an arm is given once; the first is booted a second time for the noise floor anyway"
                )
        elif len(arm) != 1:
            raise ValueError("with --target give exactly one --arm: a name for what runs there")
        else:
            arms = [remote_arm(arm[0], target, None if policy is None else Policy.load(policy))]
        schedule = None if trace is None else workload.read_trace(trace)
        _record(arms, plan, out, environment.describe(weights), schedule)
    except (LoadError, RecordingError, workload.TraceError, OSError, ValueError) as error:
        _errors.print(f"error {error}", style="red", markup=False, highlight=False)
        return USAGE_OR_IO
    recorded = sorted({str(out / turn.recording) for turn in order(arms, plan.boots)})
    if as_json:
        json.dump({"recorded": recorded}, sys.stdout)
        print()
    else:
        print(f"recorded {', '.join(recorded)}; compare with: cloister bench compare {out}")
    return OK


def _record(arms: list[Arm], plan: Plan, out: Path, where: dict[str, Any], schedule: Any) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=_errors, disable=not _errors.is_terminal) as bars:
        turns = len(order(arms, plan.boots))
        whole = bars.add_task("boots", total=turns)
        tasks: dict[Turn, TaskID] = {}

        def progress(turn: Turn, load: str, done: int, total: int) -> None:
            if turn not in tasks:
                tasks[turn] = bars.add_task("", total=total)
            bars.update(
                tasks[turn], completed=done, description=f"{turn.recording} boot {turn.boot + 1}, {load}"
            )
            if done == total:
                bars.update(whole, advance=1)

        asyncio.run(
            run_experiment(
                arms,
                plan,
                out,
                environment=where,
                machine=where["machine"],
                clock=time.monotonic,
                progress=progress,
                trace=schedule,
            )
        )
