"""``cloister bench traffic``."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

OK, USAGE_OR_IO, NOT_AVAILABLE, REFUSED = range(4)

HELP = """Train an observer on the sizes and times of encrypted answers, under each padding profile.

Asks which of six topics an answer is about, by its words alone and with the topic's usual length and pace, and whether
its words are short or long. Answers run through the node's own framing, cells and encryption: in virtual time, where
no noise helps the defence, or with --wire from a gateway in a process of its own. Prints
accuracies with 95 % intervals beside blind guessing, and the bits that the length of an answer gives away. Exit status
0: under `constant` nothing showed but that; 3: something did. 2: scikit-learn or matplotlib is not installed.
"""

_errors = Console(stderr=True, soft_wrap=True)


def traffic(
    model: Annotated[
        Path | None, typer.Option(help="A GGUF file whose tokenizer cuts the answers; default: the demo's.")
    ] = None,
    state: Annotated[Path, typer.Option(help="The state folder of `cloister demo`.")] = Path(".cloister"),
    answers: Annotated[int, typer.Option(min=10, help="Answers a label.")] = 150,
    seed: Annotated[int, typer.Option(help="Another number gives other answers.")] = 1,
    wire: Annotated[
        bool, typer.Option("--wire", help="Record over real connections in real time: takes minutes.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write plots (SVG, PNG) and traffic.json here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> int:
    """See ``cloister bench traffic --help``."""
    try:
        from benchmarks import recorded_traffic, traffic_analysis, traffic_plots, wire_traffic

        weights = model or next(iter(sorted((state / "models").glob("*.gguf"))), None)
        questions, profiles = len(traffic_analysis.QUESTIONS), len(traffic_analysis.PROFILES)
        with Progress(console=_errors, transient=True, disable=not _errors.is_terminal) as bars:
            task = bars.add_task("traffic", total=questions * profiles)

            def say(step: str) -> None:
                bars.update(task, description=step, advance=1)

            found, shown, tokens_of = traffic_analysis.analyse(
                answers, weights, seed, say, wire_traffic.record if wire else recorded_traffic.record
            )
        summary = traffic_analysis.summary(found, tokens_of, answers, seed)
        if out is not None:
            traffic_plots.draw(found, shown, out)
            (out / "traffic.json").write_text(json.dumps(summary, indent=1) + "\n")
    except ModuleNotFoundError as error:
        _errors.print(f"not installed: {error.name}; pip install 'cloister\\[bench,runtime]'", style="red")
        return NOT_AVAILABLE
    if as_json:
        json.dump(summary, sys.stdout, indent=1)
        print()
    else:
        show(Console(), summary)
    return OK if traffic_analysis.as_expected(found) else REFUSED


def show(console: Console, summary: Mapping[str, Any]) -> None:
    """Print what :func:`benchmarks.traffic_analysis.summary` gave."""
    console.print(f"{summary['answers_a_label']} answers a label, cut by {summary['tokens']}", markup=False)
    table = Table(
        *("question", "profile", "guessed right", "blind", "by number of records", "bits about it"),
        *("bits of a size", "of a gap", "bytes", "seconds"),
        box=None,
        header_style="dim",
    )
    for one in summary["found"]:
        about = f"{one['bits_about_label']:.2f} of {one['bits_of_records']:.2f}"
        table.add_row(
            one["question"],
            one["profile"],
            _share(one["accuracy"]) + (" [green]chance[/]" if one["is_chance"] else ""),
            f"{one['accuracy']['chance']:.3f}",
            _share(one["rung"]),
            f"{about} (chance ±{one['bits_by_chance']:.2f})",
            f"{one['bits_of_size']:.2f}",
            f"{one['bits_of_gap']:.2f}",
            f"{one['bytes_an_answer']:,.0f}",
            f"{one['seconds_an_answer']:.2f}",
        )
    console.print(table)
    console.print(
        "share \\[95 % interval] of guesses about answers that the observer had not seen", style="dim"
    )


def _share(accuracy: Mapping[str, Any]) -> str:
    return f"{accuracy['share']:.3f} \\[{accuracy['low']:.3f}, {accuracy['high']:.3f}]"
