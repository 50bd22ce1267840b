"""The node's numbers as text: OpenMetrics 1.0 (github.com/prometheus/OpenMetrics, specification/OpenMetrics.md)."""

from collections.abc import Sequence

from enclave_runtime.metrics_schema import MetricsSchema

MEDIA_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def render(schema: MetricsSchema, values: Sequence[int]) -> bytes:
    """The exposition: every series of the schema once, in its order, without timestamps and exemplars.

    It is made of the schema's own words and of numbers; nothing else can get into it.
    """
    lines: list[str] = []
    numbers = iter(values)
    for metric in schema.metrics:
        # The family of a counter goes by the name without the ending that its samples have.
        family = metric.name.removesuffix("_total") if metric.type == "counter" else metric.name
        lines += [f"# TYPE {family} {metric.type}", f"# HELP {family} {metric.meaning}"]
        for value in metric.label_values or ("",):
            label = f'{{{metric.label}="{value}"}}' if metric.label else ""
            lines.append(f"{metric.name}{label} {next(numbers)}")
    return "\n".join([*lines, "# EOF", ""]).encode("ascii")
