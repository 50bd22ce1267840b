"""Attempts to keep the one loop that paces everybody's cells busy with a single request of a megabyte.

What is compared is the time for the attempt and the time for a plain request of the same size.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import pydantic
import pydantic_core
import pytest
from gateway_driver import FAST, JSON, Node, answering, opened

from enclave_runtime.openai_requests import ChatRequest, RequestRefused, TextPart, parse_request
from ohttp.admission import LIMITS
from ohttp.bhttp import Request, decode_request, encode_request
from ohttp.errors import BhttpError

CRUMBS = b"\x02\x04POST\x05https\x01a\x01/\0" + b"\x01a" * 100_000 + b"\0\0"
PLAIN = encode_request(Request(b"POST", b"https", b"a", b"/", (), bytes(200_000)))


def seconds(work: Callable[[], object]) -> float:
    """The quickest of three runs."""
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        with contextlib.suppress(RequestRefused, BhttpError):
            work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def test_a_prompt_in_a_hundred_thousand_pieces() -> None:
    """Control: read without a limit on pieces, it takes many times as long as one in one piece."""

    async def status() -> int:
        node = Node(answering(200, JSON, b"{}"), profile=FAST)
        client = node.client()
        reply = await node.post(client.seal_request(CRUMBS))
        return opened(client, reply.parts).status

    assert asyncio.run(status()) == 400
    unlimited = seconds(lambda: decode_request(CRUMBS))
    assert unlimited > 50 * seconds(lambda: decode_request(PLAIN)), "control"
    assert seconds(lambda: decode_request(CRUMBS, LIMITS)) < unlimited / 10


class OpenPart(pydantic.BaseModel):
    """The defence removed: an error for every member."""

    model_config = pydantic.ConfigDict(extra="forbid")
    type: str
    text: str


MANY = ",".join(f'"{number}":1' for number in range(80_000)).encode()
HEAD = b'{"model":"m","messages":[{"role":"user","content":"a"}]'


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(HEAD + b"," + MANY + b"}", id="unknown options"),
        pytest.param(HEAD + b',"stop":[' + b"1," * 400_000 + b"1]}", id="stop strings"),
        pytest.param(HEAD + b',"stream_options":{' + MANY + b"}}", id="stream options"),
        pytest.param(b'{"model":"m","messages":[{' + MANY + b"}]}", id="members of a message"),
        pytest.param(
            b'{"model":"m","messages":[' + b",".join([b'{"content":[' + b"{}," * 90 + b"{}]}"] * 250) + b"]}",
            id="parts of messages",
        ),
    ],
)
def test_a_request_with_a_crowd_of_errors(body: bytes) -> None:
    document: Any = pydantic_core.from_json(body)
    with pytest.raises(RequestRefused):
        parse_request(ChatRequest, body)
    reading = seconds(lambda: pydantic_core.from_json(body))
    assert seconds(lambda: parse_request(ChatRequest, body)) < 3 * reading + 0.05
    assert len(document) <= 80_002


def test_the_control_of_a_crowd_of_errors() -> None:
    """Where every member has its error, judging takes several times as long as reading."""
    body = b"{" + MANY + b"}"
    document = pydantic_core.from_json(body)
    reading = seconds(lambda: pydantic_core.from_json(body))

    def errors(model: type[pydantic.BaseModel]) -> int:
        with pytest.raises(pydantic.ValidationError) as caught:
            model.model_validate(document)
        return len(caught.value.errors())

    assert errors(OpenPart) > 80_000
    assert errors(TextPart) == 1
    assert seconds(lambda: errors(OpenPart)) > 3 * reading
