"""Binary HTTP against the examples of RFC 9292 and a set of valid and invalid messages."""

import json
from pathlib import Path
from typing import Any

import pytest

from ohttp.bhttp import (
    Content,
    End,
    Head,
    Informational,
    RequestDecoder,
    RequestHead,
    ResponseDecoder,
    decode_request,
    decode_response,
)
from ohttp.errors import BhttpError


def load(vectors: Path, name: str) -> dict[str, Any]:
    return json.loads((vectors / "ohttp" / name).read_text())


def text(fields: Any) -> list[list[str]]:
    return [[name.decode(), value.decode()] for name, value in fields]


def decode_whole(kind: str, data: bytes) -> dict[str, Any]:
    if kind == "request":
        request = decode_request(data)
        return {
            "method": request.method.decode(),
            "scheme": request.scheme.decode(),
            "authority": request.authority.decode(),
            "path": request.path.decode(),
            "headers": text(request.headers),
            "content": request.body.hex(),
            "trailers": text(request.trailers),
        }
    response = decode_response(data)
    return {
        "status": response.status,
        "informational": [[status, text(headers)] for status, headers in response.informational],
        "headers": text(response.headers),
        "content": response.body.hex(),
        "trailers": text(response.trailers),
    }


def decode_byte_by_byte(kind: str, data: bytes) -> dict[str, Any]:
    decoder = RequestDecoder() if kind == "request" else ResponseDecoder()
    events = [event for index in range(len(data)) for event in decoder.feed(data[index : index + 1])]
    events += decoder.finish()
    found: dict[str, Any] = {"content": ""} | ({"informational": []} if kind == "response" else {})
    for event in events:
        match event:
            case RequestHead():
                for part in ("method", "scheme", "authority", "path"):
                    found[part] = getattr(event, part).decode()
                found["headers"] = text(event.headers)
            case Informational():
                found["informational"].append([event.status, text(event.headers)])
            case Head():
                found["status"], found["headers"] = event.status, text(event.headers)
            case Content():
                found["content"] += event.data.hex()
            case End():
                found["trailers"] = text(event.trailers)
    return found


@pytest.mark.parametrize("decode", [decode_whole, decode_byte_by_byte])
def test_cases(vectors: Path, decode: Any) -> None:
    cases = load(vectors, "bhttp_cases.json")["cases"]
    assert cases
    for case in cases:
        data = bytes.fromhex(case["hex"])
        if case["expect"] == "ok":
            assert decode(case["kind"], data) == case["decoded"], case["name"]
        else:
            assert case["expect"] in ("invalid", "may_reject"), case["name"]
            with pytest.raises(BhttpError):
                pytest.fail(f"{case['name']} was accepted: {decode(case['kind'], data)}")


@pytest.mark.parametrize("decode", [decode_whole, decode_byte_by_byte])
def test_rfc_9292_examples(vectors: Path, decode: Any) -> None:
    examples = load(vectors, "rfc9292_examples.json")
    assert examples["valid"]
    for case in examples["valid"]:
        data = bytes.fromhex(case["hex"])
        expected = dict(case["decoded"])
        kind = expected.pop("kind")
        if kind == "response":
            expected.setdefault("informational", [])
        for removed in range(case.get("removable_tail", 0) + 1):
            assert decode(kind, data[: len(data) - removed]) == expected, case["name"]
    for case in examples["invalid"]:
        for kind in ("request", "response"):
            with pytest.raises(BhttpError):
                decode(kind, bytes.fromhex(case["hex"]))
