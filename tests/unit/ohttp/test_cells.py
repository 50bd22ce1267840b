"""Cells: whatever is said and whenever, they are equal, read back whole, and end on a rung."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ohttp.bhttp import Content, End, Head, Informational, Response, ResponseDecoder
from ohttp.cells import (
    MAX_EVENT,
    MAX_GATHERED,
    CellError,
    CellStream,
    Failure,
    Pacer,
    UnpaddedStream,
    comment,
)
from ohttp.errors import BhttpError
from ohttp.fields import Fields
from ohttp.padding import CellProfile, ladder_rung

SSE: Fields = ((b"content-type", b"text/event-stream"),)
JSON: Fields = ((b"content-type", b"application/json"),)
FAILURE = Failure(500, JSON, b'{"error":1}', b'data: {"error":1}\n\n')

line = st.from_regex(rb"\A(data|event|id|: note|retry): ?[!-~ ]{0,30}\Z")
newline = st.sampled_from([b"\n", b"\r\n", b"\r"])


@st.composite
def events(draw: Any) -> bytes:
    end = draw(newline)
    return b"".join(one + end for one in draw(st.lists(line, min_size=1, max_size=3))) + end


def fields_of(stream: bytes) -> list[bytes]:
    """The lines that a reader of server-sent events acts on, and where it dispatches an event."""
    lines = stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    acted: list[bytes] = []
    for one in lines:
        if one.startswith(b":") or (one == b"" and (not acted or acted[-1] == b"")):
            continue
        acted.append(one)
    return acted


def drained(stream: CellStream, cells: list[bytes] | None = None) -> list[bytes]:
    """All cells up to the last."""
    cells = [] if cells is None else cells
    for _ in range(100_000):
        cell = stream.next_cell()
        cells.append(cell.data)
        if cell.last:
            return cells
    raise AssertionError("the cells never end")


def read(cells: list[bytes]) -> tuple[Response, int]:
    """The response in the cells, and how many informational responses came before it."""
    decoder = ResponseDecoder()
    found = [event for cell in cells for event in decoder.feed(cell)] + decoder.finish()
    head = next(event for event in found if isinstance(event, Head))
    body = b"".join(event.data for event in found if isinstance(event, Content))
    end = next(event for event in found if isinstance(event, End))
    fillers = sum(isinstance(event, Informational) for event in found)
    return Response(head.status, head.headers, body, end.trailers), fillers


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from([128, 129, 193, 512, 16_384]),
    st.lists(st.tuples(events(), st.integers(0, 3)), max_size=12),
)
def test_events_come_through_and_filler_is_never_acted_on(size: int, said: list[tuple[bytes, int]]) -> None:
    stream = CellStream(CellProfile(cell_bytes=size))
    cells = [stream.next_cell().data for _ in range(2)]
    stream.head(200, SSE)
    for event, pause in said:
        half = len(event) // 2
        stream.content(event[:half])
        cells += [stream.next_cell().data for _ in range(pause)]
        stream.content(event[half:])
        cells += [stream.next_cell().data for _ in range(pause)]
    stream.end(((b"x-tokens", b"3"),))
    drained(stream, cells)
    assert {len(cell) for cell in cells} == {size}
    assert len(cells) == ladder_rung(len(cells)), "the number of cells is a rung"
    response, fillers = read(cells)
    assert fillers == 2
    assert (response.status, response.headers, response.trailers) == (200, SSE, ((b"x-tokens", b"3"),))
    assert fields_of(response.body) == fields_of(b"".join(event for event, _ in said))


@pytest.mark.parametrize("size", [128, 512])
def test_an_event_longer_than_a_cell_may_leave_any_room_in_its_last_one(size: int) -> None:
    for length in range(size, 2 * size + 8):  # one of them leaves room for a single byte
        stream = CellStream(CellProfile(cell_bytes=size))
        stream.head(200, SSE)
        event = b"data: " + b"x" * length + b"\n\n"
        stream.content(event)
        cells = [stream.next_cell().data for _ in range(6)]
        stream.content(b"data: [DONE]\n\n")
        stream.end()
        response, _ = read(drained(stream, cells))
        assert fields_of(response.body) == fields_of(event + b"data: [DONE]\n\n")


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=3000), st.integers(0, 30), st.integers(1, 4))
def test_another_body_is_gathered_and_comes_out_exact(body: bytes, wait: int, pieces: int) -> None:
    stream = CellStream(CellProfile(cell_bytes=128))
    stream.head(200, JSON)
    step = max(1, len(body) // pieces)
    for at in range(0, len(body), step):
        stream.content(body[at : at + step])
    cells = [stream.next_cell().data for _ in range(wait)]
    stream.end()
    drained(stream, cells)
    response, fillers = read(cells)
    assert response == Response(200, JSON, body)
    assert fillers == wait
    assert {len(cell) for cell in cells} == {128}


def test_a_long_answer_ends_on_a_rung_after_it_and_a_short_one_on_the_first() -> None:
    for length, cells in ((10, 16), (16 * 512 - 100, 16), (16 * 512, 20), (512 * 30, 32)):
        stream = CellStream(CellProfile())
        stream.head(200, JSON)
        stream.content(b"x" * length)
        stream.end()
        assert len(drained(stream)) == cells


@given(st.integers(1, 600))
def test_a_comment_has_exactly_the_size_and_says_nothing(size: int) -> None:
    made = comment(size)
    assert len(made) == size
    assert made.endswith(b"\n")
    assert all(one in (b"", b":" + b" " * (len(one) - 1)) for one in made.split(b"\n"))


@given(st.lists(st.integers(0, 700), max_size=20))
def test_capacity_is_what_the_next_cell_still_carries(sizes: list[int]) -> None:
    stream = CellStream(CellProfile(cell_bytes=512))
    stream.head(200, SSE)
    for size in sizes:
        room = stream.capacity()
        take = min(size, room)
        if take >= 9:
            stream.content(b"data: " + b"x" * (take - 8) + b"\n\n")
        before = stream.queued
        stream.next_cell()
        assert stream.queued <= (1 if before <= 512 else before - 512)


@pytest.mark.parametrize("cells_before", [0, 3])
def test_failure_before_the_head_is_a_response_of_its_own(cells_before: int) -> None:
    stream = CellStream(CellProfile())
    cells = [stream.next_cell().data for _ in range(cells_before)]
    stream.fail(FAILURE)
    assert read(drained(stream, cells)) == (Response(500, JSON, b'{"error":1}'), cells_before)


def test_failure_while_a_body_is_gathered_leaves_nothing_of_it() -> None:
    stream = CellStream(CellProfile())
    stream.head(200, JSON)
    stream.content(b"half a secr")
    first = [stream.next_cell().data]
    stream.fail(FAILURE)
    assert read(drained(stream, first))[0] == Response(500, JSON, b'{"error":1}')


def test_failure_replaces_an_answer_that_had_ended_as_long_as_nothing_of_it_left() -> None:
    stream = CellStream(CellProfile())
    stream.head(500, ((b"content-type", b"text/plain"),))
    stream.content(b"the framework's own words")
    stream.end()
    stream.fail(FAILURE)
    cells = drained(stream)
    stream.fail(FAILURE)
    assert read(cells)[0] == Response(500, JSON, b'{"error":1}')


def test_failure_in_an_event_stream_is_an_event_and_drops_the_half_event_before_it() -> None:
    stream = CellStream(CellProfile())
    stream.head(200, SSE)
    stream.content(b"data: whole\n\ndata: half")
    first = [stream.next_cell().data]
    stream.fail(FAILURE)
    response = read(drained(stream, first))[0]
    assert response.status == 200
    assert fields_of(response.body)[:4] == [b"data: whole", b"", b'data: {"error":1}', b""]


def test_order_and_limits() -> None:
    stream = CellStream(CellProfile())
    for call in (lambda: stream.content(b"x"), stream.end):
        with pytest.raises(CellError, match="out_of_order"):
            call()
    with pytest.raises(BhttpError, match="field"):
        stream.head(200, ((b"x", b"a\r\nb"),))
    with pytest.raises(BhttpError, match="status"):
        stream.head(102, ())
    stream.head(200, JSON)
    with pytest.raises(CellError, match="out_of_order"):
        stream.head(200, JSON)
    with pytest.raises(CellError, match="body_too_large"):
        stream.content(bytes(MAX_GATHERED + 1))
    endless = CellStream(CellProfile())
    endless.head(200, SSE)
    with pytest.raises(CellError, match="event_too_large"):
        endless.content(b"x" * (MAX_EVENT + 1))


def test_a_late_cell_leaves_at_once_and_the_beat_goes_on() -> None:
    pacer = Pacer(CellProfile(interval_ms=100), 0.0)
    pacer.sent(0.0)
    assert pacer.due == pytest.approx(0.1)
    pacer.sent(0.15)  # a little late: the grid stays
    assert pacer.due == pytest.approx(0.2)
    pacer.sent(0.95)  # far too late: a new grid, and no burst of all that was missed
    assert pacer.due == pytest.approx(1.05)


def chunk(stream: UnpaddedStream) -> tuple[bytes, bool]:
    found = stream.next_chunk()
    assert found is not None
    return found


def test_unpadded_bytes_go_as_they_come() -> None:
    stream = UnpaddedStream()
    stream.head(200, SSE)
    head, last = chunk(stream)
    assert not last
    assert stream.next_chunk() is None
    stream.content(b"data: a\n")
    assert chunk(stream) == (b"\x08data: a\n", False)
    stream.fail(FAILURE)
    error, last = chunk(stream)
    assert FAILURE.event in error
    assert last
    decoder = ResponseDecoder()
    assert decoder.feed(head) == [Head(200, SSE)]


def test_unpadded_failure() -> None:
    fresh = UnpaddedStream()
    fresh.fail(FAILURE)
    decoder = ResponseDecoder()
    whole, last = chunk(fresh)
    assert decoder.feed(whole)[0] == Head(500, JSON)
    assert last
    broken = UnpaddedStream()
    broken.head(200, JSON)
    broken.content(b"{")
    chunk(broken)
    broken.content(b"}")
    broken.fail(FAILURE)
    assert chunk(broken) == (b"\x01}", False), "a body with no place for errors must not look complete"
    assert broken.next_chunk() is None
