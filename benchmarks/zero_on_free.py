"""What it costs to overwrite keys and values when a request ends: ``python -m benchmarks.zero_on_free MODEL``.

Requests (a prompt of 128 tokens, then 64 more, eight at a time) are computed with pages that are overwritten when they
are freed, and with pages that are not, by turns in one process; medians and their ratio. On a busy machine that ratio
is noise; what the overwriting itself takes is told beside it.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from enclave_runtime.engine.decoder import Decoder, Span
from enclave_runtime.engine.model import load_model
from enclave_runtime.engine.pages import PagePool

PROMPT, ANSWER, AT_ONCE = 128, 64, 8


def requests(decoder: Decoder, pool: PagePool, owner: int) -> tuple[float, float]:
    """Seconds that eight requests take, from their pages to the freeing of those; and of that, the freeing alone."""
    tokens = np.arange(PROMPT + ANSWER) * 7919 % decoder.config.vocab_size
    start = time.perf_counter()
    tables = [pool.allocate(owner + place, PROMPT + ANSWER) for place in range(AT_ONCE)]
    for table in tables:
        decoder.step([Span(tokens[:PROMPT], 0, table, True)], pool)
    for at in range(PROMPT, PROMPT + ANSWER):
        decoder.step([Span(tokens[at : at + 1], at, table, True) for table in tables], pool)
    freeing = time.perf_counter()
    for table in tables:
        pool.release(table)
    end = time.perf_counter()
    return end - start, end - freeing


def measure(decoder: Decoder, rounds: int) -> dict[str, float]:
    """Medians in seconds, and how much of the speed without overwriting is left with it."""
    pools = {name: decoder.new_pool(AT_ONCE * (PROMPT + ANSWER) // 16, 16) for name in ("with", "without")}
    pools["without"].zero = lambda pages: None  # type: ignore[method-assign]
    taken: dict[str, list[float]] = {name: [] for name in pools}
    freed: dict[str, list[float]] = {name: [] for name in pools}
    for number in range(-1, rounds):  # the first round warms up
        for name in sorted(pools, reverse=bool(number % 2)):
            seconds, freeing = requests(decoder, pools[name], (number + 2) * AT_ONCE)
            if number >= 0:
                taken[name].append(seconds)
                freed[name].append(freeing)
    medians = {f"{name}_s": statistics.median(values) for name, values in taken.items()}
    overwriting = statistics.median(freed["with"]) - statistics.median(freed["without"])
    return medians | {
        "speed_left": medians["without_s"] / medians["with_s"],
        "overwriting_s": overwriting,
        "speed_left_by_overwriting": 1 - overwriting / medians["with_s"],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zero_on_free", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    decoder = load_model(options.model).decoder
    decoder.reserve(PROMPT + ANSWER, rows=256, threads=options.threads)
    print(json.dumps(measure(decoder, options.rounds), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
