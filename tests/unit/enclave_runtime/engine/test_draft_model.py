"""A draft model changes how many steps an answer takes and nothing else; what it keeps of a request is gone with it."""

import contextlib
import json
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from step_rows import step_rows

from enclave_runtime.engine.constraint import ANY_OBJECT
from enclave_runtime.engine.draft import Draft
from enclave_runtime.engine.engine import Engine
from enclave_runtime.engine.engine_config import EngineConfig
from enclave_runtime.engine.errors import DraftMismatch, EngineFault, EngineStopped, InvalidRequest
from enclave_runtime.engine.model import LoadedModel, load_model
from enclave_runtime.engine.request import GenerationRequest
from enclave_runtime.engine.speculate import MAX_GUESSES, dealt

REPEATING = [*range(40, 60)] * 5
REQUESTS = [
    GenerationRequest(REPEATING, 60, temperature=0.0),
    GenerationRequest(REPEATING[:70], 50, temperature=0.9, top_p=0.9, seed=4, ignore_eos=True),
    GenerationRequest(REPEATING[:33], 40, temperature=0.3, seed=5, stop=("zz", "e")),
    GenerationRequest([7, 8, 9], 30, temperature=1.0, seed=6, ignore_eos=True),
    GenerationRequest(REPEATING[:64], 2, temperature=0.0),
    GenerationRequest(REPEATING[:65], 1, seed=1),
    GenerationRequest(
        [9, 9, 4],
        40,
        temperature=0.8,
        seed=7,
        repetition_penalty=1.3,
        presence_penalty=0.5,
        frequency_penalty=0.2,
    ),
    GenerationRequest([50] * 20, 30, temperature=0.7, top_k=5, min_p=0.05, seed=8, top_logprobs=2),
    GenerationRequest([11, 12], 40, temperature=0.9, seed=9, json_schema=ANY_OBJECT),
    GenerationRequest(list(range(40, 240)), 40, temperature=0.0, json_schema='{"type":"array"}'),
]

MakeDrafted = Callable[..., Engine]


@pytest.fixture
def make_drafted(tiny: Any, tiny_folder: Path, tmp_path: Path) -> Iterator[MakeDrafted]:
    """Engines over the tiny model with a draft: ``same`` is the model itself, ``cut`` its first layer."""
    engines = []

    def make(kind: str = "same", guesses: int = 4, **settings: Any) -> Engine:
        folder = tiny_folder
        if kind == "cut":
            folder = tiny.folder(tmp_path / f"cut{len(engines)}", num_hidden_layers=1)
        defaults = {"max_batch": 4, "max_queue": 16, "max_context": 256, "step_budget": 80}
        engine = Engine(
            load_model(tiny_folder),
            EngineConfig(**(defaults | settings)),
            draft=load_model(folder),
            draft_guesses=guesses,
        )
        engine.start()
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.stop()


def draft_of(engine: Engine) -> Draft:
    assert engine._scheduler.draft is not None
    return engine._scheduler.draft


def nothing_left(engine: Engine) -> bool:
    return all(
        pool.free_pages == pool.total_pages and not bool(pool.storage.any())
        for pool in (engine.pool, draft_of(engine).pool)
    )


@pytest.mark.parametrize(("kind", "guesses"), [("same", 4), ("cut", 1), ("cut", MAX_GUESSES)])
def test_answers_are_the_same_with_and_without_a_draft(
    make_engine: Callable[..., Engine], make_drafted: MakeDrafted, kind: str, guesses: int
) -> None:
    plain, drafted = make_engine(max_queue=16), make_drafted(kind, guesses)
    expected = [plain.submit(request).collect() for request in REQUESTS]
    assert [drafted.submit(request).collect() for request in REQUESTS] == expected
    together = [generation.collect() for generation in [drafted.submit(request) for request in REQUESTS]]
    assert together == expected
    assert nothing_left(drafted)


def test_a_draft_that_agrees_saves_steps(
    make_engine: Callable[..., Engine], make_drafted: MakeDrafted
) -> None:
    plain, drafted = make_engine(), make_drafted("same", 4)
    without, with_draft = step_rows(plain.model.decoder), step_rows(drafted.model.decoder)
    for request in (
        GenerationRequest([7, 8, 40], 100, temperature=0.7, seed=1, ignore_eos=True),
        GenerationRequest([7, 8, 40], 100, temperature=0.0, ignore_eos=True, repetition_penalty=1.2),
    ):
        assert plain.submit(request).collect() == drafted.submit(request).collect()
        assert len(without) == 100
        assert len(with_draft) == 20, "four guesses and one token of its own in each step"
        without.clear()
        with_draft.clear()


def test_a_draft_under_the_same_grammar_agrees_too(make_drafted: MakeDrafted) -> None:
    drafted = make_drafted("same", 4)
    steps = step_rows(drafted.model.decoder)
    answer = drafted.submit(
        GenerationRequest(
            [11, 12], 60, temperature=0.9, seed=9, json_schema='{"type":"string","minLength":40}'
        )
    ).collect()
    assert answer.token_count >= 40
    assert len(steps) <= answer.token_count / 3


def test_model_and_draft_keep_to_the_budget_of_a_step(make_drafted: MakeDrafted) -> None:
    drafted = make_drafted("cut", MAX_GUESSES, max_batch=8, step_budget=72, max_queue=16)
    model_rows, draft_rows = step_rows(drafted.model.decoder), step_rows(draft_of(drafted).decoder)
    requests = [REQUESTS[1], GenerationRequest(list(range(40, 240)), 30, seed=1, ignore_eos=True)] * 6
    for generation in [drafted.submit(request) for request in requests]:
        generation.collect()
    assert max(model_rows) <= 72
    assert max(draft_rows) <= 72
    assert len(draft_rows) <= MAX_GUESSES * len(model_rows)


@pytest.mark.parametrize("how", ["cancelled", "draft fails", "model fails", "not finite", "stopped"])
def test_nothing_is_left_whatever_ends_a_request(make_drafted: MakeDrafted, how: str) -> None:
    drafted = make_drafted("cut", 4)
    draft, chance, under_way = draft_of(drafted), random.Random(3), after_steps(drafted.model.decoder, 8)
    requests = [
        GenerationRequest(REPEATING[: chance.randrange(3, 90)], 120, ignore_eos=True) for _ in range(8)
    ]
    generations = [drafted.submit(request) for request in requests]
    assert under_way.wait(60)
    assert bool(draft.pool.storage.any())
    broken = {
        "draft fails": draft.decoder,
        "model fails": drafted.model.decoder,
        "not finite": draft.decoder,
    }.get(how)
    if how == "cancelled":
        for generation in generations:
            generation.cancel()
    elif how == "stopped":
        drafted.stop()
    else:
        break_once(broken, "nan" if how == "not finite" else "raise")
    for generation in generations:
        with contextlib.suppress(EngineFault, EngineStopped):
            generation.collect(timeout=60)
    if how != "stopped":
        assert drafted.submit(REQUESTS[0]).collect().finish_reason
    assert nothing_left(drafted)


def after_steps(decoder: Any, count: int) -> threading.Event:
    """Set once the decoder has done so many steps."""
    reached, rows = threading.Event(), step_rows(decoder)
    step = decoder.step

    def noting(spans: Any, pool: Any) -> Any:
        if len(rows) >= count:
            reached.set()
        return step(spans, pool)

    decoder.step = noting
    return reached


def break_once(decoder: Any, how: str) -> None:
    step = decoder.step

    def broken(spans: Any, pool: Any) -> Any:
        decoder.step = step
        if how == "raise":
            step(spans, pool)
            raise MemoryError
        return step(spans, pool) * float("nan")

    decoder.step = broken


def test_every_token_that_was_guessed_is_overwritten(make_drafted: MakeDrafted) -> None:
    drafted = make_drafted("cut", 4)
    seen: list[Any] = []
    begin = draft_of(drafted).begin

    def noting(sequence: Any) -> None:
        seen.append(sequence)
        begin(sequence)

    draft_of(drafted).begin = noting  # type: ignore[method-assign]
    drafted.submit(GenerationRequest([7, 8], 30, ignore_eos=True)).collect()
    assert not seen[0].tokens.any()
    assert not seen[0].guessed.any()
    assert seen[0].draft is None


def test_a_public_prefix_is_the_drafts_too(make_drafted: MakeDrafted, tiny_folder: Path) -> None:
    drafted = make_drafted("same")
    expected = [drafted.submit(request).collect() for request in REQUESTS]
    helped = Engine(drafted.model, drafted.config, draft=load_model(tiny_folder), public_prefix=True)
    helped.start()
    try:
        assert helped.keep_public_prefix(REPEATING) == 64
        rows = step_rows(draft_of(helped).decoder)
        assert helped.submit(REQUESTS[0]).collect() == expected[0]
        assert rows[0] == 100 - 64
        assert [helped.submit(request).collect() for request in REQUESTS] == expected
    finally:
        helped.stop()


def test_a_draft_of_another_vocabulary_or_too_short_a_context_is_refused(
    tiny: Any, tiny_model: LoadedModel, tiny_folder: Path, tmp_path: Path
) -> None:
    config = EngineConfig(max_batch=2, max_context=256)
    other = tmp_path / "other"
    tiny.folder(other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["an"], vocabulary["and"] = vocabulary["and"], vocabulary["an"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    for folder, code in (
        (other, "draft_vocabulary"),
        (tiny.folder(tmp_path / "wide", vocab_size=tiny.config["vocab_size"] + 8), "draft_vocabulary"),
        (tiny.folder(tmp_path / "short", max_position_embeddings=128), "draft_context"),
    ):
        with pytest.raises(DraftMismatch) as caught:
            Engine(load_model(tiny_folder), config, draft=load_model(folder))
        assert caught.value.code == code
    for guesses, speculate in ((0, 0), (MAX_GUESSES + 1, 0), (4, 1)):
        with pytest.raises(InvalidRequest):
            Engine(
                load_model(tiny_folder),
                EngineConfig(speculate=speculate),
                draft=tiny_model,
                draft_guesses=guesses,
            )


def test_the_same_vocabulary_in_another_form_is_the_same(
    tiny: Any, tiny_model: LoadedModel, tmp_path: Path
) -> None:
    stored = load_model(tiny.gguf(tmp_path / "tiny.gguf"))
    assert stored.tokenizer_digest != tiny_model.tokenizer_digest
    assert stored.tokenizer.vocabulary_digest() == tiny_model.tokenizer.vocabulary_digest()


def test_guesses_are_dealt_in_turn() -> None:
    assert dealt([4, 4, 1], 6) == [3, 2, 1]
    assert dealt([4, 4, 1], 100) == [4, 4, 1]
    assert dealt([4, 4], 0) == [0, 0]
    assert dealt([], 5) == []
