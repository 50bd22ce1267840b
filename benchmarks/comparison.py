"""Two recorded runs against each other: comparable only on the same machine, model and plan."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import metrics, statistics
from benchmarks.plain_vs_sealed import ARMS, SCHEMA, ArmName, ratio_json

MAX_FILE = 64 * 1024 * 1024
SAME = ("cpu", "cores", "machine", "model_sha256")
"""Members of the environment that must agree for a ratio to mean anything."""


class RunError(Exception):
    """A file holds no recorded run; ``code`` names the reason."""

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        super().__init__(f"{code}: {detail}")


@dataclass(frozen=True, slots=True)
class Run:
    """A recorded run: its environment, plan, and samples by metric and arm."""

    environment: dict[str, Any]
    plan: dict[str, Any]
    samples: dict[str, dict[ArmName, list[float]]]


def read_run(path: Path) -> Run:
    """Read what ``bench run --out`` wrote. Raises RunError."""
    try:
        with path.open("rb") as source:
            data = source.read(MAX_FILE + 1)
    except OSError as error:
        raise RunError("run_unreadable", f"{path}: {error.strerror}") from error
    if len(data) > MAX_FILE:
        raise RunError("run_too_large", f"{path} has more than {MAX_FILE} bytes")
    return parse_run(data)


def parse_run(data: bytes) -> Run:
    """Parse a recorded run. Raises RunError for anything else."""
    try:
        document = json.loads(data)
        if document["schema"] != SCHEMA:
            raise RunError("run_schema", f"expected {SCHEMA}, found {str(document['schema'])[:40]}")
        if document["provenance"] != metrics.PROVENANCE:
            raise RunError(
                "run_provenance", "numbers that were not measured are not compared with measured ones"
            )
        samples = {
            str(name): {
                arm: [float(sample) for sample in document["samples"][name][arm] if sample is not None]
                for arm in ARMS
            }
            for name in document["samples"]
            if name in metrics.BY_NAME
        }
        return Run(dict(document["environment"]), dict(document["plan"]), samples)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise RunError("run_malformed", "not a recorded run") from error


def compare(first: Run, second: Run) -> dict[str, Any]:
    """Ratios second/first for every metric and arm, or why there are none."""
    differing = [name for name in SAME if first.environment.get(name) != second.environment.get(name)]
    if first.plan != second.plan:
        differing.append("plan")
    if differing:
        return {"comparable": False, "differing": differing, "provenance": metrics.PROVENANCE}
    rows = []
    for name in first.samples.keys() & second.samples.keys():
        metric = metrics.BY_NAME[name]
        for arm in ARMS:
            try:
                ratio = statistics.unpaired_ratio(first.samples[name][arm], second.samples[name][arm])
            except ValueError:
                continue  # No samples on one side: nothing to say.
            changed = not ratio.covers(1.0)
            worse = (ratio.ratio > 1.0) == metric.less_is_better
            rows.append(
                {
                    "name": name,
                    "arm": arm,
                    "formula": metric.formula,
                    "second_over_first": {
                        **(ratio_json(ratio) or {}),
                        "formula": "ratio of geometric means, percentile bootstrap over samples",
                    },
                    "verdict": ("worse" if worse else "better") if changed else "no change shown",
                }
            )
    order = list(metrics.BY_NAME)
    rows.sort(key=lambda row: (order.index(str(row["name"])), str(row["arm"])))
    return {"comparable": True, "rows": rows, "provenance": metrics.PROVENANCE}
