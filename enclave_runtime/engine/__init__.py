"""The engine: loads a Llama-family model and answers many requests at once.

Importing this package imports nothing heavy; take names from `enclave_runtime.engine.model` (`load_model`,
`LoadedModel`), `enclave_runtime.engine.engine` (`Engine`, `EngineConfig`, `GenerationRequest`),
`enclave_runtime.engine.generation` (`Generation`, `Piece`) and `enclave_runtime.engine.errors`.
"""

import os

# numpy's library of linear algebra starts a thread for every processor when numpy is imported, and they spin while they
# wait. The engine has no use for them: it multiplies no matrices with numpy.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
