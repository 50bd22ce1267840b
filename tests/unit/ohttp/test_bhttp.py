"""Properties of the Binary HTTP reader and writer, for any message and any input."""

import contextlib
import dataclasses
import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ohttp import varint
from ohttp.bhttp import (
    Content,
    End,
    Head,
    Informational,
    Limits,
    Request,
    RequestDecoder,
    RequestHead,
    Response,
    ResponseDecoder,
    ResponseEncoder,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from ohttp.errors import BhttpError

names = st.from_regex(rb"\A[a-z0-9!#$%&'*+.^_`|~-]{1,12}\Z")
values = st.binary(max_size=40).filter(
    lambda v: (
        not any(b in v for b in b"\0\r\n") and v[:1] not in (b" ", b"\t") and v[-1:] not in (b" ", b"\t")
    )
)
fields = st.lists(st.tuples(names, values), max_size=5).map(tuple)
requests = st.builds(
    Request,
    method=st.sampled_from([b"GET", b"POST", b"M-SEARCH"]),
    scheme=st.just(b"https"),
    authority=st.from_regex(rb"\A[a-z.]{0,20}\Z"),
    path=st.from_regex(rb"\A/[!-~]{0,30}\Z"),
    headers=fields,
    body=st.binary(max_size=300),
    trailers=fields,
)
informational = st.lists(st.tuples(st.integers(100, 199), fields), max_size=3).map(tuple)
responses = st.builds(
    Response,
    status=st.integers(200, 599),
    headers=fields,
    body=st.binary(max_size=300),
    trailers=fields,
    informational=informational,
)
padding = st.integers(0, 80)
QUICK = settings(max_examples=60, deadline=None)


def indeterminate_request(request: Request, cuts: list[int]) -> bytes:
    """The form that the writer never makes for requests, and the reader must take."""
    out = b"\x02"
    for part in (request.method, request.scheme, request.authority, request.path):
        out += varint.encode(len(part)) + part
    out += field_lines(request.headers) + b"\0"
    bounds = sorted({min(cut, len(request.body)) for cut in cuts} | {0, len(request.body)})
    for start, end in itertools.pairwise(bounds):
        out += varint.encode(end - start) + request.body[start:end]
    return out + b"\0" + field_lines(request.trailers) + b"\0"


def field_lines(lines: Any) -> bytes:
    return b"".join(varint.encode(len(n)) + n + varint.encode(len(v)) + v for n, v in lines)


def indeterminate_response(response: Response, pieces: int) -> bytes:
    encoder = ResponseEncoder()
    out = b"".join(encoder.informational(status, headers) for status, headers in response.informational)
    out += encoder.head(response.status, response.headers)
    step = max(1, len(response.body) // pieces)
    for start in range(0, len(response.body), step):
        out += encoder.content(response.body[start : start + step])
    return out + encoder.end(response.trailers)


def gathered(events: list[Any]) -> list[Any]:
    """Events with neighbouring content joined, so that two splits of one message compare equal."""
    out: list[Any] = []
    for event in events:
        if isinstance(event, Content) and out and isinstance(out[-1], Content):
            out[-1] = Content(out[-1].data + event.data)
        else:
            out.append(event)
    return out


@QUICK
@given(requests, padding, st.lists(st.integers(0, 300), max_size=4))
def test_request_round_trip_in_both_forms(request: Request, pad: int, cuts: list[int]) -> None:
    plain = encode_request(request)
    padded = encode_request(request, pad_to=len(plain) + pad)
    assert len(padded) == len(plain) + pad
    assert decode_request(plain) == decode_request(padded) == request
    assert decode_request(indeterminate_request(request, cuts) + bytes(pad)) == request


@QUICK
@given(responses, padding, st.integers(1, 5))
def test_response_round_trip_in_both_forms(response: Response, pad: int, pieces: int) -> None:
    plain = encode_response(response)
    assert decode_response(plain) == response
    assert decode_response(encode_response(response, pad_to=len(plain) + pad)) == response
    assert decode_response(indeterminate_response(response, pieces) + bytes(pad)) == response


@QUICK
@given(responses, st.booleans())
def test_every_split_gives_the_same_events(response: Response, known: bool) -> None:
    data = (encode_response(response) if known else indeterminate_response(response, 3)) + bytes(5)
    whole = ResponseDecoder()
    expected = gathered(whole.feed(data) + whole.finish())
    for cut in range(len(data) + 1):
        decoder = ResponseDecoder()
        assert gathered(decoder.feed(data[:cut]) + decoder.feed(data[cut:]) + decoder.finish()) == expected


@QUICK
@given(requests, st.booleans())
def test_a_prefix_is_refused_unless_whole_sections_are_missing(request: Request, known: bool) -> None:
    data = encode_request(request) if known else indeterminate_request(request, [10])
    for cut in range(len(data)):
        try:
            found = decode_request(data[:cut])
        except BhttpError:
            continue
        # RFC 9292 allows this; that the sender meant to end here, the encryption around it must say.
        without_trailers = dataclasses.replace(request, trailers=())
        bare = dataclasses.replace(without_trailers, body=b"")
        bodyless = dataclasses.replace(bare, headers=())
        assert found in (request, without_trailers, bare, bodyless)


@QUICK
@given(requests, responses, st.data())
def test_a_changed_byte_never_leaves_the_error_family(
    request: Request, response: Response, data: Any
) -> None:
    for original, decode in (
        (encode_request(request), decode_request),
        (indeterminate_request(request, [7]), decode_request),
        (encode_response(response), decode_response),
        (indeterminate_response(response, 2), decode_response),
    ):
        changed = bytearray(original)
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
        with contextlib.suppress(BhttpError):
            decode(bytes(changed))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 3), st.binary(max_size=200))
def test_random_bytes_never_leave_the_error_family(framing: int, noise: bytes) -> None:
    for decode in (decode_request, decode_response):
        for data in (
            noise,
            bytes([framing]) + noise,
            b"\x00\x03GET\x05https\x00\x01/" + noise,
            b"\x03\x40\xc8" + noise,
        ):
            with contextlib.suppress(BhttpError):
                decode(data)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (
            b"\x00\x03GET\x05https\x00\x01/\xff" + b"\xff" * 7,
            "too_large",
        ),  # header section of 2**62 - 1 bytes
        (b"\x00\x03GET\x05https\x00\x01/\x00\xff" + b"\xff" * 7, "too_large"),  # content of as many
        (b"\x02\x03GET\x05https\x00\x01/\xff" + b"\xff" * 7, "too_large"),  # name of as many
        (b"\x02\x03GET\x05https\x00\x01/\x00\x81\x00\x00\x00\x81\x00\x00\x00", "too_large"),
        (b"\x00\xff" + b"\xff" * 7, "too_large"),
    ],
)
def test_a_declared_length_is_refused_before_its_bytes_come(data: bytes, code: str) -> None:
    decoder = RequestDecoder(Limits(content=1 << 20))
    with pytest.raises(BhttpError) as refused:
        decoder.feed(data)
    assert refused.value.code == code
    with pytest.raises(BhttpError, match=code):
        decoder.feed(b"more")


def test_limits_on_lines_and_informational_responses() -> None:
    many = b"\x03" + b"\x40\x66\x00" * 4 + b"\x40\xc8\x00\x00\x00"
    assert len(decode_response(many).informational) == 4
    with pytest.raises(BhttpError, match="too_large"):
        decode_response(many, Limits(informational=3))
    lines = encode_response(Response(200, tuple((b"a", b"") for _ in range(4))))
    with pytest.raises(BhttpError, match="too_large"):
        decode_response(lines, Limits(fields=3))
    assert len(decode_response(lines, Limits(fields=4)).headers) == 4
    with pytest.raises(BhttpError, match="too_large"):
        decode_response(lines, Limits(section=11))


@pytest.mark.parametrize(
    "request_",
    [
        Request(b"", b"https", b"", b"/"),
        Request(b"GE T", b"https", b"", b"/"),
        Request(b"GET", b"", b"", b"/"),
        Request(b"GET", b"https", b"", b""),
        Request(b"GET", b"https", b"", b"v1"),
        Request(b"GET", b"https", b"", b"/a b"),
        Request(b"GET", b"https", b"", b"/\r\nx: y"),
        Request(b"GET", b"https", b"user@host", b"/"),
        Request(b"GET", b"https", b"h\n", b"/"),
        Request(b"GET", b"https", b"", b"*"),
    ],
)
def test_request_lines_that_would_split_or_mislead_are_refused_both_ways(request_: Request) -> None:
    with pytest.raises(BhttpError, match="control_data"):
        encode_request(request_)
    raw = b"\x00" + b"".join(
        varint.encode(len(p)) + p
        for p in (request_.method, request_.scheme, request_.authority, request_.path)
    )
    with pytest.raises(BhttpError, match="control_data"):
        decode_request(raw)


def test_pseudo_fields() -> None:
    connect = Request(b"CONNECT", b"https", b"h", b"/chat", ((b":protocol", b"websocket"), (b"a", b"b")))
    assert decode_request(encode_request(connect)) == connect
    for headers in (
        ((b"a", b"b"), (b":protocol", b"x")),
        ((b":path", b"/"),),
        ((b":PATH", b"/"),),
        ((b":", b""),),
    ):
        with pytest.raises(BhttpError, match="field"):
            encode_request(Request(b"GET", b"https", b"", b"/", headers))
    with pytest.raises(BhttpError, match="field"):
        encode_response(Response(200, trailers=((b":protocol", b"x"),)))


def test_names_become_lower_case() -> None:
    assert decode_request(
        encode_request(Request(b"GET", b"https", b"", b"/", ((b"Accept", b"A"),)))
    ).headers == ((b"accept", b"A"),)


@pytest.mark.parametrize("name", [b"Accept", b"x-A", b":Protocol"])
def test_names_that_arrive_in_capitals_are_refused(name: bytes) -> None:
    """RFC 9292 section 3.6 with RFC 9113 section 8.2.1: two spellings of a name could be two fields to somebody."""
    line = bytes((len(name),)) + name + b"\x01x"
    for message, data in (
        (RequestDecoder, b"\0\3GET\5https\1a\1/" + bytes((len(line),)) + line),
        (RequestDecoder, b"\2\3GET\5https\1a\1/" + line + b"\0"),
        (ResponseDecoder, b"\1\x40\xc8" + bytes((len(line),)) + line),
        (ResponseDecoder, b"\3\x40\xc8" + line + b"\0"),
        (ResponseDecoder, b"\3\x40\xc8\0\0" + line + b"\0"),
    ):
        with pytest.raises(BhttpError, match="field"):
            message().feed(data)
        with pytest.raises(BhttpError, match="field"):
            (decode_request if message is RequestDecoder else decode_response)(data)


def test_the_response_writer_keeps_the_order() -> None:
    encoder = ResponseEncoder()
    for call in (lambda: encoder.content(b"x"), encoder.end):
        with pytest.raises(BhttpError, match="out_of_order"):
            call()
    data = encoder.informational(102) + encoder.head(200) + encoder.content(b"") + encoder.content(b"hi")
    for call in (lambda: encoder.head(200), lambda: encoder.informational(102)):
        with pytest.raises(BhttpError, match="out_of_order"):
            call()
    data += encoder.end()
    with pytest.raises(BhttpError, match="out_of_order"):
        encoder.content(b"x")
    decoder = ResponseDecoder()
    assert decoder.feed(data) == [Informational(102, ()), Head(200, ()), Content(b"hi"), End(())]
    assert decoder.finish() == []


def test_content_comes_before_the_message_is_whole() -> None:
    decoder = ResponseDecoder()
    assert decoder.feed(b"\x01\x40\xc8\x00\x05he") == [Head(200, ()), Content(b"he")]
    assert decoder.feed(b"llo") == [Content(b"llo")]
    assert decoder.finish() == [End(())]


def test_padding_must_not_shrink_a_message() -> None:
    with pytest.raises(BhttpError, match="too_large"):
        encode_request(Request(b"GET", b"https", b"", b"/"), pad_to=3)


def test_messages_show_nothing_of_their_content() -> None:
    request = Request(b"POST", b"https", b"", b"/secret", ((b"x", b"secret"),), b"secret")
    assert "secret" not in repr(request) + repr(Content(b"secret")) + repr(Response(200, (), b"secret"))


def outcome(read: Any, data: bytes) -> Any:
    """The message, or the code of the refusal."""
    try:
        return read(data)
    except BhttpError as error:
        return error.code


def read_in_pieces(kind: Any, limits: Limits) -> Any:
    """A whole message by way of the incremental decoder, byte by byte."""

    def read(data: bytes) -> Request | Response:
        decoder = kind(limits)
        events = [event for at in range(len(data)) for event in decoder.feed(data[at : at + 1])]
        events += decoder.finish()
        body = b"".join(event.data for event in events if isinstance(event, Content))
        (trailers,) = [event.trailers for event in events if isinstance(event, End)]
        (head,) = [event for event in events if isinstance(event, RequestHead | Head)]
        if isinstance(head, RequestHead):
            return Request(head.method, head.scheme, head.authority, head.path, head.headers, body, trailers)
        before = tuple((event.status, event.headers) for event in events if isinstance(event, Informational))
        return Response(head.status, head.headers, body, trailers, before)

    return read


TIGHT = Limits(control=40, section=60, fields=3, content=120, pieces=4, informational=2)


@QUICK
@given(
    message=requests | responses,
    indeterminate=st.booleans(),
    limits=st.sampled_from([Limits(), TIGHT]),
    edits=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=3),
    cut=st.none() | st.integers(0, 4000),
    tail=st.binary(max_size=4),
    cuts=st.lists(st.integers(0, 300), max_size=6),
)
def test_both_readers_say_the_same_of_every_message(
    message: Request | Response,
    indeterminate: bool,
    limits: Limits,
    edits: list[tuple[int, int]],
    cut: int | None,
    tail: bytes,
    cuts: list[int],
) -> None:
    if isinstance(message, Request):
        data = indeterminate_request(message, cuts) if indeterminate else encode_request(message)
        whole, kind = decode_request, RequestDecoder
    else:
        data = indeterminate_response(message, 3) if indeterminate else encode_response(message)
        whole, kind = decode_response, ResponseDecoder
    altered = bytearray(data)
    for at, value in edits:
        altered[at % len(altered)] = value
    data = bytes(altered[: None if cut is None else cut % (len(altered) + 1)]) + tail
    at_once, in_pieces = (
        outcome(lambda d: whole(d, limits), data),
        outcome(read_in_pieces(kind, limits), data),
    )
    if isinstance(at_once, str):
        assert isinstance(in_pieces, str), "refused whole, accepted in pieces"
    else:
        assert at_once == in_pieces
