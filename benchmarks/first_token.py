"""From the start of a process to its first token: ``python -m benchmarks.first_token MODEL --llama-python PYTHON``.

Ours and llama.cpp's (by llama-cpp-python) are started by turns on the same file, which the first round brings into the
file cache; each reads the model and computes one token after the same prompt of 32 tokens. Medians in seconds, of the
whole and of the part after the interpreter's imports.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

OURS = """
import sys, time
from pathlib import Path
from enclave_runtime.engine.decoder import Span
from enclave_runtime.engine.model import load_model
import numpy as np
began = time.perf_counter()
decoder = load_model(Path(sys.argv[1])).decoder
decoder.reserve(512, rows=256, threads=int(sys.argv[2]))
pool = decoder.new_pool(32, 16)
token = decoder.step([Span(np.arange(32) + 100, 0, pool.allocate(1, 64), True)], pool)[0].argmax()
print(time.perf_counter() - began, int(token), flush=True)
"""
THEIRS = """
import ctypes, sys, time
import llama_cpp as lib
import numpy as np
began = time.perf_counter()
quiet = lib.llama_log_callback(lambda level, text, data: None)
lib.llama_log_set(quiet, ctypes.c_void_p(0))
lib.llama_backend_init()
model = lib.llama_model_load_from_file(sys.argv[1].encode(), lib.llama_model_default_params())
params = lib.llama_context_default_params()
params.n_ctx, params.n_threads, params.n_threads_batch = 512, int(sys.argv[2]), int(sys.argv[2])
context = lib.llama_init_from_model(model, params)
batch = lib.llama_batch_init(32, 0, 1)
batch.n_tokens = 32
for place in range(32):
    batch.token[place], batch.pos[place], batch.logits[place] = place + 100, place, place == 31
    batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
lib.llama_decode(context, batch)
logits = lib.llama_get_logits_ith(context, 31)
count = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
token = np.ctypeslib.as_array(logits, (count,)).argmax()
print(time.perf_counter() - began, int(token), flush=True)
"""


def once(python: Path, program: str, model: Path, threads: int) -> tuple[float, float, int]:
    """Seconds from the start of the process, seconds without its imports, and the token. Raises `OSError` or
    `subprocess.CalledProcessError`."""
    command = [str(python), "-c", program, str(model), str(threads)]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        whole = time.perf_counter() - start
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command[0])
    without, token = line.split()
    return whole, float(without), int(token)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_token", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--llama-python", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    arms = {"ours": (Path(sys.executable), OURS)}
    if options.llama_python is not None:
        arms["llama.cpp"] = (options.llama_python, THEIRS)
    taken: dict[str, list[tuple[float, float, int]]] = {name: [] for name in arms}
    try:
        for number in range(-1, options.rounds):
            for name, (python, program) in arms.items():
                result = once(python, program, options.model, options.threads)
                if number >= 0:
                    taken[name].append(result)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        json.dumps(
            {
                name: {
                    "process_s": statistics.median(whole for whole, _, _ in values),
                    "after_imports_s": statistics.median(without for _, without, _ in values),
                    "token": values[-1][2],
                }
                for name, values in taken.items()
            },
            indent=1,
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
