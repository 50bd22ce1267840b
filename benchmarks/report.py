"""A comparison as text: a table for the terminal, and Markdown in the layout of the published study's tables.

In the Markdown, the study's figures stand beside ours in columns of their own: every column says where its numbers
come from, and :class:`benchmarks.provenance.Column` refuses to hold two kinds.
"""

import math
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks import metrics, published
from benchmarks.comparison import Comparison, Row
from benchmarks.provenance import Column, Provenance, Quantity, markdown
from benchmarks.statistics import Ratio


def show(console: Console, comparison: Comparison) -> None:
    """Print a comparison."""
    first, second = comparison.first.arm, comparison.second.arm
    if comparison.obstacles:
        console.print("[bold]not comparable[/]: " + "; ".join(comparison.obstacles), highlight=False)
        return
    console.print(
        f"[bold]{second}[/] against [bold]{first}[/] (the first), {_where(comparison)}", highlight=False
    )
    if _simulated(comparison):
        console.print(
            "[bold yellow]SIMULATED[/] platform: this says nothing about the cost of a hardware TEE"
        )
    table = Table("load", "metric", "first", "second", "ratio", "noise floor", "verdict", box=None)
    for row in comparison.rows:
        table.add_row(
            "–" if row.metric in metrics.PER_BOOT else row.load,
            f"{row.metric.name} \\[{row.metric.unit}]",
            f"{row.first:.3g}",
            f"{row.second:.3g}",
            interval(row.effect).replace("[", "\\["),
            "–" if row.floor is None else interval(row.floor).replace("[", "\\["),
            f"[bold]{row.verdict}[/]",
        )
    console.print(table)
    for note in notes(comparison):
        console.print(note, style="dim", markup=False, highlight=False)
    console.print("Formulas stand in --json and --report.\n", style="dim")


def notes(comparison: Comparison) -> tuple[str, ...]:
    """What a reader of the numbers must know."""
    scopes = {row.effect.scope for row in comparison.rows if row.metric not in metrics.PER_BOOT}
    found = [
        "Medians; ratio second/first = exp(mean over boots of mean(ln)) with its 95 % interval; all numbers measured."
    ]
    if "within boots" in scopes:
        found.append(
            "Fewer than 4 boots of each arm: the intervals speak of other requests to these boots, not of other boots."
        )
    if any(row.floor is None for row in comparison.rows):
        found.append(
            "Without an A/A recording of the first arm there is no noise floor and nothing is claimed."
        )
    margin = f"{comparison.margin:.1%}"
    same = [f"{row.load} {row.metric.name}" for row in comparison.rows if row.equivalent]
    found.append(f"Equivalent within ±{margin} (two one-sided tests): {', '.join(same) or 'none shown'}.")
    if comparison.differing_answers:
        found.append(
            f"{comparison.differing_answers} answers differ between the arms: they did not do the same work."
        )
    if comparison.outside_profile:
        found.append(
            f"{comparison.outside_profile} prompts were counted outside the profile's range of tokens."
        )
    found.append(f"goodput counts requests with {comparison.objective}.")
    return tuple(found)


def formulas(comparison: Comparison) -> tuple[str, ...]:
    """Every metric that is shown, with its formula: tools disagree about the names."""
    return tuple(
        f"{each.name} = {each.formula}" for each in dict.fromkeys(row.metric for row in comparison.rows)
    )


def label(row: Row) -> str:
    """A row's load and metric, or the metric alone where it belongs to the boot."""
    return row.metric.name if row.metric in metrics.PER_BOOT else f"{row.load} {row.metric.name}"


def interval(ratio: Ratio) -> str:
    """A ratio with its interval."""
    return f"{ratio.ratio:.3f}" + ("" if math.isnan(ratio.low) else f" [{ratio.low:.3f}, {ratio.high:.3f}]")


def as_markdown(comparison: Comparison, plots: Sequence[str] = ()) -> str:
    """The whole report: throughput, latency, everything else, the study's tables, and what to know."""
    first, second = comparison.first.arm, comparison.second.arm
    parts = [f"# {second} against {first}\n", f"{_where(comparison)}.\n"]
    if comparison.obstacles:
        return "\n".join([*parts, "**Not comparable**: " + "; ".join(comparison.obstacles) + ".\n"])
    if _simulated(comparison):
        parts.append("**SIMULATED** platform: this says nothing about the cost of a hardware TEE.\n")
    for title, chosen in _SECTIONS:
        rows = [row for row in comparison.rows if row.metric in chosen]
        if rows:
            parts += [f"## {title}\n", _table(comparison, rows)]
    parts += [f"![{plot}]({plot})\n" for plot in plots]
    known = (*notes(comparison), *formulas(comparison))
    parts += ["## What to know\n", "\n".join(f"- {note}" for note in known) + "\n"]
    parts += ["## A published study, for orientation\n", study_tables(comparison)]
    return "\n".join(parts)


def study_tables(comparison: Comparison | None = None) -> str:
    """The published study's overheads in the layout of its tables, with ours beside them where they were measured.

    Ours are another machine, model and engine: they share the layout, nothing more.
    """
    parts = [
        f"Figures of {published.SOURCE} (H100 NVL, TEE on against off), recomputed from its own numbers.\n"
    ]
    for number, title in ((1, "Throughput"), (2, "Latency"), (3, "Throughput by prompt length")):
        cells = [cell for cell in published.CELLS if cell.table == number]
        columns = [
            _published("TEE-off", [f"{cell.off:g} {cell.unit}" for cell in cells]),
            _published("TEE-on", [f"{cell.on:g} {cell.unit}" for cell in cells]),
            _published("overhead as printed", [f"{cell.printed_percent:.2f} %" for cell in cells]),
            _published("overhead recomputed", [f"{cell.overhead_percent:.2f} %" for cell in cells]),
        ]
        parts += [
            f"**Table {number}: {title}**\n",
            markdown([f"{c.model} {c.quantity}" for c in cells], columns),
        ]
    if comparison is not None and comparison.rows:
        ours = [
            (row, name)
            for row in comparison.rows
            if (name := _STUDY_NAMES.get(row.metric)) and row.load != "boot"
        ]
        columns = [
            _measured(comparison.first.arm, [f"{row.first:.3g} {row.metric.unit}" for row, _ in ours]),
            _measured(comparison.second.arm, [f"{row.second:.3g} {row.metric.unit}" for row, _ in ours]),
            _measured("overhead, 95 % interval", [overhead(row) for row, _ in ours]),
        ]
        parts += [
            "**Ours, in the same terms**\n",
            markdown([f"{row.load} {name}" for row, name in ours], columns),
        ]
    parts += [
        "What does not fit together in the study:\n",
        "\n".join(f"- {x}" for x in published.inconsistencies()),
    ]
    return "\n".join(parts) + "\n"


def overhead(row: Row) -> str:
    """An effect as the study counts it: lost throughput or added latency in percent of the first arm."""

    def percent(ratio: float) -> float:
        return 100.0 * ((ratio - 1.0) if row.metric.less_is_better else (1.0 - ratio))

    if math.isnan(row.effect.low):
        return f"{percent(row.effect.ratio):+.1f} %"
    low, high = sorted((percent(row.effect.low), percent(row.effect.high)))
    return f"{percent(row.effect.ratio):+.1f} % [{low:+.1f}, {high:+.1f}]"


_SECTIONS = (
    ("Throughput", (metrics.TOKENS_PER_S, metrics.TOTAL_TOKENS_PER_S, metrics.QPS, metrics.GOODPUT)),
    ("Latency", (metrics.TTFT, metrics.TPOT, metrics.CHUNK_GAP, metrics.END_TO_END)),
    ("Start and components", metrics.PER_BOOT),
)
_STUDY_NAMES = {
    metrics.TOKENS_PER_S: "TPS",
    metrics.QPS: "QPS",
    metrics.TTFT: "TTFT",
    metrics.TPOT: "TPOT (time per output token)",
}


def _table(comparison: Comparison, rows: Sequence[Row]) -> str:
    columns = [
        _measured(comparison.first.arm, [f"{row.first:.3g}" for row in rows]),
        _measured(comparison.second.arm, [f"{row.second:.3g}" for row in rows]),
        _measured("ratio, 95 % interval", [interval(row.effect) for row in rows]),
        _measured("noise floor (A/A)", [None if row.floor is None else interval(row.floor) for row in rows]),
        _measured("p50", [_quantile(row, 0.5) for row in rows]),
        _measured("p95", [_quantile(row, 0.95) for row in rows]),
        _measured("p99", [_quantile(row, 0.99) for row in rows]),
        _measured("verdict", [row.verdict for row in rows]),
    ]
    shown = [column for column in columns if any(column.cells)]
    return markdown([f"{label(row)} ({row.metric.unit})" for row in rows], shown)


def _quantile(row: Row, share: float) -> str | None:
    return None if share not in row.quantiles else f"{row.quantiles[share].ratio:.3f}"


def _measured(title: str, texts: Sequence[str | None]) -> Column:
    return _column(title, Provenance.MEASURED, texts)


def _published(title: str, texts: Sequence[str | None]) -> Column:
    return _column(title, Provenance.PUBLISHED, texts)


def _column(title: str, provenance: Provenance, texts: Sequence[str | None]) -> Column:
    return Column(
        title, provenance, tuple(None if text is None else Quantity(text, provenance) for text in texts)
    )


def _where(comparison: Comparison) -> str:
    where = comparison.first.environment
    boots = min(len(comparison.first.boots), len(comparison.second.boots))
    gpus = ", ".join(str(gpu.get("name")) for gpu in where.get("gpus", [])) or "no GPU"
    times = "1 boot" if boots == 1 else f"{boots} boots"
    return (
        f"{where.get('model')} on {where.get('cores')} cores of {where.get('cpu')}, {gpus}, {times} of each"
    )


def _simulated(comparison: Comparison) -> bool:
    arms = (comparison.first, comparison.second)
    return any(bool(boot.facts.get("simulated")) for arm in arms for boot in arm.boots)
