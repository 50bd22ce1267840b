"""A run as a table for people: every name with its formula, every ratio with its interval."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def show_run(console: Console, summary: Mapping[str, Any]) -> None:
    """Print what :func:`benchmarks.plain_vs_sealed.summarise` gave."""
    where = summary["environment"]
    console.print(f"{where['model']} on {where['cores']} cores, {where['cpu']} (all numbers measured)")
    if where.get("sealed", {}).get("simulated"):
        console.print("[bold yellow]SIMULATED[/] platform: this says nothing about a hardware TEE's cost")
    table = Table(
        "metric", "plain", "sealed", "sealed/plain", "plain/plain", "verdict", box=None, header_style="dim"
    )
    for metric in summary["metrics"]:
        table.add_row(
            f"{metric['name']} \\[{metric['unit']}]",
            spread(metric["plain"]),
            spread(metric["sealed"]),
            ratio(metric["sealed_over_plain"]),
            ratio(metric["plain_over_plain"]),
            f"[bold]{metric['verdict']}[/]",
        )
    console.print(table)
    console.print("median \\[95 % interval]; ratio = exp(mean(ln)) over pairs \\[95 % interval]", style="dim")
    for metric in summary["metrics"]:
        console.print(f"{metric['name']} = {metric['formula']}", style="dim", markup=False, highlight=False)
    if differing := summary["slots_with_differing_answers"]:
        console.print(f"[yellow]{differing} slots had answers that differ between requests[/]")
    for limit in summary["limits"]:
        console.print(limit, style="dim", markup=False)


def show_comparison(console: Console, result: Mapping[str, Any]) -> None:
    """Print what :func:`benchmarks.comparison.compare` gave."""
    if not result["comparable"]:
        console.print(f"not comparable: different {', '.join(result['differing'])}", markup=False)
        return
    table = Table("what", "arm", "second/first", "verdict", box=None)
    for row in result["rows"]:
        table.add_row(row["name"], row["arm"], ratio(row["second_over_first"]), row["verdict"])
    console.print(table)
    console.print("  ratio of geometric means [95 % bootstrap interval]; all numbers measured", style="dim")


def spread(value: Mapping[str, Any] | None) -> str:
    """A median with its interval."""
    if value is None:
        return "-"
    return f"{value['median']:.3g}" + _interval(value)


def ratio(value: Mapping[str, Any] | None) -> str:
    """A ratio with its interval."""
    if value is None:
        return "-"
    return f"{value['ratio']:.3g}" + _interval(value)


def _interval(value: Mapping[str, Any]) -> str:
    if value["low"] is None:
        return ""
    return f" \\[{value['low']:.3g}, {value['high']:.3g}]"
