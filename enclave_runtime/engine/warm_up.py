"""Every kind of request once, before there are any: what Python and its libraries load late is loaded then."""

from contextlib import suppress
from typing import TYPE_CHECKING

from enclave_runtime.engine.constraint import ANY_OBJECT
from enclave_runtime.engine.errors import InvalidRequest, TooManyLeases
from enclave_runtime.engine.request import GenerationRequest

if TYPE_CHECKING:
    from enclave_runtime.engine.engine import Engine


def walk_every_path(engine: "Engine") -> None:
    """Take every path a request can take. ``engine`` is running."""
    model, config = engine.model, engine.config
    model.chat_template.warm_up()
    words = model.tokenizer.encode("Grüße, 12 世界 🦀!\n", add_special_tokens=True) or [0]
    prompt = (words * (engine.max_context // len(words) + 1))[: engine.max_context - 1]
    long, short = prompt[: config.step_budget + 1], prompt[: len(words)]
    requests = [
        GenerationRequest(long, 2, temperature=0.0),
        GenerationRequest(short, 3, temperature=0.7, top_p=0.5, seed=1, stop=("\u0000",)),
        GenerationRequest(short, 3, temperature=100.0, top_p=0.999999, seed=2),
        GenerationRequest(
            short, 3, top_k=5, min_p=0.1, repetition_penalty=1.1, presence_penalty=0.1, top_logprobs=2
        ),
    ]
    if engine.takes_schemas:
        requests.append(GenerationRequest(short, 3, json_schema=ANY_OBJECT))
    requests += [GenerationRequest(short, 3)] * (config.max_batch - len(requests))
    generations = [engine.submit(request) for request in requests[: config.max_queue]]
    for generation in generations:
        generation.collect()
    cancelled = engine.submit(GenerationRequest(short, None))
    cancelled.cancel()
    cancelled.collect()
    with suppress(TooManyLeases):
        lease = engine.open_lease(bytes(32))
        for _ in range(2):
            engine.submit(GenerationRequest(long, 2, lease=lease)).collect()
        engine.close_lease(lease).result()
    with suppress(InvalidRequest):
        engine.submit(GenerationRequest(short, 0))
    with suppress(InvalidRequest):
        engine.submit(GenerationRequest(short, 3, json_schema='{"type": 1}'))
