"""Pictures of what a relay learns: accuracies with their intervals, and what it saw."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.recorded_traffic import Trace
from benchmarks.traffic_analysis import Found

_COLOURS = {"off": "#b5452c", "bucket": "#c79a2b", "constant": "#2f6f8f"}
_SEEN_S = 3.0


def draw(found: Sequence[Found], shown: Sequence[Trace], folder: Path) -> list[Path]:
    """Write accuracy.svg, accuracy.png, traces.svg and traces.png into ``folder``; their paths.

    Raises ModuleNotFoundError without matplotlib, OSError.
    """
    matplotlib: Any = import_module("matplotlib")
    matplotlib.use("Agg")
    plot: Any = import_module("matplotlib.pyplot")
    plot.rcParams.update({"font.size": 9, "svg.hashsalt": "cloister", "svg.fonttype": "none"})
    folder.mkdir(parents=True, exist_ok=True)
    written = _save(_accuracies(plot, found), folder / "accuracy")
    written += _save(_traces(plot, shown), folder / "traces")
    plot.close("all")
    return written


def _accuracies(plot: Any, found: Sequence[Found]) -> Any:
    questions = list(dict.fromkeys(one.question for one in found))
    figure, axes = plot.subplots(1, len(questions), figsize=(3.1 * len(questions), 3.2), sharey=True)
    for ax, question in zip(axes, questions, strict=True):
        of_this = [one for one in found if one.question == question]
        for place, one in enumerate(of_this):
            accuracy = one.accuracy
            ax.bar(place, accuracy.share, 0.6, color=_COLOURS[one.profile])
            around = [[accuracy.share - accuracy.low], [accuracy.high - accuracy.share]]
            ax.errorbar(place, accuracy.share, around, color="black", capsize=4, linewidth=1)
            ax.plot(
                [place - 0.3, place + 0.3], [one.rung.share] * 2, color="black", linewidth=1, linestyle=":"
            )
            ax.text(place, accuracy.high + 0.02, f"{accuracy.share:.2f}", ha="center")
        ax.axhline(of_this[0].accuracy.chance, color="#555555", linestyle="--", linewidth=1)
        ax.set_xticks(range(len(of_this)), [one.profile for one in of_this])
        ax.set_title(question, fontsize=9)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(0, 1.12)
    axes[0].set_ylabel("share of right guesses")
    figure.text(
        0.5,
        0.01,
        "dashed: blind guessing; dotted: from the number of records alone; bars: 95 % intervals",
        ha="center",
        fontsize=8,
    )
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    return figure


def _traces(plot: Any, shown: Sequence[Trace]) -> Any:
    figure, axes = plot.subplots(len(shown), 1, figsize=(7.2, 1.05 * len(shown) + 0.6), sharex=True)
    for ax, trace in zip(axes, shown, strict=True):
        seen = [(t, s) for t, s in zip(trace.times, trace.sizes, strict=True) if t <= _SEEN_S]
        times, sizes = [t for t, _ in seen], [s for _, s in seen]
        ax.vlines(times, 0, sizes, color=_COLOURS[trace.label.partition(":")[0]], linewidth=1.2)
        ax.set_ylim(0, 620)
        ax.set_yticks([0, 500])
        ax.set_title(trace.label, fontsize=8, loc="left", pad=2)
        ax.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("seconds since the request")
    axes[len(shown) // 2].set_ylabel("bytes of a record")
    figure.tight_layout()
    return figure


def _save(figure: Any, stem: Path) -> list[Path]:
    paths = [stem.with_suffix(".svg"), stem.with_suffix(".png")]
    figure.savefig(paths[0], metadata={"Date": None})
    figure.savefig(paths[1], dpi=150)
    return paths
