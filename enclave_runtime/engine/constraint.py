"""Answers that are JSON of a given schema: which tokens may come next, by the library ``llguidance``.

The library is native code that computes a mask of the vocabulary for each step; it makes no code at run time and
starts no thread here. A schema comes from a request, so its size and the work of compiling it are limited.
"""

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from enclave_runtime.engine.errors import InvalidRequest
from enclave_runtime.engine.schema_cost import check_cost
from enclave_runtime.engine.tokenizer import Tokenizer

MAX_SCHEMA_BYTES = 64 * 1024
_STRICT = {"whitespace_flexible": False, "lenient": False}
# Where only one text can follow, the library would look for all of it before every token, and a schema of forty bytes
# can make that a million characters.
_UNFORCED = '%llguidance {"no_forcing": true}'

ANY_OBJECT = '{"type":"object"}'
"""The schema of "any JSON object"."""


class Constraint:
    """The state of one answer under its grammar. Not thread-safe."""

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary

    def mask(self) -> np.ndarray:
        """Which tokens may come next: bool [vocabulary]. Nothing is allowed after an error."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        allowed: np.ndarray = np.unpackbits(bits, bitorder="little")[: self._vocabulary].astype(np.bool_)
        if self._matcher.is_error():
            allowed[:] = False
        return allowed

    def accept(self, token: int) -> bool:
        """Take ``token`` as chosen. True if nothing may follow but an end."""
        self._matcher.consume_token(token)
        return bool(self._matcher.is_stopped())

    def fork(self) -> "Constraint":
        """The same state, to go on from apart."""
        return Constraint(self._matcher.deep_copy(), self._vocabulary)


class ConstraintCompiler:
    """Makes constraints for one model. `available` says whether the library is installed."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: int) -> None:
        self._vocabulary = vocabulary
        self._library: Any = None
        try:
            import llguidance
        except ImportError:
            return
        self._library = llguidance
        wrapped = llguidance.TokenizerWrapper(_Vocabulary(tokenizer, vocabulary))
        ends = sorted(tokenizer.end_ids)
        self._tokenizer = llguidance.LLTokenizer(wrapped, n_vocab=vocabulary, eos_token=ends or None)

    @property
    def available(self) -> bool:
        return self._library is not None

    def compile(self, schema: str) -> Constraint:
        """A constraint to JSON of ``schema`` (a JSON text). Raises `InvalidRequest` for a schema that is too long,
        is none, or needs more than the library supports; the error holds nothing of it.
        """
        if self._library is None:
            raise InvalidRequest("answers by schema are not available: llguidance is not installed")
        if len(schema.encode("utf-8", "replace")) > MAX_SCHEMA_BYTES:
            raise InvalidRequest("schema", expected=f"at most {MAX_SCHEMA_BYTES} bytes")
        try:
            parsed = json.loads(schema, parse_float=Decimal)
            if isinstance(parsed, dict):
                check_cost(parsed)
                parsed = {**json.loads(schema), "x-guidance": _STRICT}
                # As one line of ASCII: nothing of a schema can be read as another line of the grammar.
                grammar = f"{_UNFORCED}\nstart: %json {json.dumps(parsed, allow_nan=False)}\n"
        except (ValueError, RecursionError, ArithmeticError):
            raise InvalidRequest("schema is no JSON") from None
        if not isinstance(parsed, dict):
            raise InvalidRequest("schema is no JSON object")
        try:
            matcher_type = self._library.LLMatcher
            limits = self._library.LLParserLimits(initial_lexer_fuel=1_000_000, max_grammar_size=200_000)
            compiled = matcher_type.grammar_from_lark(grammar)
            matcher = matcher_type(self._tokenizer, compiled, log_level=0, limits=limits)
        except Exception:  # the library's own words would quote the schema
            raise InvalidRequest("schema cannot be compiled") from None
        if matcher.is_error():
            raise InvalidRequest("schema cannot be compiled")
        return Constraint(matcher, self._vocabulary)


class _Vocabulary:
    """What the library wants to know of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: int) -> None:
        self._tokenizer = tokenizer
        ends = sorted(tokenizer.end_ids)
        self.eos_token_id = ends[0] if ends else vocabulary - 1
        self.bos_token_id = None
        self.tokens: Sequence[bytes] = [
            tokenizer.bytes_of(token) or f"<|{token}|>".encode() for token in range(vocabulary)
        ]
        self.special_token_ids = [token for token in range(vocabulary) if not tokenizer.bytes_of(token)]

    def __call__(self, text: str | bytes) -> list[int]:
        decoded = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        return self._tokenizer.encode(decoded)
