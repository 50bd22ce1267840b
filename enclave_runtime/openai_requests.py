"""What a node takes of OpenAI's request bodies: a closed schema with limits, and refusals that repeat no
input.

An option that would change the answer and is not computed here is refused by its name, unless it carries
the value that means "as if absent". Names of options come from the closed lists below, never from the
request.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

MAX_BODY = 1 << 20
"""Bytes of a request body at most."""

MAX_MESSAGES = 256
MAX_PARTS = 64
MAX_TEXT = 400_000
"""Characters of one text at most; what fits the model's context is decided in tokens, later."""

MAX_STOPS = 4
MAX_STOP_LENGTH = 64

_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": (),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "metadata": ({},),
}

_NUMBERS = ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")

_Bounded = TypeVar("_Bounded", bound="_Closed")


class RequestRefused(Exception):
    """A request that is not served: HTTP ``status``, OpenAI error ``code``, a fixed ``message``, an
    option's name.
    """

    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.message = message
        self.param = param

    def anew(self) -> "RequestRefused":
        """The same refusal, to be raised. One that is raised again and again would keep what it was raised in: its
        traceback and its context lead to the request.
        """
        return RequestRefused(self.status, self.code, self.message, self.param)


_UNKNOWN = RequestRefused(400, "unknown_parameter", "The request has an option that is not known here.")


class _Closed(BaseModel):
    # Without its cache of strings: it is one for all requests, and keeps what they said.
    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, hide_input_in_errors=True, cache_strings="none"
    )

    @model_validator(mode="before")
    @classmethod
    def _no_crowd(cls, value: object) -> object:
        """One error for an object with too many members, not one for each: errors cost everybody's time."""
        if isinstance(value, dict) and len(value) > len(cls.model_fields):
            raise PydanticCustomError("crowd", "more members than are known")
        return value


class TextPart(_Closed):
    """One part of a message's content; only text is understood."""

    type: Literal["text"]
    text: Annotated[str, Field(max_length=MAX_TEXT)]


class Message(_Closed):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: (
        Annotated[str, Field(max_length=MAX_TEXT)]
        | Annotated[list[TextPart], Field(min_length=1, max_length=MAX_PARTS, fail_fast=True)]
    )

    @property
    def text(self) -> str:
        """The content as one text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(_Closed):
    """How a stream ends."""

    include_usage: bool = False
    include_obfuscation: bool = False


class SchemaFormat(_Closed):
    """A JSON schema that the answer must fit. Answers always follow it, ``strict`` or not."""

    name: Annotated[str, Field(max_length=64)]
    description: Annotated[str, Field(max_length=MAX_TEXT)] | None = None
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")
    strict: bool | None = None


class ResponseFormat(_Closed):
    """What the answer has to be: any text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaFormat | None = None

    @property
    def schema_text(self) -> str | None:
        """The schema as a JSON text; None for any text."""
        if self.type == "text":
            return None
        schema = (
            self.json_schema.schema_
            if self.type == "json_schema" and self.json_schema
            else {"type": "object"}
        )
        return json.dumps(schema)


class _Request(_Closed):
    model: Annotated[str, Field(min_length=1, max_length=256)]
    max_tokens: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    stop: tuple[Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)], ...] = Field(
        (), max_length=MAX_STOPS
    )
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)] = 0.0
    # Not OpenAI's; the names are those that other servers use.
    top_k: Annotated[int, Field(ge=0, le=1 << 31)] = 0
    min_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100, allow_inf_nan=False)] = 1.0
    # Not OpenAI's: an answer of a known length, for measuring; the name is the one that other servers use.
    ignore_eos: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None
    # Not OpenAI's: which lease the request brings (enclave_runtime/leases.py).
    lease: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{86}$")] | None = Field(None, repr=False)
    # Accepted so that programs that send it work; it is never read.
    user: Annotated[str, Field(max_length=256)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_spelling(cls, value: object) -> object:
        """Null is absent, one stop is a list of one, and whole numbers are numbers."""
        if not isinstance(value, dict):
            return value
        known = {name: item for name, item in value.items() if item is not None}
        stop = known.get("stop")
        if isinstance(stop, str):
            known["stop"] = (stop,)
        elif isinstance(stop, list) and len(stop) <= MAX_STOPS:
            known["stop"] = tuple(stop)
        for name in _NUMBERS:
            if type(known.get(name)) is int and abs(known[name]) <= 100:
                known[name] = float(known[name])
        return known


class ChatRequest(_Request):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @property
    def json_schema(self) -> str | None:
        """The schema that the answer must fit, as a JSON text."""
        return self.response_format.schema_text if self.response_format is not None else None

    @property
    def wanted_logprobs(self) -> int | None:
        """How many of the likeliest tokens to report for each; None for no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def token_limit(self) -> int | None:
        """The most tokens the answer may have, by either name; None where the request sets none."""
        limits = [limit for limit in (self.max_tokens, self.max_completion_tokens) if limit is not None]
        return min(limits, default=None)


class CompletionRequest(_Request):
    """``POST /v1/completions``."""

    prompt: Annotated[str, Field(max_length=MAX_TEXT)]
    logprobs: None = None
    json_schema: ClassVar[None] = None
    wanted_logprobs: ClassVar[None] = None

    @property
    def token_limit(self) -> int | None:
        """The most tokens the answer may have; OpenAI's own default is 16."""
        return 16 if self.max_tokens is None else self.max_tokens


class LeaseRequest(_Closed):
    """``POST /v1/lease``, not OpenAI's: a secret of 32 bytes in base64url, and for how many seconds at most."""

    secret: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{43}$", repr=False)]
    seconds: Annotated[int, Field(ge=1, le=3600)] | None = None


def parse_request(kind: type[_Bounded], body: bytes) -> _Bounded:
    """Read a request body. Raises RequestRefused (status 400 or 413) for all that is not exactly
    understood.
    """
    if len(body) > MAX_BODY:
        raise RequestRefused(413, "request_too_large", f"A request body has at most {MAX_BODY} bytes.")
    try:
        document = pydantic_core.from_json(body, allow_inf_nan=False, cache_strings="none")
    except ValueError:
        raise RequestRefused(400, "invalid_json", "The request body is not valid JSON.") from None
    if not isinstance(document, dict):
        raise RequestRefused(400, "invalid_json", "The request body is not a JSON object.")
    if len(document) > len(kind.model_fields) + len(_NEUTRAL):
        raise _UNKNOWN.anew()
    try:
        request = kind.model_validate(_without_neutral_options(document))
    except ValidationError as error:
        raise _refusal(kind, error) from None
    if isinstance(request, ChatRequest):
        _check_combination(request)
    return request


def _check_combination(request: ChatRequest) -> None:
    if request.logprobs and request.stream:
        raise unsupported("logprobs")  # their size would show in the cells which token was sure
    if request.top_logprobs is not None and not request.logprobs:
        raise RequestRefused(400, "invalid_value", "'top_logprobs' needs 'logprobs'.", "top_logprobs")
    wanted = request.response_format
    if wanted is not None and (wanted.type == "json_schema") != (wanted.json_schema is not None):
        raise RequestRefused(400, "invalid_value", "'response_format' lacks its schema.", "response_format")


def unsupported(name: str) -> RequestRefused:
    """The refusal of an option that this node does not have, or not with this value."""
    message = f"The option '{name}' is not supported here with this value."
    return RequestRefused(400, "unsupported_parameter", message, name)


def _without_neutral_options(document: dict[str, Any]) -> dict[str, Any]:
    kept = {}
    for name, value in document.items():
        neutral = _NEUTRAL.get(name)
        if neutral is None:
            kept[name] = value
        elif value is not None and not any(value == same and _kind(value) == _kind(same) for same in neutral):
            raise unsupported(name)
    return kept


def _kind(value: object) -> type:
    return float if type(value) is int else type(value)


def _refusal(kind: type[_Closed], error: ValidationError) -> RequestRefused:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    name = first["loc"][0] if first["loc"] else None
    if name not in kind.model_fields:
        return _UNKNOWN.anew()
    if first["type"] == "missing" and len(first["loc"]) == 1:
        message = f"The request lacks '{name}'."
        return RequestRefused(400, "missing_required_parameter", message, str(name))
    message = f"'{name}' has a value of another kind, size or range than is supported here."
    return RequestRefused(400, "invalid_value", message, str(name))
