"""The demo's model, greedily: the compiled decoder says what the same weights say in float32, or was close to a tie."""

from pathlib import Path

import numpy as np
import pytest

from enclave_runtime.engine.cpu import binding
from enclave_runtime.engine.decoder import Span
from enclave_runtime.engine.model import LoadedModel, load_model

QUESTIONS = (
    *(
        "What is encryption?",
        "Name three rivers in Europe.",
        "Why is the sky blue?",
        "Write a haiku about winter.",
    ),
    *(
        "What is 17 plus 25?",
        "Explain photosynthesis to a child.",
        "Who wrote Hamlet?",
        "How do I boil an egg?",
    ),
    *("List the planets.", "What does a compiler do?", "Tell me a joke.", "What is the capital of Japan?"),
    *("Translate 'good morning' into French.", "What causes tides?", "Describe a cat in one sentence."),
    *("Write a Python function that adds two numbers.", "What is democracy?", "How far away is the moon?"),
    *("Give me a recipe for pancakes.", "What happened in 1969?"),
)
CLOSE = 0.05
"""Logits: how far below float32's choice another may lie that the rounding of activations and KV makes the larger."""


def contexts(model: LoadedModel) -> list[np.ndarray]:
    texts = [model.chat_template.render([{"role": "user", "content": question}]) for question in QUESTIONS]
    return [np.array(model.tokenizer.encode(text)) for text in texts]


def compare(path: Path, questions: int, tokens: int) -> tuple[int, list[float]]:
    """Choices compared, and for each that differed how much lower float32 rates it than its own. Both are given
    float32's tokens, so one difference does not lead to the next."""
    models = load_model(path, "compiled"), load_model(path, "torch")
    decoders = [model.decoder for model in models]
    prompts = contexts(models[0])[:questions]
    pools, tables, logits = [], [], []
    for decoder in decoders:
        decoder.reserve(512, rows=256)
        pool = decoder.new_pool(questions * 24, 16)
        pools.append(pool)
        tables.append([pool.allocate(owner, len(p) + tokens) for owner, p in enumerate(prompts, 1)])
        firsts = [
            decoder.step([Span(p, 0, t, True)], pool)[0].copy()
            for p, t in zip(prompts, tables[-1], strict=True)
        ]
        logits.append(firsts)
    running, count, margins = set(range(questions)), 0, []
    for step in range(tokens):
        chosen = {}
        for number in sorted(running):
            ours, exact = logits[0][number], logits[1][number]
            token = chosen[number] = int(exact.argmax())
            count += 1
            if int(ours.argmax()) != token:
                margins.append(float(exact[token] - exact[int(ours.argmax())]))
            if token in models[0].tokenizer.end_ids:
                running.discard(number)
                del chosen[number]
        if not chosen or step == tokens - 1:
            break
        for which, decoder in enumerate(decoders):
            spans = [
                Span(np.array([token]), len(prompts[number]) + step, tables[which][number], True)
                for number, token in chosen.items()
            ]
            rows = decoder.step(spans, pools[which])
            for row, number in zip(rows, chosen, strict=True):
                logits[which][number] = row.copy()
    return count, margins


@pytest.mark.skipif(binding.library() is None, reason="the compiled decoder was not built")
def test_the_first_words_are_those_of_float32(demo_model_path: Path) -> None:
    count, margins = compare(demo_model_path, 4, 6)
    assert count >= 20
    assert all(margin < CLOSE for margin in margins)


@pytest.mark.exhaustive
@pytest.mark.skipif(binding.library() is None, reason="the compiled decoder was not built")
def test_twenty_answers_are_those_of_float32(demo_model_path: Path) -> None:
    count, margins = compare(demo_model_path, len(QUESTIONS), 200)
    print(f"{count} tokens, {len(margins)} differ, by at most {max(margins, default=0.0):.4f} logits")
    assert all(margin < CLOSE for margin in margins)
