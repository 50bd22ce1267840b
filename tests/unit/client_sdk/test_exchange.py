"""The client's half of an exchange, against the gateway's own sessions."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_sdk.answer import InnerAnswer, SseLines
from client_sdk.client import PrivateClient
from client_sdk.errors import ClientError, ExchangeFailed, NodeRefused
from client_sdk.exchange import Exchange, InnerRequest
from client_sdk.policy import Policy
from ohttp.bhttp import ResponseEncoder, decode_request
from ohttp.chunked import ChunkedGateway
from ohttp.keyconfig import GatewayKey, KeyRing, preferred
from ohttp.padding import CellProfile

AT = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
DIGEST = bytes(range(32))
OFF = CellProfile("off")
KEYS = KeyRing([GatewayKey.generate(1, 0x647A), GatewayKey.generate(2, 0x0020)])


def begin(
    body: bytes = b"{}", headers: tuple[tuple[bytes, bytes], ...] = (), profile: CellProfile = OFF
) -> tuple[Exchange, ChunkedGateway]:
    request = InnerRequest("POST", "/v1/chat/completions", headers, body)
    exchange = Exchange(
        preferred(KEYS.configs), DIGEST, request, date=AT, request_id=b"\x07" * 16, profile=profile
    )
    return exchange, ChunkedGateway(KEYS)


def answered(
    status: int, parts: list[bytes], *, content_type: bytes = b"text/event-stream"
) -> tuple[Exchange, bytes]:
    """An exchange and the whole outer body of an answer to it."""
    exchange, gateway = begin()
    gateway.receive(exchange.body)
    gateway.end()
    sealer, encoder = gateway.response(), ResponseEncoder()
    wire = sealer.prologue() + sealer.seal(encoder.informational(102))
    wire += sealer.seal(encoder.head(status, [(b"content-type", content_type)]))
    for part in parts:
        wire += sealer.seal(encoder.content(part))
    return exchange, wire + sealer.seal_final(encoder.end() + bytes(40))


def test_the_node_reads_what_the_application_asked_and_nothing_that_tells_users_apart() -> None:
    telling = (
        (b"Authorization", b"Bearer sk-alice"),
        (b"User-Agent", b"OpenAI/Python 3.1"),
        (b"X-Stainless-OS", b"Linux"),
        (b"Cookie", b"session=1"),
        (b"Content-Type", b"application/json"),
    )
    exchange, gateway = begin(b'{"a":1}', telling)
    inner = decode_request(b"".join(gateway.receive(exchange.body)) + gateway.end())
    assert (inner.method, inner.path, inner.body) == (b"POST", b"/v1/chat/completions", b'{"a":1}')
    assert dict(inner.headers) == {
        b"content-type": b"application/json",
        b"date": b"Sat, 21 Nov 2026 12:00:00 GMT",
        b"request-id": b"07" * 16,
        b"attestation-digest": b"sha-256=:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=:",
    }


@pytest.mark.parametrize(("short", "long"), [(0, 1500), (2100, 2150)])
def test_prompts_of_about_the_same_length_look_the_same(short: int, long: int) -> None:
    assert len(begin(b"x" * short)[0].body) == len(begin(b"x" * long)[0].body)


def test_an_answer_arrives_whole_whatever_the_network_makes_of_its_pieces() -> None:
    expected = b"data: one\n\n: filler\n\ndata: [DONE]\n\n"
    for size in (1, 7, 64, 10_000):
        exchange, wire = answered(200, [expected[:9], expected[9:]])
        answer = InnerAnswer(exchange, (wire[i : i + size] for i in range(0, len(wire), size)))
        assert answer.head.status == 200
        assert b"".join(answer.content()) == expected


@given(cut=st.integers(min_value=0, max_value=10_000))
def test_an_answer_that_is_cut_anywhere_is_an_error_and_never_an_end(cut: int) -> None:
    exchange, wire = answered(200, [b"data: hello\n\n"])
    with pytest.raises(ExchangeFailed):
        b"".join(InnerAnswer(exchange, iter([wire[: cut % len(wire)]])).content())


@given(place=st.integers(min_value=0), bit=st.integers(min_value=0, max_value=7))
def test_an_answer_with_one_bit_changed_is_an_error(place: int, bit: int) -> None:
    exchange, wire = answered(200, [b"data: hello\n\n"])
    changed = bytearray(wire)
    changed[place % len(wire)] ^= 1 << bit
    with pytest.raises(ExchangeFailed):
        b"".join(InnerAnswer(exchange, iter([bytes(changed)])).content())


def test_the_nodes_own_error_keeps_its_code() -> None:
    body = json.dumps({"error": {"code": "context_length_exceeded", "message": "too long"}}).encode()
    exchange, wire = answered(400, [body], content_type=b"application/json")
    answer = InnerAnswer(exchange, iter([wire]))
    assert answer.correction() is None
    with pytest.raises(NodeRefused) as caught:
        answer.raise_for_status()
    assert (caught.value.code, caught.value.status) == ("context_length_exceeded", 400)
    assert b"".join(answer.content()) == body


def test_an_event_stream_without_its_done_is_incomplete() -> None:
    exchange, wire = answered(200, [b'data: {"choices":[]}\n\n'])
    with pytest.raises(ExchangeFailed, match="answer_incomplete"):
        list(InnerAnswer(exchange, iter([wire])).events())


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_event_lines_do_not_depend_on_how_they_were_split(parts: list[bytes]) -> None:
    whole, split = SseLines(), SseLines()
    assert list(whole.feed(b"".join(parts))) == [value for part in parts for value in split.feed(part)]


def test_a_problem_nested_too_deep_is_none() -> None:
    for body, expected in ((b"[" * 8000, {}), (b'{"a":[[]]}', {"a": [[]]})):
        exchange, wire = answered(400, [body], content_type=b"application/json")
        assert InnerAnswer(exchange, iter([wire])).problem() == expected


def test_bytes_that_complete_nothing_are_no_sign_of_life() -> None:
    def slowly(wire: bytes, size: int) -> Iterator[bytes]:
        for at in range(0, len(wire), size):
            time.sleep(0.01)
            yield wire[at : at + size]

    exchange, wire = answered(200, [b"data: hello\n\n" for _ in range(8)])
    with pytest.raises(ExchangeFailed, match="stalled"):
        b"".join(InnerAnswer(exchange, slowly(wire, 1), patience=0.1).content())
    # Control: the same patience is enough for an answer that takes longer, as long as chunks complete.
    exchange, wire = answered(200, [b"data: hello\n\n" for _ in range(20)])
    assert b"".join(InnerAnswer(exchange, slowly(wire, 60), patience=0.1).content())


def test_nothing_that_is_shown_of_a_request_is_of_its_content() -> None:
    secret = "the canary sings"
    request = InnerRequest("POST", f"/v1?{secret}", ((b"accept", secret.encode()),), secret.encode())
    assert secret not in repr(request)
    beyond = InnerRequest("POST", f"/\xe9{secret}", (), b"")
    with pytest.raises(ExchangeFailed) as caught:
        Exchange(preferred(KEYS.configs), DIGEST, beyond, date=AT, request_id=bytes(16), profile=OFF)
    assert secret not in f"{caught.value}{caught.value.__cause__}"


def test_a_line_without_end_is_refused() -> None:
    with pytest.raises(ExchangeFailed, match="event_too_large"):
        list(SseLines().feed(b"data: " + bytes(SseLines.MAX_LINE)))


def problem(status: int, kind: str, headers: list[tuple[bytes, bytes]]) -> InnerAnswer:
    exchange, gateway = begin()
    gateway.receive(exchange.body)
    gateway.end()
    sealer, encoder = gateway.response(), ResponseEncoder()
    head = [(b"content-type", b"application/problem+json"), *headers]
    body = json.dumps({"type": kind, "title": "no"}).encode()
    plain = encoder.head(status, head) + encoder.content(body) + encoder.end()
    return InnerAnswer(exchange, iter([sealer.prologue() + sealer.seal_final(plain)]))


def test_what_a_second_attempt_may_mend_is_told_apart_from_what_it_may_not() -> None:
    date = "https://iana.org/assignments/http-problem-types#date"
    stated = [(b"date", b"Sat, 21 Nov 2026 12:05:00 GMT")]
    mended = problem(400, date, stated).correction()
    assert mended is not None
    assert mended.date == AT.replace(minute=5)
    anew = problem(409, "urn:cloister:problem:attestation", []).correction()
    assert anew is not None
    assert anew.date is None
    assert problem(400, date, []).correction() is None
    for other in (b"yesterday", b"Sat, 21 Nov 2026 12:05:00 -0000", b"Sat, 21 Nov 2026 12:05:00 +0100"):
        assert problem(400, date, [(b"date", other)]).correction() is None
    assert problem(400, "about:blank", stated).correction() is None
    assert problem(503, date, stated).correction() is None


@pytest.mark.parametrize("url", ["http://relay\0/", "http://\udcff/", "http://" + "a" * 300 + ".example"])
def test_an_address_that_is_none_is_an_error_of_the_family(url: str) -> None:
    with pytest.raises(ClientError, match="relay_url"):
        PrivateClient(url, Policy.production())
    for usable in ("https://relay.example/node", "http://[::1]:8080/node", "http://127.0.0.1/"):
        PrivateClient(usable, Policy.production()).close()


CELLS = CellProfile("bucket", cell_bytes=512)


@pytest.mark.parametrize(
    ("sizes", "code"),
    [
        ([512] * 16, None),
        ([512] * 20, None),
        ([512] * 15, "padding_ladder"),
        ([512] * 17, "padding_ladder"),
        ([512] * 3 + [511] + [512] * 12, "padding_cell"),
        ([512] * 3 + [513] + [512] * 12, "padding_cell"),
        ([512] * 15 + [0], "padding_ladder"),
        ([512] * 15 + [40], "padding_cell"),
    ],
)
def test_an_answer_of_another_shape_than_was_vouched_for_is_refused(
    sizes: list[int], code: str | None
) -> None:
    exchange, gateway = begin(profile=CELLS)
    gateway.receive(exchange.body)
    gateway.end()
    sealer, encoder = gateway.response(), ResponseEncoder()
    plain = encoder.head(200) + encoder.content(b"data: [DONE]\n\n") + encoder.end()
    plain = plain.ljust(sum(sizes), b"\0")
    *chunks, last = [plain[sum(sizes[:n]) : sum(sizes[: n + 1])] for n in range(len(sizes))]
    wire = sealer.prologue() + b"".join(map(sealer.seal, chunks)) + sealer.seal_final(last)
    if code is None:
        answer = InnerAnswer(exchange, iter([wire[:4000], wire[4000:]]))
        assert b"".join(answer.content()) == b"data: [DONE]\n\n"
        return
    with pytest.raises(ExchangeFailed) as caught:
        list(InnerAnswer(exchange, iter([wire[:4000], wire[4000:]])).content())
    assert caught.value.code == code
