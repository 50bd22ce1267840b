"""Somebody asks for answers of a schema that is short to write and long to compute: before the answer, on the thread
that everybody's prompts wait for, or before each of its tokens, on the engine's.
"""

import json
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sealed_node import write_tiny_model

from enclave_runtime.engine import constraint
from enclave_runtime.engine.constraint import Constraint, ConstraintCompiler
from enclave_runtime.engine.errors import InvalidRequest
from enclave_runtime.engine.model import load_model
from enclave_runtime.engine.schema_cost import MAX_COMMON_MULTIPLE, check_cost

ONLY_ONE_TEXT = [
    {"type": "string", "pattern": "^a{60000}$"},
    {"const": "a" * 60_000},
    {"type": "array", "prefixItems": [{"const": "a" * 4000}] * 15, "minItems": 15, "maxItems": 15},
]
ALL_REMAINDERS = [
    {"type": "integer", "multipleOf": 99_991},
    {"type": "number", "multipleOf": 99.991},
    {"allOf": [{"type": "integer", "multipleOf": 103}, {"type": "integer", "multipleOf": 101}]},
    {"$defs": {"a": {"multipleOf": 997}}, "$ref": "#/$defs/a", "type": "integer", "multipleOf": 991},
    {"allOf": [{"type": "integer", "multipleOf": 8192}, {"type": "integer", "multipleOf": 10**6}]},
    {"type": "object", "properties": {"a": {"anyOf": [{"type": "integer", "multipleOf": 10**15}]}}},
]


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> ConstraintCompiler:
    pytest.importorskip("llguidance")
    model = load_model(Path(write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")))
    return ConstraintCompiler(model.tokenizer, model.config.vocab_size)


def steps_cost(compiled: Constraint) -> float:
    """Seconds of this thread's own time that the masks of four tokens take."""
    start = time.thread_time()
    for _ in range(4):
        compiled.accept(int(np.flatnonzero(compiled.mask())[0]))
    return time.thread_time() - start


@pytest.mark.parametrize("schema", ONLY_ONE_TEXT)
def test_a_long_text_that_must_follow_is_not_looked_for_before_each_token(
    compiler: ConstraintCompiler, monkeypatch: pytest.MonkeyPatch, schema: dict[str, Any]
) -> None:
    text = json.dumps(schema)
    steps_cost(compiler.compile('{"const": "ab"}'))  # what is made once is made
    cost = steps_cost(compiler.compile(text))
    # Control: the library as it comes looks through all of the text for each; here some hundred times the work.
    monkeypatch.setattr(constraint, "_UNFORCED", "")
    assert steps_cost(compiler.compile(text)) > 5 * cost


@pytest.mark.parametrize("schema", ALL_REMAINDERS)
def test_divisors_with_many_remainders_are_refused_before_they_are_compiled(
    compiler: ConstraintCompiler, schema: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest, match="multiples"):
        compiler.compile(json.dumps(schema))


def test_control_the_library_takes_them(
    compiler: ConstraintCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constraint, "check_cost", lambda schema: None)
    compiler.compile(json.dumps({"type": "integer", "multipleOf": MAX_COMMON_MULTIPLE + 1}))


@pytest.mark.parametrize(
    "divisors",
    [[0.01], [1, 0.05, 100], [5, 10, 15, 60], [MAX_COMMON_MULTIPLE], [0, -3], ["text", True, None]],
)
def test_usual_divisors_are_let_through(divisors: list[Any]) -> None:
    text = json.dumps({"anyOf": [{"multipleOf": divisor} for divisor in divisors]})
    check_cost(json.loads(text, parse_float=Decimal))


@pytest.mark.parametrize(
    "number", ["1e-999999999", "1e999999999", "1e-99999999999999999999", "1" * 4000, "0." + "0" * 4000 + "1"]
)
def test_a_number_of_another_world_is_a_refusal(compiler: ConstraintCompiler, number: str) -> None:
    with pytest.raises(InvalidRequest):
        compiler.compile(f'{{"type": "number", "multipleOf": {number}}}')


@pytest.mark.parametrize("text", ["\n", "\r", "\u2028", '"}\nstart: "x"'])
def test_a_schema_adds_no_line_to_the_grammar(compiler: ConstraintCompiler, text: str) -> None:
    compiled = compiler.compile(json.dumps({"const": text, "x-guidance": {"whitespace_flexible": True}}))
    said = b""
    while not compiled._matcher.is_accepting():
        token = int(np.flatnonzero(compiled.mask())[0])
        said += compiler._tokenizer.decode_bytes([token])
        compiled.accept(token)
    assert json.loads(said) == text
