"""``cloister bench model``: what confidential computing would cost, by the toll model; always labelled *modelled*."""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks import toll
from benchmarks.provenance import Column, Provenance, Quantity, markdown
from benchmarks.toll import Fit, Sampling, Step, Toll
from client_sdk.demo.model import resolve_model

OK, USAGE_OR_IO = 0, 1
SAMPLINGS: tuple[Sampling, ...] = ("device", "host")

HELP = """Model what CC mode costs where there is no CC hardware: a toll for every host-device crossing.

The engine runs a workload and every step's crossings are recorded (count and bytes). Each pays a fixed time and its
bytes over a bandwidth, one after the other; also emulated with real AES-256-GCM copies. The model is set by one
published figure and checked against the others, with the residuals printed. Everything here is MODELLED.
"""

_errors = Console(stderr=True, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Modelled:
    """One way to place sampling and block tables: crossings and bytes a token, seconds of toll a token."""

    sampling: Sampling
    resident_tables: bool
    crossings: float
    bytes: float
    analytic_s: float
    emulated_s: float


def model(
    model: Annotated[str | None, typer.Option(help="The model to trace; default: the demo's model.")] = None,
    state: Annotated[Path, typer.Option(help="The folder with the demo's model.")] = Path(".cloister"),
    profile: Annotated[str, typer.Option(help="Prompt lengths: short, medium or long.")] = "short",
    requests: Annotated[int, typer.Option(min=1, help="Requests to trace.")] = 8,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at once.")] = 8,
    max_tokens: Annotated[int, typer.Option(min=2, help="Tokens of every answer.")] = 32,
    small_copy_us: Annotated[
        float, typer.Option(min=0, help="A plain small copy in microseconds; the fixed toll is 44 of them.")
    ] = toll.DEFAULT_SMALL_COPY_S * 1e6,
    bandwidth: Annotated[
        float, typer.Option(min=0.1, help="GB/s of encrypted copies.")
    ] = toll.DEFAULT_BANDWIDTH / 1e9,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> int:
    """See ``cloister bench model --help``."""
    weights = resolve_model(model, state / "models")
    options = ["--profile", profile, "--requests", str(requests), "--concurrency", str(concurrency)]
    command = [sys.executable, "-m", "benchmarks.crossing_trace", "--model", str(weights), *options]
    done = subprocess.run(
        [*command, "--max-tokens", str(max_tokens)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        _errors.print(f"error {done.stderr.strip()[-400:]}", style="red", markup=False, highlight=False)
        return USAGE_OR_IO
    head, *lines = map(json.loads, done.stdout.splitlines())
    steps = [Step(**line) for line in lines]
    price = Toll(toll.SMALL_COPY_FACTOR * small_copy_us * 1e-6, bandwidth * 1e9)
    rows = [
        _modelled(steps, head["vocabulary"], price, sampling, resident)
        for sampling in SAMPLINGS
        for resident in (True, False)
    ]
    per_token, fits = toll.calibrate()
    if as_json:
        json.dump(_as_json(head, steps, price, rows, per_token, fits), sys.stdout, indent=1)
        print()
    else:
        print(_as_text(head, steps, price, rows, per_token, fits))
    return OK


def _modelled(
    steps: list[Step], vocabulary: int, price: Toll, sampling: Sampling, resident: bool
) -> Modelled:
    trace = [
        toll.crossings(step, vocabulary=vocabulary, sampling=sampling, resident_tables=resident)
        for step in steps
    ]
    tokens = sum(step.tokens_out for step in steps)
    return Modelled(
        sampling,
        resident,
        sum(map(len, trace)) / tokens,
        sum(map(sum, trace)) / tokens,
        toll.analytic(trace, price) / tokens,
        toll.emulated(trace, price) / tokens,
    )


def _as_json(
    head: dict[str, Any],
    steps: list[Step],
    price: Toll,
    rows: list[Modelled],
    per_token: float,
    fits: tuple[Fit, ...],
) -> dict[str, Any]:
    return {
        "schema": "cloister-bench-model/1",
        "provenance": Provenance.MODELLED,
        "model": head["model"],
        "steps": len(steps),
        "tokens": sum(step.tokens_out for step in steps),
        "toll": asdict(price),
        "per_token": [{**asdict(row), "provenance": Provenance.MODELLED} for row in rows],
        "calibration": {
            "toll_per_token_s": per_token,
            "rows": [
                {**asdict(fit), "residual_percent": fit.residual_percent, "provenance": Provenance.MODELLED}
                for fit in fits
            ],
        },
    }


def _as_text(
    head: dict[str, Any],
    steps: list[Step],
    price: Toll,
    rows: list[Modelled],
    per_token: float,
    fits: tuple[Fit, ...],
) -> str:
    tokens = sum(step.tokens_out for step in steps)
    names = [
        f"sampling on the {r.sampling}, block tables {'resident' if r.resident_tables else 'sent'}"
        for r in rows
    ]
    crossed = [
        _column("crossings a token", [f"{row.crossings:.2f}" for row in rows]),
        _column("bytes a token", [f"{row.bytes:,.0f}" for row in rows]),
        _column("toll a token, analytic", [f"{row.analytic_s * 1e6:,.0f} µs" for row in rows]),
        _column("toll a token, emulated", [f"{row.emulated_s * 1e6:,.0f} µs" for row in rows]),
    ]
    fitted = [
        _column("TEE-off", [f"{fit.off:g}" for fit in fits], Provenance.PUBLISHED),
        _column("TEE-on", [f"{fit.on:g}" for fit in fits], Provenance.PUBLISHED),
        _column("TEE-on by the model", [f"{fit.modelled_on:.4g}" for fit in fits]),
        _column(
            "residual",
            ["set by this row" if fit.fitted else f"{fit.residual_percent:+.2f} %" for fit in fits],
        ),
    ]
    return "\n".join(
        [
            f"MODELLED: crossings of {head['model']}, {len(steps)} steps, {tokens} tokens; "
            f"{price.fixed_s * 1e6:.0f} µs + bytes / {price.bandwidth / 1e9:g} GB/s each, one after the other\n",
            markdown(names, crossed, corner="placement"),
            f"MODELLED: a toll of {per_token * 1e3:.3f} ms a token, whatever the model, against published tokens/s "
            "(arXiv 2409.03992 v4)\n",
            markdown([f"{fit.model} {fit.quantity}" for fit in fits], fitted, corner="row"),
        ]
    )


def _column(title: str, texts: list[str], provenance: Provenance = Provenance.MODELLED) -> Column:
    return Column(title, provenance, tuple(Quantity(text, provenance) for text in texts))
