"""llama.cpp in a process of its own, by llama-cpp-python's low-level interface; same protocol as `decode_arms`.

Runs in an environment of its own: it imports nothing but the standard library and llama_cpp.
"""

import ctypes
import json
import sys
import time

CONTEXT = 128
PROMPT = 512


def main(model: str, threads: str) -> int:
    """Serve requests for work until the input ends."""
    began = time.perf_counter()
    import llama_cpp as lib  # type: ignore[import-not-found,unused-ignore]

    quiet = lib.llama_log_callback(lambda level, text, data: None)
    lib.llama_log_set(quiet, ctypes.c_void_p(0))
    lib.llama_backend_init()
    loaded = lib.llama_model_load_from_file(model.encode(), lib.llama_model_default_params())
    params = lib.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = 64 * 256, 2048, 512, 64
    params.n_threads = params.n_threads_batch = int(threads)
    if hasattr(params, "kv_unified"):
        params.kv_unified = True
    context = lib.llama_init_from_model(loaded, params)
    vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(loaded))
    batch = lib.llama_batch_init(2048, 0, 1)
    memory = lib.llama_get_memory(context)

    filled: set[int] = set()

    def decode(entries: list[tuple[int, int, bool]]) -> None:
        batch.n_tokens = len(entries)
        for place, (sequence, position, wanted) in enumerate(entries):
            batch.token[place] = (sequence * 7919 + position * 104729) % vocabulary
            batch.pos[place] = position
            batch.n_seq_id[place] = 1
            batch.seq_id[place][0] = sequence
            batch.logits[place] = wanted
        if lib.llama_decode(context, batch):
            raise RuntimeError("llama_decode failed")
        lib.llama_synchronize(context)

    def work(sequences: int, steps: int) -> float:
        if sequences == 0:
            taken = 0.0
            for _ in range(steps):
                lib.llama_memory_seq_rm(memory, 63, -1, -1)
                start = time.perf_counter()
                decode([(63, position, position == PROMPT - 1) for position in range(PROMPT)])
                taken += time.perf_counter() - start
            return taken
        for sequence in range(sequences):
            if sequence in filled:
                lib.llama_memory_seq_rm(memory, sequence, CONTEXT, -1)
            else:
                decode([(sequence, position, False) for position in range(CONTEXT)])
                filled.add(sequence)
        start = time.perf_counter()
        for position in range(CONTEXT, CONTEXT + steps):
            decode([(sequence, position, True) for sequence in range(sequences)])
        return time.perf_counter() - start

    said = lib.llama_print_system_info().decode()
    print(json.dumps({"ready_s": time.perf_counter() - began, "system": said}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(work(asked["sequences"], asked["steps"])), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
