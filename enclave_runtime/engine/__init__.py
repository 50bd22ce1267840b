"""The engine: loads a Llama-family model and answers many requests at once.

Importing this package imports nothing heavy; take names from `enclave_runtime.engine.model` (`load_model`,
`LoadedModel`), `enclave_runtime.engine.engine` (`Engine`, `EngineConfig`, `GenerationRequest`),
`enclave_runtime.engine.generation` (`Generation`, `Piece`) and `enclave_runtime.engine.errors`.
"""
