"""The model of the demo, where it is at hand: a real file, a real answer."""

import asyncio
from pathlib import Path

from enclave_runtime.engine.engine import Engine
from enclave_runtime.engine.engine_config import EngineConfig
from enclave_runtime.engine.model import load_model
from enclave_runtime.engine.request import GenerationRequest


def test_it_knows_the_capital_of_france(demo_model_path: Path) -> None:
    model = load_model(demo_model_path)
    engine = Engine(model, EngineConfig(max_context=256))
    engine.start()
    text = model.chat_template.render([{"role": "user", "content": "What is the capital of France?"}])
    assert text.endswith("<|im_start|>assistant\n")
    request = GenerationRequest(model.tokenizer.encode(text), 40, temperature=0.0)

    async def read() -> list[str]:
        return [piece.text async for piece in engine.submit(request).pieces()]

    pieces = asyncio.run(read())
    engine.stop()
    assert "".join(pieces) == "The capital of France is Paris."
    assert len(pieces) > 1
