"""OpenAI's response bodies: whole answers, stream chunks, the model list and errors, as bytes ready to
send.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from enclave_runtime.openai_requests import RequestRefused

DONE = b"data: [DONE]\n\n"

_ERROR_TYPES: Mapping[int, str] = {
    404: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}


class TokenLogprob(Protocol):
    """A token by its bytes with its log-probability, and the likeliest tokens in its place."""

    @property
    def token(self) -> bytes: ...
    @property
    def logprob(self) -> float: ...
    @property
    def top(self) -> Sequence[tuple[bytes, float]]: ...


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of the prompt and of the answer."""

    prompt_tokens: int
    completion_tokens: int

    def as_json(self) -> dict[str, int]:
        """The three members of OpenAI's ``usage``."""
        total = self.prompt_tokens + self.completion_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": total,
        }


@dataclass(frozen=True, slots=True)
class AnswerShape:
    """What all parts of one answer share. ``created`` is in POSIX seconds."""

    kind: Literal["chat", "text"]
    id: str
    model: str
    created: int

    def whole(
        self, text: str, finish_reason: str, usage: Usage, logprobs: Sequence[TokenLogprob] | None = None
    ) -> bytes:
        """The body of an answer that is not streamed."""
        chat = self.kind == "chat"
        content: dict[str, object] = (
            {"message": {"role": "assistant", "content": text, "refusal": None}} if chat else {"text": text}
        )
        reported = (
            None if logprobs is None else {"content": [_token(entry) for entry in logprobs], "refusal": None}
        )
        choice = {"index": 0, **content, "logprobs": reported, "finish_reason": finish_reason}
        kind = "chat.completion" if chat else "text_completion"
        return encode({**self._head(kind), "choices": [choice], "usage": usage.as_json()})

    def opening(self) -> bytes:
        """The first event of a stream: the role, where there is one."""
        return self._event({"delta": {"role": "assistant", "content": ""}}) if self.kind == "chat" else b""

    def text(self, text: str) -> bytes:
        """An event with more text."""
        return self._event({"delta": {"content": text}} if self.kind == "chat" else {"text": text})

    def closing(self, finish_reason: str, usage: Usage | None) -> bytes:
        """The last events of a stream: why it ended, the usage where it was asked for, and the end mark."""
        last = self._event({"delta": {}} if self.kind == "chat" else {"text": ""}, finish_reason)
        counted = b"" if usage is None else self._data({"choices": [], "usage": usage.as_json()})
        return last + counted + DONE

    def _event(self, content: Mapping[str, object], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}
        return self._data({"choices": [choice]})

    def _data(self, members: Mapping[str, object]) -> bytes:
        kind = "chat.completion.chunk" if self.kind == "chat" else "text_completion"
        return b"data: " + encode({**self._head(kind), **members}) + b"\n\n"

    def _head(self, kind: str) -> dict[str, object]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def model_list(name: str, created: int) -> bytes:
    """The body of ``GET /v1/models``: the one model of a node."""
    return encode({"object": "list", "data": [_model(name, created)]})


def one_model(name: str, created: int) -> bytes:
    """The body of ``GET /v1/models/{name}``."""
    return encode(_model(name, created))


def error_body(refused: RequestRefused) -> bytes:
    """The body of an error answer; it holds nothing of the request."""
    kind = _ERROR_TYPES.get(refused.status, "invalid_request_error")
    members = {"message": refused.message, "type": kind, "param": refused.param, "code": refused.code}
    return encode({"error": members})


def error_event(refused: RequestRefused) -> bytes:
    """An error in the middle of a stream."""
    return b"data: " + error_body(refused) + b"\n\n"


def encode(members: Mapping[str, object]) -> bytes:
    """Compact UTF-8 JSON."""
    return json.dumps(members, separators=(",", ":"), ensure_ascii=False).encode()


def _token(entry: TokenLogprob) -> dict[str, object]:
    top = [_probability(token, logprob) for token, logprob in entry.top]
    return {**_probability(entry.token, entry.logprob), "top_logprobs": top}


def _probability(token: bytes, logprob: float) -> dict[str, object]:
    # JSON has no infinity; OpenAI's lowest number stands for "never".
    return {"token": token.decode("utf-8", "replace"), "logprob": max(logprob, -9999.0), "bytes": list(token)}


def _model(name: str, created: int) -> dict[str, object]:
    return {"id": name, "object": "model", "created": created, "owned_by": "cloister"}
