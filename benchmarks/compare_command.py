"""``cloister bench compare``: two recorded arms against each other."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from benchmarks import workload
from benchmarks.experiment import AGAIN
from benchmarks.metrics import Objective
from benchmarks.recording import Recording, RecordingError, read

if TYPE_CHECKING:
    from benchmarks import comparison

OK, USAGE_OR_IO, NOT_COMPARABLE = 0, 1, 3

HELP = """Compare recorded arms: give two arms' folders, or the folder of a run with all of its arms.

Requests are paired by boot, load and slot. The effect is a ratio with its 95 % interval; nothing is claimed below the
noise floor, which is the first arm against itself. Arms of different machines are compared only if each machine ran
both. With --report, a Markdown report, summary.json and plots are written. Exit status 3: not comparable.
"""

_errors = Console(stderr=True, soft_wrap=True)


def compare(
    folder: Annotated[Path, typer.Argument(help="A recorded arm, or the folder of a run.")],
    second: Annotated[
        Path | None, typer.Argument(help="The arm to compare with it; ratios are second/first.")
    ] = None,
    floor: Annotated[
        Path | None, typer.Option(help="The first arm recorded again; default: FOLDER~again if it is there.")
    ] = None,
    margin: Annotated[
        float, typer.Option(min=0.001, max=0.5, help="The largest difference that is none.")
    ] = 0.02,
    slo_ttft: Annotated[float, typer.Option(min=0, help="Goodput: TTFT in seconds at most.")] = 1.0,
    slo_tpot: Annotated[float, typer.Option(min=0, help="Goodput: seconds per output token at most.")] = 0.1,
    report_to: Annotated[
        Path | None, typer.Option("--report", help="Write report, summary and plots here.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summaries as JSON.")] = False,
) -> int:
    """See ``cloister bench compare --help``."""
    # Statistics need what the extra ``bench`` brings; the command line must not need it to say so.
    from benchmarks import comparison, report

    try:
        pairs = [(folder, second)] if second is not None else _arms(folder)
        compared = [
            _compare(read(one), read(other), _floor(one, floor), margin, Objective(slo_ttft, slo_tpot))
            for one, other in pairs
        ]
        if report_to is not None:
            for each in compared:
                _write(each, report_to if len(compared) == 1 else report_to / each.second.arm)
    except (RecordingError, OSError) as error:
        _errors.print(f"error {error}", style="red", markup=False, highlight=False)
        return USAGE_OR_IO
    if as_json:
        json.dump([comparison.summary(each) for each in compared], sys.stdout, indent=1)
        print()
    else:
        for each in compared:
            report.show(Console(), each)
    return NOT_COMPARABLE if any(each.obstacles for each in compared) else OK


def _arms(folder: Path) -> list[tuple[Path, Path]]:
    """Every other arm of a run with its first one, which is the one that was recorded twice."""
    arms = sorted(head.parent for head in folder.glob("*/arm.json"))
    first = [arm for arm in arms if (folder / (arm.name + AGAIN)).is_dir()]
    if len(first) != 1:
        raise RecordingError(
            "no_run", f"{folder} is no folder of a run with several arms; give two arms' folders"
        )
    others = [arm for arm in arms if arm != first[0] and not arm.name.endswith(AGAIN)]
    return [(first[0], other) for other in others]


def _floor(first: Path, given: Path | None) -> Recording | None:
    beside = first.with_name(first.name + AGAIN)
    if given is not None:
        return read(given)
    return read(beside) if beside.is_dir() else None


def _compare(
    one: Recording, other: Recording, again: Recording | None, margin: float, objective: Objective
) -> "comparison.Comparison":
    from benchmarks import comparison

    bucket = None if "trace" in one.plan else workload.PROFILES.get(str(one.plan.get("profile")))
    return comparison.compare(
        one,
        other,
        again,
        objective=objective,
        margin=margin,
        bucket=None if bucket is None else bucket.tokens,
    )


def _write(each: "comparison.Comparison", folder: Path) -> None:
    from benchmarks import comparison, plots, report

    names = plots.draw(each, folder)
    (folder / "report.md").write_text(report.as_markdown(each, names))
    (folder / "summary.json").write_text(json.dumps(comparison.summary(each), indent=1) + "\n")
