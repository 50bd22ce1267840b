"""``cloister serve --explain-seal``: which pieces of the seal this machine offers, and which calls are left."""

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from enclave_runtime.seal import State

_TIMEOUT_S = 60


class TrialFailed(Exception):
    """The process that was to seal itself did not; the text is for the operator."""


def trial() -> Mapping[str, Any]:
    """Have a process seal itself (``enclave_runtime.seal_trial``); its report. Raises TrialFailed."""
    command = [sys.executable, "-B", "-m", "enclave_runtime.seal_trial"]
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


def show(report: Mapping[str, Any], console: Console) -> None:
    """The report as a table, and the filter's policy in words."""
    table = Table("piece", "state", "detail", box=None, pad_edge=False)
    for row in report["seal"]:
        held = row["state"] == State.IN_FORCE
        state = "[green]✓ in force[/]" if held else "[yellow]✗ missing here[/]"
        table.add_row(row["piece"], state, escape(row["detail"]))
    console.print(table)
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
