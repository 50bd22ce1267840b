"""``cloister serve --explain-seal``: which pieces of the seal this machine offers, and which calls are left."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from enclave_runtime.seal import Piece, State

_TIMEOUT_S = 60


class TrialFailed(Exception):
    """The process that was to seal itself did not; the text is for the operator."""


def trial(gpus: int = 0) -> Mapping[str, Any]:
    """Have a process seal itself (``enclave_runtime.seal_trial``), as a node that computes on ``gpus`` GPUs (0: on the
    processor); its report. Raises TrialFailed.
    """
    command = [sys.executable, "-B", "-m", "enclave_runtime.seal_trial", *([str(gpus)] if gpus else [])]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False)
        report: Mapping[str, Any] = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise TrialFailed(f"no report of the seal: {error}") from None
    if "seal" not in report:
        raise TrialFailed(f"{report.get('code')}: {report.get('detail')}")
    return report


def complete(report: Mapping[str, Any]) -> bool:
    """Whether every piece is in force, as a configuration that tolerates nothing asks."""
    return all(row["state"] == State.IN_FORCE for row in report["seal"])


def show_gpu(report: Mapping[str, Any], console: Console) -> None:
    """What ``report``, of a trial with GPUs, has that is not as with the processor alone."""
    console.print('\n[bold]where the configuration says decoder = {"kernels": "cuda"}[/] (one GPU):')
    pieces = {Piece.LANDLOCK_DEVICES, Piece.DESCRIPTORS_AUDITED, Piece.SECCOMP}
    console.print(_table([row for row in report["seal"] if row["piece"] in pieces]))
    names = " ".join(report["gpu_requests"])
    console.print(f"[bold]requests to the driver left[/]: {names}", highlight=False)


def show(report: Mapping[str, Any], console: Console) -> None:
    """The report as a table, and the filter's policy in words."""
    console.print(_table(report["seal"]))
    calls = report["calls"]
    for title, names in (
        ("calls left", calls["allowed"]),
        ("left with harmless arguments", calls["allowed_with_conditions"]),
        ("answered by ending the process", calls["killed"]),
    ):
        console.print(f"[bold]{title}[/] ({len(names)}): {' '.join(names)}", highlight=False)
    console.print(f"[bold]all others[/]: {calls['default']}", highlight=False)
    if not complete(report):
        console.print(
            "A node whose measured configuration does not tolerate a missing piece refuses to start here; "
            "one that does says so in its manifest."
        )


def _table(rows: Sequence[Mapping[str, str]]) -> Table:
    table = Table("piece", "state", "detail", box=None, pad_edge=False)
    for row in rows:
        held = row["state"] == State.IN_FORCE
        state = "[green]✓ in force[/]" if held else "[yellow]✗ missing here[/]"
        table.add_row(row["piece"], state, escape(row["detail"]))
    return table
