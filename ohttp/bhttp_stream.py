"""Binary HTTP messages (RFC 9292) read as they arrive: bytes in, in any split; events out.

Either kind of message in either form, known or indeterminate length. At most one line of a field section and what
was just fed is held. Whole messages are read, and messages written, by bhttp.py.
"""

from collections.abc import Generator
from dataclasses import dataclass

from . import varint
from .errors import BhttpError
from .fields import DEFAULT_LIMITS, Fields, FieldSection, Limits, check_request_line, parse_known_section

REQUEST_KNOWN, RESPONSE_KNOWN, REQUEST_INDETERMINATE, RESPONSE_INDETERMINATE = range(4)


@dataclass(frozen=True, slots=True, repr=False)
class RequestHead:
    """The request line and the header section."""

    method: bytes
    scheme: bytes
    authority: bytes
    path: bytes
    headers: Fields


@dataclass(frozen=True, slots=True, repr=False)
class Informational:
    """A 1xx response; the final one is still to come."""

    status: int
    headers: Fields


@dataclass(frozen=True, slots=True, repr=False)
class Head:
    """Status and header section of the final response."""

    status: int
    headers: Fields


@dataclass(frozen=True, slots=True, repr=False)
class Content:
    """At least one byte of content."""

    data: bytes


@dataclass(frozen=True, slots=True, repr=False)
class End:
    """The content is complete; what may still follow is padding."""

    trailers: Fields


Event = RequestHead | Informational | Head | Content | End


class _Decoder:
    """The reader that both kinds of message share. Feed bytes in any split; an error is final."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buffer = bytearray()
        self._at = 0
        self._last = False
        self._events: list[Event] = []
        # Not the exception itself: its traceback would keep the bytes of a refused message alive.
        self._failure: tuple[str, str] | None = None
        self._steps = self._message()

    def feed(self, data: bytes) -> list[Event]:
        """The events that ``data`` completes. Raises BhttpError as soon as the message cannot be valid."""
        if self._last:
            raise BhttpError("out_of_order", "the message was finished already")
        self._buffer += data
        return self._advance()

    def finish(self) -> list[Event]:
        """The message ended: the events left over, ``End`` among them where the trailers were omitted.

        Raises BhttpError (``truncated``) unless RFC 9292 section 3.8 allows it to end here.
        """
        self._last = True
        return self._advance()

    def _advance(self) -> list[Event]:
        if self._failure is not None:
            raise BhttpError(*self._failure)
        try:
            next(self._steps, None)
        except BhttpError as error:
            self._failure = error.code, error.detail
            self._buffer.clear()
            raise
        del self._buffer[: self._at]
        self._at = 0
        events, self._events = self._events, []
        return events

    # Each step below takes what it needs from the buffer and yields while that has not arrived yet.

    def _message(self) -> Generator[None]:
        raise NotImplementedError

    def _available(self) -> int:
        return len(self._buffer) - self._at

    def _more(self) -> Generator[None]:
        if self._last:
            raise BhttpError("truncated", "the message ended early")
        yield

    def _omitted(self) -> Generator[None, None, bool]:
        """Whether the message ends right here, where the rest may be left out as empty."""
        while not self._available():
            if self._last:
                return True
            yield
        return False

    def _number(self) -> Generator[None, None, int]:
        while (found := varint.decode(self._buffer, self._at)) is None:
            yield from self._more()
        value, self._at = found
        return value

    def _take(self, length: int) -> Generator[None, None, bytes]:
        while self._available() < length:
            yield from self._more()
        taken = bytes(self._buffer[self._at : self._at + length])
        self._at += length
        return taken

    def _string(self, limit: int) -> Generator[None, None, bytes]:
        length = yield from self._number()
        if length > limit:
            raise BhttpError("too_large", "a part of the message is longer than the limit")
        return (yield from self._take(length))

    def _section(self, known: bool, *, trailer: bool = False) -> Generator[None, None, Fields]:
        if (yield from self._omitted()):
            return ()
        if known:
            section = yield from self._string(self._limits.section)
            return parse_known_section(section, self._limits, trailer=trailer)
        lines = FieldSection(self._limits, trailer=trailer)
        while (length := (yield from self._number())) != 0:
            name = yield from self._take(lines.claim(length))
            length = yield from self._number()
            lines.add(name, (yield from self._take(lines.claim(length))))
        return lines.done()

    def _content(self, known: bool) -> Generator[None]:
        if (yield from self._omitted()):
            return
        total = pieces = 0
        while (length := (yield from self._number())) != 0:
            total += length
            pieces += 1
            if total > self._limits.content or pieces > self._limits.pieces:
                raise BhttpError("too_large", "the content is longer or in more pieces than the limit")
            while length:
                while not self._available():
                    yield from self._more()
                piece = yield from self._take(min(length, self._available()))
                length -= len(piece)
                self._events.append(Content(piece))
            if known:
                return

    def _rest(self, known: bool) -> Generator[None]:
        yield from self._content(known)
        trailers = yield from self._section(known, trailer=True)
        self._events.append(End(trailers))
        while True:
            if self._buffer.count(0, self._at) != self._available():
                raise BhttpError("padding", "padding must be zero")
            self._at = len(self._buffer)
            if self._last:
                return
            yield


class RequestDecoder(_Decoder):
    """Reads one request as it arrives: ``RequestHead``, ``Content`` …, ``End``."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        super().__init__(limits)

    def _message(self) -> Generator[None]:
        framing = yield from self._number()
        if framing not in (REQUEST_KNOWN, REQUEST_INDETERMINATE):
            raise BhttpError("framing", "this is not a request")
        method = yield from self._string(self._limits.control)
        scheme = yield from self._string(self._limits.control)
        authority = yield from self._string(self._limits.control)
        path = yield from self._string(self._limits.control)
        check_request_line(method, scheme, authority, path)
        known = framing == REQUEST_KNOWN
        headers = yield from self._section(known)
        self._events.append(RequestHead(method, scheme, authority, path, headers))
        yield from self._rest(known)


class ResponseDecoder(_Decoder):
    """Reads one response as it arrives: ``Informational`` …, ``Head``, ``Content`` …, ``End``."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        super().__init__(limits)

    def _message(self) -> Generator[None]:
        framing = yield from self._number()
        if framing not in (RESPONSE_KNOWN, RESPONSE_INDETERMINATE):
            raise BhttpError("framing", "this is not a response")
        known = framing == RESPONSE_KNOWN
        seen = 0
        while (status := (yield from self._number())) < 200:
            checked_status(status, informational=True)
            seen += 1
            if seen > self._limits.informational:
                raise BhttpError("too_large", "more informational responses than the limit")
            headers = yield from self._section(known)
            self._events.append(Informational(status, headers))
        checked_status(status, informational=False)
        headers = yield from self._section(known)
        self._events.append(Head(status, headers))
        yield from self._rest(known)


def checked_status(status: int, *, informational: bool) -> int:
    """The status; raises BhttpError (``status``) outside 100-199, or 200-599 where it is final."""
    low, high = (100, 199) if informational else (200, 599)
    if not low <= status <= high:
        raise BhttpError("status", f"a status is {low} to {high} here")
    return status
