"""Records what an engine would move between host and device, step by step.

``python -m benchmarks.crossing_trace --model PATH`` runs the node's engine on a workload and prints one JSON line a
step: sequences, tokens fed, KV pages named, tokens produced. It needs no device: what goes into and comes out of a
step of the decoder is what would cross to one.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.toll import Step
from benchmarks.workload import PROFILES, prompts
from enclave_runtime.engine.engine import Engine
from enclave_runtime.engine.engine_config import EngineConfig
from enclave_runtime.engine.errors import EngineError
from enclave_runtime.engine.model import load_model
from enclave_runtime.engine.request import GenerationRequest


def main(arguments: list[str] | None = None) -> int:
    """Run the workload and print its steps. Returns 1 where the model cannot be loaded."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crossing_trace", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a .gguf file or a model folder")
    parser.add_argument("--profile", choices=PROFILES, default="short")
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=32)
    options = parser.parse_args(arguments)
    try:
        model = load_model(options.model)
        engine = Engine(model, EngineConfig(max_batch=options.concurrency))
    except EngineError as error:
        print(f"crossing_trace: {error}", file=sys.stderr)
        return 1
    page = engine.config.page_tokens
    steps: list[Step] = []
    compute = model.decoder.step

    def traced(spans: Any, pool: Any) -> Any:
        steps.append(
            Step(
                sequences=len(spans),
                tokens_in=sum(len(span.tokens) for span in spans),
                pages=sum(-(-(span.start + len(span.tokens)) // page) for span in spans),
                tokens_out=sum(span.wants_logits for span in spans),
            )
        )
        return compute(spans, pool)

    model.decoder.step = traced  # type: ignore[method-assign]
    engine.start()
    try:
        asked = prompts(options.profile, options.requests, max_tokens=options.max_tokens)
        answers = [
            engine.submit(
                GenerationRequest(
                    model.tokenizer.encode(
                        model.chat_template.render([{"role": "user", "content": prompt.text}])
                    ),
                    prompt.max_tokens,
                    temperature=0.0,
                    ignore_eos=True,
                )
            )
            for prompt in asked
        ]
        for answer in answers:
            answer.collect()
    finally:
        engine.stop()
    print(json.dumps({"vocabulary": model.config.vocab_size, "model": model.name}))
    for step in steps:
        print(json.dumps(asdict(step)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
