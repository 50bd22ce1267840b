"""What a lease saves: ``python -m benchmarks.leases MODEL``, seconds to the first token of a conversation's next turn.

The same turn with a lease that holds the turn before it, in the pool and sealed beside it, and without; they take
turns, so that other load falls on all.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import environment
from enclave_runtime.engine.engine import Engine
from enclave_runtime.engine.engine_config import EngineConfig
from enclave_runtime.engine.lease import Lease
from enclave_runtime.engine.lease_room import STORES
from enclave_runtime.engine.model import load_model
from enclave_runtime.engine.request import GenerationRequest

BEFORE = (250, 1000, 1900)
"""Tokens of a conversation so far."""
NEW = 60
"""Tokens of the next turn."""


def first_token(engine: Engine, prompt: list[int], lease: Lease | None) -> float:
    """Seconds to the first token."""
    begun = time.perf_counter()
    engine.submit(GenerationRequest(prompt, 1, temperature=0.0, lease=lease)).collect()
    return time.perf_counter() - begun


def measure(model: Path, rounds: int) -> list[dict[str, Any]]:
    """One row for each length."""
    config = EngineConfig(max_batch=1, max_queue=4, max_context=2048)
    loaded = load_model(model)
    engines = {
        store: Engine(loaded, config, leases=1, lease_tokens=2048, lease_store=store) for store in STORES
    }
    for engine in engines.values():
        engine.start()
    tokens = np.random.default_rng(1).integers(10, 1000, 2048).tolist()
    rows = []
    for before in BEFORE:
        times: dict[str, list[float]] = {arm: [] for arm in ("without", *STORES)}
        for _ in track(range(rounds), f"{before} tokens", console=Console(stderr=True), transient=True):
            for store, engine in engines.items():
                lease = engine.open_lease(bytes(32))
                first_token(engine, tokens[:before], lease)
                times[store].append(first_token(engine, tokens[: before + NEW], lease))
                engine.close_lease(lease).result()
            times["without"].append(first_token(engines["pool"], tokens[: before + NEW], None))
        medians = {arm: statistics.median(taken) for arm, taken in times.items()}
        rows.append(
            {"before": before}
            | {f"{arm}_s": median for arm, median in medians.items()}
            | {f"{store}_ratio": medians["without"] / medians[store] for store in STORES}
        )
    for engine in engines.values():
        engine.stop()
    return rows


def main() -> int:
    """Measure and print. Returns 1 for a model that is not there."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.leases", description=__doc__)
    parser.add_argument("model", type=Path, help="a .gguf file or a model folder, with a context of 2048")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    if not options.model.exists():
        print(f"error {options.model}: there is no such model", file=sys.stderr)
        return 1
    rows = measure(options.model, options.rounds)
    if options.json:
        print(json.dumps({"environment": environment.describe(options.model), "rows": rows}, indent=1))
        return 0
    table = Table("tokens so far", f"first token, {NEW} new, without", *STORES, box=None)
    for row in rows:
        leased = (f"{row[f'{store}_s']:.3f} s ({row[f'{store}_ratio']:.1f} times)" for store in STORES)
        table.add_row(str(row["before"]), f"{row['without_s']:.3f} s", *leased)
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
