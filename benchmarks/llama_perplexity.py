"""llama.cpp's half of ``cloister bench perplexity``, in an environment of its own: it imports nothing but the standard
library, numpy and llama_cpp.

``quantise FROM TO TYPE`` writes a file in another format; ``score MODEL THREADS`` reads windows of tokens as JSON and
answers with the nats that each token in the second half of each was worth.
"""

import ctypes
import json
import sys
from typing import Any

_kept: list[Any] = []
"""What llama.cpp calls as long as it runs."""


def library() -> Any:
    """llama_cpp's low-level interface, silent."""
    import llama_cpp as lib  # type: ignore[import-not-found,unused-ignore]

    _kept.append(lib.llama_log_callback(lambda level, text, data: None))
    lib.llama_log_set(_kept[-1], ctypes.c_void_p(0))
    lib.llama_backend_init()
    return lib


def quantise(source: str, target: str, kind: str) -> int:
    """Write ``source`` anew with all matrices of one kind, where its block size allows (else what llama.cpp takes)."""
    lib = library()
    params = lib.llama_model_quantize_default_params()
    params.ftype = getattr(lib, f"LLAMA_FTYPE_{'ALL' if kind == 'F32' else 'MOSTLY'}_{kind}")
    params.allow_requantize, params.pure = True, True
    return int(lib.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)))


def score(model: str, threads: str) -> int:
    """Score windows from standard input."""
    import numpy as np

    lib = library()
    windows = json.load(sys.stdin)
    length = len(windows[0])
    loaded = lib.llama_model_load_from_file(model.encode(), lib.llama_model_default_params())
    params = lib.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = length
    params.n_threads = params.n_threads_batch = int(threads)
    context = lib.llama_init_from_model(loaded, params)
    vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(loaded))
    batch = lib.llama_batch_init(length, 0, 1)
    result = []
    for window in windows:
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        batch.n_tokens = length
        for place, token in enumerate(window):
            batch.token[place], batch.pos[place] = token, place
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
            batch.logits[place] = place >= length // 2 - 1
        if lib.llama_decode(context, batch):
            return 1
        for place in range(length // 2 - 1, length - 1):
            row = lib.llama_get_logits_ith(context, place)
            logits = np.ctypeslib.as_array(row, shape=(vocabulary,)).astype(np.float64)
            most = logits.max()
            result.append(float(most + np.log(np.exp(logits - most).sum()) - logits[window[place + 1]]))
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(quantise(*sys.argv[2:5]) if sys.argv[1] == "quantise" else score(*sys.argv[2:4]))
