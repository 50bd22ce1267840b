"""What a node takes of OpenAI's request bodies: a closed schema with limits, and refusals that repeat no
input.

An option that would change the answer and is not computed here is refused by its name, unless it carries
the value that means "as if absent". Names of options come from the closed lists below, never from the
request.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

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
    "logprobs": (False,),
    "top_logprobs": (),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
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

_Bounded = TypeVar("_Bounded", bound="_Request")


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


class _Request(_Closed):
    model: Annotated[str, Field(min_length=1, max_length=256)]
    max_tokens: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    stop: tuple[Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)], ...] = Field(
        (), max_length=MAX_STOPS
    )
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    # Not OpenAI's: an answer of a known length, for measuring; the name is the one that other servers use.
    ignore_eos: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None
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
        for name in ("temperature", "top_p"):
            if type(known.get(name)) is int and abs(known[name]) <= 2:
                known[name] = float(known[name])
        return known


class ChatRequest(_Request):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=1 << 20)] | None = None

    @property
    def token_limit(self) -> int | None:
        """The most tokens the answer may have, by either name; None where the request sets none."""
        limits = [limit for limit in (self.max_tokens, self.max_completion_tokens) if limit is not None]
        return min(limits, default=None)


class CompletionRequest(_Request):
    """``POST /v1/completions``."""

    prompt: Annotated[str, Field(max_length=MAX_TEXT)]

    @property
    def token_limit(self) -> int | None:
        """The most tokens the answer may have; OpenAI's own default is 16."""
        return 16 if self.max_tokens is None else self.max_tokens


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
        raise _UNKNOWN
    try:
        return kind.model_validate(_without_neutral_options(document))
    except ValidationError as error:
        raise _refusal(kind, error) from None


def _without_neutral_options(document: dict[str, Any]) -> dict[str, Any]:
    kept = {}
    for name, value in document.items():
        neutral = _NEUTRAL.get(name)
        if neutral is None:
            kept[name] = value
        elif value is not None and not any(value == same and _kind(value) == _kind(same) for same in neutral):
            message = f"The option '{name}' is not supported here with this value."
            raise RequestRefused(400, "unsupported_parameter", message, name)
    return kept


def _kind(value: object) -> type:
    return float if type(value) is int else type(value)


def _refusal(kind: type[_Request], error: ValidationError) -> RequestRefused:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    name = first["loc"][0] if first["loc"] else None
    if name not in kind.model_fields:
        return _UNKNOWN
    if first["type"] == "missing" and len(first["loc"]) == 1:
        message = f"The request lacks '{name}'."
        return RequestRefused(400, "missing_required_parameter", message, str(name))
    message = f"'{name}' has a value of another kind, size or range than is supported here."
    return RequestRefused(400, "invalid_value", message, str(name))
