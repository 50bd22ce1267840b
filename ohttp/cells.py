"""A response in equal cells: sizes and times tell an observer only how long the answer took, on a ladder.

Every cell is the plaintext of one chunk and has exactly ``cell_bytes`` bytes. Together the cells are one
Binary HTTP response in its indeterminate-length form, cut wherever a cell is full. Where the application has
nothing to say, filler stands in that every reader skips: before the head, informational responses (102) with
a padding field; between server-sent events, comments; after the end, the zero bytes that Binary HTTP allows
there. A body of another type has no place for filler, so it is gathered whole first.

No clock and no sockets here: the caller takes a cell whenever one is due and says when that was.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from . import varint
from .bhttp import ResponseEncoder
from .chunked import MAX_CHUNK
from .errors import OhttpError
from .fields import Fields, encode_lines
from .padding import CellProfile, ladder_rung

MAX_EVENT = 1024 * 1024
MAX_GATHERED = 8 * 1024 * 1024

_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LONGEST_BLANK_LINE = 4
_FILLER_STATUS = 102
_FILLER_FIELD = b"padding"


class CellError(OhttpError):
    """The application's answer cannot be put into cells.

    Codes: ``event_too_large`` (1 MiB), ``body_too_large`` (8 MiB gathered), ``out_of_order``.
    """


@dataclass(frozen=True, slots=True, repr=False)
class Cell:
    """The plaintext of one chunk; ``last`` marks the final one."""

    data: bytes
    last: bool


@dataclass(frozen=True, slots=True, repr=False)
class Failure:
    """What is said where the application failed: a whole response, or an ``event`` in a stream under way."""

    status: int
    headers: Fields
    body: bytes
    event: bytes


class CellStream:
    """One response on its way into cells. The application side puts in, the network side takes ``next_cell``.

    Order: one ``head``, any ``content``, then ``end``; or ``fail`` at any time. Raises CellError or
    BhttpError.
    """

    def __init__(self, profile: CellProfile) -> None:
        self._cell = profile.cell_bytes
        self._encoder = ResponseEncoder()
        self._begun = False
        self._framed = bytearray()
        self._events = bytearray()
        self._partial = bytearray()
        self._head: tuple[int, Fields] | None = None
        self._trailers: Fields = ()
        self._streaming = self._ended = self._closed = False
        self._taken = 0
        self._total: int | None = None

    def head(self, status: int, headers: Fields) -> None:
        """The final status and headers. An event stream goes on as it comes; any other body is gathered."""
        if self._head is not None or self._ended:
            raise CellError("out_of_order", "a response has one head")
        ResponseEncoder().head(status, headers)  # what could not be written later is refused here
        self._head = (status, headers)
        self._streaming = is_event_stream(headers)
        if self._streaming:
            self._frame_head(status, headers)

    def content(self, data: bytes) -> None:
        """Some bytes of the body, cut anywhere. Only whole events go on: filler must not split one."""
        if self._head is None or self._ended:
            raise CellError("out_of_order", "content follows the head and precedes the end")
        searched_from = max(0, len(self._partial) - _LONGEST_BLANK_LINE)
        self._partial += data
        if not self._streaming:
            if len(self._partial) > MAX_GATHERED:
                raise CellError("body_too_large", "a body that is not an event stream has at most 8 MiB")
            return
        cut = 0
        for blank in _BLANK_LINE.finditer(self._partial, searched_from):
            cut = blank.end()
        self._events += self._partial[:cut]
        del self._partial[:cut]
        if len(self._partial) > MAX_EVENT:
            raise CellError("event_too_large", "an event has at most 1 MiB")

    def end(self, trailers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """The body is complete."""
        if self._head is None or self._ended:
            raise CellError("out_of_order", "the end follows the head, once")
        self._trailers = tuple(trailers)
        encode_lines(self._trailers, trailer=True)  # as above: refused here, not when the cell is due
        self._ended = True

    def fail(self, failure: Failure) -> None:
        """The application failed: replace the answer, or end the event stream with an error event.

        An answer that had ended is replaced too, as long as nothing of it has left.
        """
        if self._closed or (self._streaming and self._ended):
            return
        self._partial.clear()
        if self._streaming:
            self._events += failure.event
        else:
            self._head = (failure.status, failure.headers)
            self._partial += failure.body
        self._trailers = ()
        self._ended = True

    @property
    def ended(self) -> bool:
        """Whether nothing more can be put in."""
        return self._ended

    @property
    def queued(self) -> int:
        """Bytes that wait for cells."""
        return len(self._framed) + len(self._events)

    def capacity(self) -> int:
        """How many more bytes of whole events the next cell can carry."""
        length_prefix = 2
        return max(0, self._cell - self.queued - len(self._partial) - length_prefix)

    def next_cell(self) -> Cell:
        """The next cell, with filler where there is too little to say."""
        self._taken += 1
        if self._ended and not self._closed:
            self._close()
        missing = self._cell - len(self._framed)
        if missing > 0 and not self._ended:
            self._framed += (
                self._events_and_filler(missing) if self._streaming else self._informational(missing)
            )
        data = bytes(self._framed[: self._cell])
        del self._framed[: self._cell]
        if self._closed and not self._framed and self._total is None:
            self._total = ladder_rung(self._taken)
        return Cell(data.ljust(self._cell, b"\0"), self._taken == self._total)

    def next_chunk(self) -> tuple[bytes, bool] | None:
        """A cell where there is something to say, with whether it is the last; None where there is nothing."""
        if not self._ended and not self._framed and not self._events:
            return None
        cell = self.next_cell()
        return cell.data, cell.last

    def _close(self) -> None:
        if self._head is not None and not self._streaming:
            self._frame_head(*self._head)
        self._framed += self._encoder.content(bytes(self._events + self._partial))
        self._framed += self._encoder.end(self._trailers)
        self._events.clear()
        self._partial.clear()
        self._closed = True

    def _frame_head(self, status: int, headers: Fields) -> None:
        self._framed += self._encoder.head(status, headers)
        self._begun = True

    def _informational(self, size: int) -> bytes:
        """Filler before the head: one 102 response of ``size`` bytes."""
        empty = (
            len(_FILLER_FIELD) + len(b"\x03" if not self._begun else b"") + len(b"\x40\x66\x07\x40\x00\x00")
        )
        self._begun = True
        return self._encoder.informational(_FILLER_STATUS, [(_FILLER_FIELD, b"0" * max(64, size - empty))])

    def _events_and_filler(self, size: int) -> bytes:
        """One piece of content: the events that wait, filled to ``size`` (1 and 65 come out one longer)."""
        events = bytes(self._events)
        self._events.clear()
        if events and len(varint.encode(len(events))) + len(events) >= size:
            return self._encoder.content(events)
        filled = max(1, size - 1) if size <= 64 else max(64, size - 2)
        return self._encoder.content(events + comment(filled - len(events)))


class UnpaddedStream:
    """The profile ``off``: same verbs as ``CellStream``, but bytes go as they come, in their own sizes."""

    def __init__(self) -> None:
        self._encoder = ResponseEncoder()
        self._waiting = bytearray()
        self._headed = self._events = self._ended = self._taken = self._aborted = False

    def head(self, status: int, headers: Fields) -> None:
        """The final status and headers."""
        self._waiting += self._encoder.head(status, headers)
        self._headed, self._events = True, is_event_stream(headers)

    def content(self, data: bytes) -> None:
        """Some bytes of the body."""
        self._waiting += self._encoder.content(data)

    def end(self, trailers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """The body is complete."""
        self._waiting += self._encoder.end(trailers)
        self._ended = True

    def fail(self, failure: Failure) -> None:
        """The application failed. Of what left already, a body without a place for errors is left without its end."""
        if self._ended:
            return
        if self._headed and not self._taken:
            self._encoder, self._headed, self._events = ResponseEncoder(), False, False
            self._waiting.clear()
        elif self._headed and not self._events:
            self._aborted = self._ended = True
            return
        if not self._headed:
            self.head(failure.status, failure.headers)
        self.content(failure.event if self._events else failure.body)
        self.end()

    @property
    def ended(self) -> bool:
        """Whether nothing more can be put in."""
        return self._ended

    @property
    def queued(self) -> int:
        """Bytes that wait to be sent."""
        return len(self._waiting)

    def next_chunk(self) -> tuple[bytes, bool] | None:
        """All that waits, at most a chunk's worth, with whether it is the last; None where nothing waits."""
        waiting = self._waiting
        if not waiting:
            return None
        self._taken = True
        data = bytes(waiting[:MAX_CHUNK])
        del waiting[:MAX_CHUNK]
        return data, self._ended and not waiting and not self._aborted


class Pacer:
    """When the next cell is due, in the caller's clock (seconds). The first is due at ``start``."""

    def __init__(self, profile: CellProfile, start: float) -> None:
        self.interval = profile.interval_ms / 1000
        self.due = start

    def sent(self, now: float) -> None:
        """A cell left at ``now``. Lateness below one interval is made up for; more starts a new beat."""
        late = now - self.due >= self.interval
        self.due = (now if late else self.due) + self.interval


def is_event_stream(headers: Fields) -> bool:
    """Whether the body is ``text/event-stream``."""
    for name, value in headers:
        if name.lower() == b"content-type":
            return value.partition(b";")[0].strip().lower() == b"text/event-stream"
    return False


def comment(size: int) -> bytes:
    """``size`` bytes (at least 1) between two server-sent events that a reader skips."""
    if size < 3:
        return b":\n"[2 - size :]
    return b":" + b" " * (size - 3) + b"\n\n"
