"""Pictures of a comparison: ratios with intervals over the noise floor, latency distributions, overhead by load.

Every picture's title says where its numbers come from.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import metrics
from benchmarks.comparison import Comparison, Row
from benchmarks.provenance import Provenance
from benchmarks.report import label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FIRST, _SECOND, _FLOOR = "#3b6ea5", "#c8553d", "#d9d9d9"
_LATENCIES = (metrics.TTFT, metrics.TPOT, metrics.END_TO_END)


def draw(comparison: Comparison, folder: Path) -> tuple[str, ...]:
    """Write each plot as SVG and PNG into ``folder``; the names of the SVG files."""
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    if not comparison.rows:
        return ()
    names = []
    for name, figure in (
        ("ratios", _ratios(comparison)),
        ("latency", _latency(comparison)),
        ("by-load", _by_load(comparison)),
    ):
        for suffix in ("svg", "png"):
            figure.savefig(folder / f"{name}.{suffix}", bbox_inches="tight", dpi=130)
        names.append(f"{name}.svg")
    return tuple(names)


def _figure(rows: int, columns: int, size: tuple[float, float]) -> "tuple[Figure, list[Axes]]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, [figure.add_subplot(rows, columns, index + 1) for index in range(rows * columns)]


def _ratios(comparison: Comparison) -> "Figure":
    """Each metric's ratio with its interval, over the interval of the first arm against itself."""
    rows = comparison.rows
    figure, (axes,) = _figure(1, 1, (8.0, 0.9 + 0.3 * len(rows)))
    for place, row in enumerate(reversed(rows)):
        if row.floor is not None and not math.isnan(row.floor.low):
            axes.barh(place, row.floor.high - row.floor.low, left=row.floor.low, height=0.7, color=_FLOOR)
        shown = row.effect if not math.isnan(row.effect.low) else None
        if shown is not None:
            axes.plot([shown.low, shown.high], [place, place], color=_SECOND, linewidth=2)
        axes.plot(row.effect.ratio, place, "o" if shown else "x", color=_SECOND, markersize=5)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xscale("log")
    _plain_numbers(axes)
    axes.set_yticks(range(len(rows)), [label(row) for row in reversed(rows)], fontsize=8)
    axes.set_xlabel(
        f"{comparison.second.arm} / {comparison.first.arm}, 95 % interval (grey: noise floor, A/A)"
    )
    axes.set_title(_title(comparison, "ratios"))
    axes.grid(axis="x", which="both", alpha=0.25)
    return figure


def _latency(comparison: Comparison) -> "Figure":
    """How TTFT, TPOT and end-to-end times are distributed in both arms, all loads together."""
    figure, all_axes = _figure(1, len(_LATENCIES), (11.0, 3.2))
    for axes, metric in zip(all_axes, _LATENCIES, strict=True):
        of = metrics.PER_REQUEST[metric]
        for recording, colour in ((comparison.first, _FIRST), (comparison.second, _SECOND)):
            values = sorted(
                value
                for load in recording.loads
                for t in load.timings
                if (value := of(t)) is not None and value > 0
            )
            shares = [(index + 1) / len(values) for index in range(len(values))]
            axes.step(values, shares, where="post", color=colour, label=recording.arm)
        axes.set_xscale("log")
        _plain_numbers(axes)
        axes.set_xlabel(f"{metric.name} [{metric.unit}]")
        axes.set_ylim(0, 1)
        axes.grid(alpha=0.25)
    all_axes[0].set_ylabel("share of requests")
    all_axes[0].legend(fontsize=8)
    figure.suptitle(_title(comparison, "latency distributions"))
    return figure


def _by_load(comparison: Comparison) -> "Figure":
    """The ratio of each throughput and latency metric at each load."""
    chosen = (metrics.TOKENS_PER_S, metrics.TTFT, metrics.TPOT)
    figure, all_axes = _figure(1, len(chosen), (11.0, 3.2))
    for axes, metric in zip(all_axes, chosen, strict=True):
        rows = [row for row in comparison.rows if row.metric is metric and row.load != "boot"]
        _points(axes, rows)
        axes.set_title(metric.name, fontsize=10)
    all_axes[0].set_ylabel(f"{comparison.second.arm} / {comparison.first.arm}")
    figure.suptitle(_title(comparison, "by load"))
    return figure


def _points(axes: "Axes", rows: Sequence[Row]) -> None:
    for place, row in enumerate(rows):
        if row.floor is not None and not math.isnan(row.floor.low):
            axes.fill_between([place - 0.3, place + 0.3], row.floor.low, row.floor.high, color=_FLOOR)
        low, high = (row.effect.ratio if math.isnan(b) else b for b in (row.effect.low, row.effect.high))
        axes.plot([place, place], [low, high], color=_SECOND, linewidth=2)
        axes.plot(place, row.effect.ratio, "o", color=_SECOND)
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(rows)), [row.load for row in rows], fontsize=8)
    axes.set_xlim(-0.6, max(len(rows), 1) - 0.4)
    axes.grid(axis="y", alpha=0.25)


def _plain_numbers(axes: "Axes") -> None:
    """0.5, 1, 2 instead of powers of ten along a logarithmic axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_xlim()
    subs: tuple[float, ...] = (1.0, 2.0, 5.0) if high / low > 4 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
    if high / low < 1.5:
        subs = tuple(1.0 + 0.05 * step for step in range(180))
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _title(comparison: Comparison, what: str) -> str:
    return f"{comparison.second.arm} against {comparison.first.arm}: {what} ({Provenance.MEASURED})"
