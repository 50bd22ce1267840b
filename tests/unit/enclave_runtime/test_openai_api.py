"""OpenAI's API with a made-up engine: shapes, limits, refusals, streams, and what is never repeated."""

import asyncio
import json
from dataclasses import dataclass, field

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave_runtime.api import inner_app, outer_app
from enclave_runtime.metrics import Metrics, RequestOutcome
from enclave_runtime.metrics_schema import DEFAULT, REQUESTS, TOKENS
from enclave_runtime.openai_requests import MAX_BODY, ChatRequest, RequestRefused, parse_request

CANARY = "canary-7f3a9"
MODEL = "made-up"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": CANARY}]}


@dataclass
class MadeUpPiece:
    text: str
    token_count: int = 1
    finish_reason: str | None = None


@dataclass
class MadeUpGeneration:
    texts: list[str]
    fail_after: int | None = None
    endless: bool = False
    cancelled: int = 0

    async def pieces(self):
        for count, text in enumerate(self.texts):
            if count == self.fail_after:
                raise RuntimeError(CANARY)
            last = count == len(self.texts) - 1
            yield MadeUpPiece(text, finish_reason="stop" if last and not self.endless else None)
            await asyncio.sleep(0)
        while self.endless:
            yield MadeUpPiece("x")
            await asyncio.sleep(0.001)

    def cancel(self):
        self.cancelled += 1


@dataclass
class MadeUpCompletions:
    model_name: str = MODEL
    leases: None = None
    generation: MadeUpGeneration = field(
        default_factory=lambda: MadeUpGeneration(["Hello", ", ", "wörld", "."])
    )
    error: Exception | None = None
    seen: list = field(default_factory=list)

    async def chat(self, request):
        if self.error:
            raise self.error
        self.seen.append(request)
        return self.generation, 7

    complete = chat


class MadeUpEvidence:
    challenges = 2

    def current(self):
        return b"bundle"

    async def fresh(self, nonce):
        self.challenges -= 1
        return b"fresh" + nonce if self.challenges >= 0 else None


@pytest.fixture
def completions():
    return MadeUpCompletions()


@pytest.fixture
def metrics():
    return Metrics(DEFAULT, lambda: 0, draw=lambda step: 0)


def counted(metrics, outcome):
    """How many requests with this outcome would be shown."""
    return metrics.values()[list(RequestOutcome).index(outcome)]


def tokens(metrics):
    """How many tokens would be shown."""
    return metrics.values()[len(RequestOutcome)]


@pytest.fixture
def app(completions, metrics):
    return inner_app(completions, MadeUpEvidence(), metrics, lambda: 1_700_000_000.0)


def call(app, method, path, **options):
    async def once():
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://node") as client:
            return await client.request(method, path, **options)

    return asyncio.run(once())


def events(response):
    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line[6:]) for line in lines[:-1]]


def test_a_chat_completion_has_openais_shape(app, metrics, completions):
    body = call(app, "POST", "/v1/chat/completions", json=CHAT).json()
    assert body.pop("id").startswith("chatcmpl-")
    assert body == {
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello, wörld.", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11},
    }
    assert counted(metrics, RequestOutcome.ANSWERED) == REQUESTS.step
    assert tokens(metrics) == TOKENS.step
    assert completions.generation.cancelled


def test_a_streamed_chat_begins_with_the_role_and_ends_with_reason_usage_and_done(app):
    asked = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    response = call(app, "POST", "/v1/chat/completions", json=asked)
    assert response.headers["content-type"].startswith("text/event-stream")
    first, *middle, last, usage = events(response)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(e["choices"][0]["delta"]["content"] for e in middle) == "Hello, wörld."
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "stop")
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 4
    assert {e["object"] for e in (first, *middle, last, usage)} == {"chat.completion.chunk"}
    assert len({e["id"] for e in (first, *middle, last, usage)}) == 1


def test_a_text_completion_both_ways(app, completions):
    asked = {"model": MODEL, "prompt": "Once"}
    whole = call(app, "POST", "/v1/completions", json=asked).json()
    assert (whole["object"], whole["choices"][0]["text"]) == ("text_completion", "Hello, wörld.")
    assert completions.seen[-1].token_limit == 16
    parts = events(call(app, "POST", "/v1/completions", json={**asked, "stream": True}))
    assert "".join(e["choices"][0]["text"] for e in parts) == "Hello, wörld."


def test_models_are_listed(app):
    assert call(app, "GET", "/v1/models").json()["data"][0]["id"] == MODEL
    assert call(app, "GET", f"/v1/models/{MODEL}").json()["object"] == "model"
    assert call(app, "GET", "/v1/models/other").status_code == 404


@pytest.mark.parametrize(
    ("change", "status", "code", "param"),
    [
        ({"model": "other"}, 404, "model_not_found", "model"),
        ({"n": 2}, 400, "unsupported_parameter", "n"),
        ({"tools": [{"type": "function"}]}, 400, "unsupported_parameter", "tools"),
        ({"logprobs": True, "stream": True}, 400, "unsupported_parameter", "logprobs"),
        ({"top_logprobs": 2}, 400, "invalid_value", "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, 400, "invalid_value", "top_logprobs"),
        ({"top_k": -1}, 400, "invalid_value", "top_k"),
        ({"min_p": 1.5}, 400, "invalid_value", "min_p"),
        ({"logit_bias": {"1": 2}}, 400, "unsupported_parameter", "logit_bias"),
        ({"response_format": {"type": CANARY}}, 400, "invalid_value", "response_format"),
        ({"response_format": {"type": "json_schema"}}, 400, "invalid_value", "response_format"),
        ({"presence_penalty": 3}, 400, "invalid_value", "presence_penalty"),
        ({CANARY: 1}, 400, "unknown_parameter", None),
        ({"messages": []}, 400, "invalid_value", "messages"),
        ({"messages": [{"role": CANARY, "content": "x"}]}, 400, "invalid_value", "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            400,
            "invalid_value",
            "messages",
        ),
        ({"messages": [{"role": "user", "content": "x", CANARY: 1}]}, 400, "invalid_value", "messages"),
        ({"messages": CHAT["messages"] * 300}, 400, "invalid_value", "messages"),
        ({"messages": None}, 400, "missing_required_parameter", "messages"),
        ({"temperature": 3}, 400, "invalid_value", "temperature"),
        ({"temperature": CANARY}, 400, "invalid_value", "temperature"),
        ({"top_p": 0}, 400, "invalid_value", "top_p"),
        ({"max_tokens": 0}, 400, "invalid_value", "max_tokens"),
        ({"max_tokens": True}, 400, "invalid_value", "max_tokens"),
        ({"max_tokens": 1 << 30}, 400, "invalid_value", "max_tokens"),
        ({"stop": ["a"] * 5}, 400, "invalid_value", "stop"),
        ({"stop": [""]}, 400, "invalid_value", "stop"),
        ({"seed": 1 << 64}, 400, "invalid_value", "seed"),
        ({"stream": CANARY}, 400, "invalid_value", "stream"),
    ],
)
def test_what_is_not_served_is_refused_clearly_and_never_repeated(app, metrics, change, status, code, param):
    response = call(app, "POST", "/v1/chat/completions", json={**CHAT, **change})
    assert response.status_code == status
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (code, param)
    assert CANARY not in response.text
    assert counted(metrics, RequestOutcome.REFUSED) == REQUESTS.step


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"model": "\\ud800"}',
        b"[" * 100_000,
        b'{"model":"' + CANARY.encode() + b'",}',
        b'{"messages": [{"role": "user", "content": "x"}], "model": "made-up", "temperature": NaN}',
        b"9" * 100_000,
    ],
)
def test_a_body_that_is_no_request_is_refused_and_never_repeated(app, body):
    response = call(app, "POST", "/v1/chat/completions", content=body)
    assert response.status_code == 400
    assert CANARY not in response.text
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_a_body_that_is_too_large_is_refused(app):
    response = call(app, "POST", "/v1/chat/completions", content=b" " * (MAX_BODY + 1))
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_random_bodies_never_leave_the_error_family(body):
    with pytest.raises(RequestRefused):
        parse_request(ChatRequest, body)


@given(st.integers(0, 10_000), st.integers(0, 255))
@settings(max_examples=300)
def test_changed_and_cut_bodies_never_leave_the_error_family(place, byte):
    good = json.dumps(
        {**CHAT, "temperature": 1, "stop": "a", "stream_options": {"include_usage": True}}
    ).encode()
    changed = bytearray(good)
    changed[place % len(good)] = byte
    messages = []
    for body in (bytes(changed), good[: place % len(good)]):
        try:
            parse_request(ChatRequest, body)
        except RequestRefused as refused:
            messages.append(refused.message)
    assert CANARY not in "".join(messages)


def test_neutral_values_and_nulls_are_as_if_absent():
    neutral = {"n": 1, "logprobs": False, "tools": [], "presence_penalty": 0.0, "user": "u", "stop": None}
    neutral |= {"response_format": {"type": "text"}, "temperature": 0, "seed": None, "tool_choice": "none"}
    request = parse_request(ChatRequest, json.dumps({**CHAT, **neutral}).encode())
    assert (request.temperature, request.stop) == (0.0, ())


def test_text_parts_are_joined_and_the_smaller_limit_counts():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    asked = {
        **CHAT,
        "messages": [{"role": "user", "content": parts}],
        "max_tokens": 9,
        "max_completion_tokens": 5,
    }
    request = parse_request(ChatRequest, json.dumps(asked).encode())
    assert (request.messages[0].text, request.token_limit) == ("ab", 5)


@pytest.mark.parametrize("stream", [False, True])
def test_an_overloaded_node_says_so(app, completions, metrics, stream):
    completions.error = RequestRefused(503, "overloaded", "The node has as many requests as it can hold.")
    response = call(app, "POST", "/v1/chat/completions", json={**CHAT, "stream": stream})
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert counted(metrics, RequestOutcome.OVERLOADED) == REQUESTS.step


@pytest.mark.parametrize(
    "error", [RuntimeError(CANARY), KeyError(CANARY), MemoryError(), RecursionError(CANARY)]
)
def test_a_fault_is_uniform_and_says_nothing(app, completions, metrics, error):
    completions.error = error
    response = call(app, "POST", "/v1/chat/completions", json=CHAT)
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
    assert CANARY not in response.text
    assert counted(metrics, RequestOutcome.FAILED) == REQUESTS.step


def test_an_engine_that_fails_in_the_middle_ends_the_stream_with_an_error_event(app, completions, metrics):
    completions.generation.fail_after = 2
    response = call(app, "POST", "/v1/chat/completions", json={**CHAT, "stream": True})
    last = response.text.split("\n\n")[-2]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "internal_error"
    assert "[DONE]" not in response.text
    assert CANARY not in response.text
    assert counted(metrics, RequestOutcome.FAILED) == REQUESTS.step
    assert completions.generation.cancelled


def test_an_engine_that_fails_before_the_end_of_a_whole_answer_is_a_fault(app, completions):
    completions.generation.fail_after = 2
    assert call(app, "POST", "/v1/chat/completions", json=CHAT).status_code == 500
    assert completions.generation.cancelled


class Clock:
    """Cells of a fixed room; each tick comes after the engine had time for ``pieces`` more pieces."""

    def __init__(self, room, pieces=3):
        self.room = room
        self.pieces = pieces
        self.ticks = 0

    async def tick(self):
        self.ticks += 1
        for _ in range(3 * self.pieces):
            await asyncio.sleep(0)
        return self.room


def stream_with(app, clock, leave_after=None):
    """Drive the app by hand; the client leaves after ``leave_after`` body messages."""

    async def once():
        body = json.dumps({**CHAT, "stream": True}).encode()
        sent, left = [], asyncio.Event()
        incoming = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive():
            if incoming:
                return incoming.pop(0)
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)
            if leave_after is not None and len(sent) > leave_after:
                left.set()
                await asyncio.sleep(0.01)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/chat/completions",
            "raw_path": b"",
            "headers": [],
        }
        scope |= {"query_string": b"", "http_version": "1.1", "scheme": "http", "asgi": {"version": "3.0"}}
        scope["extensions"] = {"cloister.cells": clock} if clock else {}
        await asyncio.wait_for(app(scope, receive, send), 10)
        return [m["body"] for m in sent if m["type"] == "http.response.body" and m["body"]]

    return asyncio.run(once())


def deltas(chunks):
    parsed = [json.loads(c.split(b"\n\n")[0][6:]) for c in chunks]
    return [p["choices"][0]["delta"].get("content", "") for p in parsed]


def test_deltas_are_merged_into_events_that_fit_the_cell(app, completions):
    completions.generation.texts = ['é\n"x'] * 200
    chunks = stream_with(app, Clock(room=400, pieces=50))
    assert "".join(deltas(chunks)) == 'é\n"x' * 200
    middle = chunks[1:-1]
    assert all(len(chunk) <= 400 for chunk in middle)
    assert len(middle) < 20


def test_cells_too_small_for_an_event_still_carry_the_answer(app, completions):
    completions.generation.texts = ["abc"] * 100
    chunks = stream_with(app, Clock(room=20))
    assert "".join(deltas(chunks)) == "abc" * 100


def test_a_client_that_leaves_ends_its_generation(app, completions, metrics):
    completions.generation.endless = True
    stream_with(app, None, leave_after=5)
    assert completions.generation.cancelled
    assert counted(metrics, RequestOutcome.ABANDONED) == REQUESTS.step
    assert tokens(metrics) > 0


@pytest.mark.parametrize(
    "path", ["/docs", "/redoc", "/openapi.json", "/v1/chat/completions/", "/v1", f"/{CANARY}"]
)
def test_nothing_else_is_there(app, path):
    response = call(app, "GET", path)
    assert response.status_code == 404
    assert CANARY not in response.text


def test_another_method_is_refused(app):
    assert call(app, "GET", "/v1/chat/completions").status_code == 405


def test_the_outer_face_shows_evidence_and_health_and_nothing_else():
    app = outer_app(MadeUpEvidence())
    assert call(app, "GET", "/attestation").content == b"bundle"
    assert call(app, "POST", "/attestation", content=b"n" * 32).content == b"fresh" + b"n" * 32
    for wrong in (b"", b"n" * 31, b"n" * 33, b"n" * 100_000):
        assert call(app, "POST", "/attestation", content=wrong).status_code == 400
    assert call(app, "POST", "/attestation", content=b"n" * 32).status_code == 200
    assert call(app, "POST", "/attestation", content=b"n" * 32).status_code == 429
    assert call(app, "GET", "/metrics").status_code == 404
    assert call(app, "GET", "/health").json() == {"status": "serving"}
    assert call(app, "POST", "/v1/chat/completions", json=CHAT).status_code == 404


def test_a_refusal_that_all_share_keeps_nothing_of_a_request() -> None:
    from enclave_runtime import answer_stream, api, completions, openai_requests

    for document in ({**CHAT, "surprise": 1}, {**CHAT, **{f"odd-{number}": 1 for number in range(99)}}):
        with pytest.raises(RequestRefused, match="unknown_parameter"):
            parse_request(ChatRequest, json.dumps(document).encode())
    with pytest.raises(RequestRefused, match="model_not_found"):
        api._require_model("another", MODEL)
    with pytest.raises(RequestRefused, match="overloaded"):
        raise completions._refusal(completions.QueueFull(), 9)
    shared = [
        refusal
        for module in (answer_stream, api, completions, openai_requests)
        for refusal in (*vars(module).values(), *api._BY_STATUS.values())
        if isinstance(refusal, RequestRefused)
    ]
    assert len(shared) > 10
    assert {(refusal.__traceback__, refusal.__context__) for refusal in shared} == {(None, None)}
