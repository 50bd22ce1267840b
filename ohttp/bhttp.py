"""Binary representation of HTTP messages (RFC 9292): requests and responses, both forms.

Whole messages are written in the known-length form; a response that is still being produced is written piece
by piece in the indeterminate-length form. The reader takes either form, whole or in any split. Field names
come back in lower case; the order of fields and repeated fields are kept.
"""

from collections.abc import Generator, Iterable
from dataclasses import dataclass

from . import varint
from .errors import BhttpError
from .fields import Fields, FieldSection, Limits, check_request_line, encode_lines, parse_known_section

REQUEST_KNOWN, RESPONSE_KNOWN, REQUEST_INDETERMINATE, RESPONSE_INDETERMINATE = range(4)


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True, repr=False)
class Request:
    """A whole request. ``path`` carries the query; ``authority`` may be empty. Never shown by repr."""

    method: bytes
    scheme: bytes
    authority: bytes
    path: bytes
    headers: Fields = ()
    body: bytes = b""
    trailers: Fields = ()


@dataclass(frozen=True, slots=True, repr=False)
class Response:
    """A whole response; ``informational`` holds the 1xx responses that came before it, oldest first."""

    status: int
    headers: Fields = ()
    body: bytes = b""
    trailers: Fields = ()
    informational: tuple[tuple[int, Fields], ...] = ()


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


def encode_request(request: Request, *, pad_to: int | None = None) -> bytes:
    """The known-length form, zero-padded to ``pad_to`` bytes. Raises BhttpError where it would not decode."""
    check_request_line(request.method, request.scheme, request.authority, request.path)
    out = bytearray(varint.encode(REQUEST_KNOWN))
    for part in (request.method, request.scheme, request.authority, request.path):
        _put_string(out, part)
    return _encode_rest(out, request.headers, request.body, request.trailers, pad_to)


def encode_response(response: Response, *, pad_to: int | None = None) -> bytes:
    """The known-length form, zero-padded to ``pad_to`` bytes. Raises BhttpError where it would not decode."""
    out = bytearray(varint.encode(RESPONSE_KNOWN))
    for status, headers in response.informational:
        out += varint.encode(_checked_status(status, informational=True))
        _put_string(out, encode_lines(headers))
    out += varint.encode(_checked_status(response.status, informational=False))
    return _encode_rest(out, response.headers, response.body, response.trailers, pad_to)


def decode_request(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Request:
    """A whole request in either form. Raises BhttpError."""
    decoder = RequestDecoder(limits)
    head: RequestHead | None = None
    content: list[bytes] = []
    trailers: Fields = ()
    for event in decoder.feed(data) + decoder.finish():
        if isinstance(event, RequestHead):
            head = event
        elif isinstance(event, Content):
            content.append(event.data)
        elif isinstance(event, End):
            trailers = event.trailers
    if head is None:
        raise BhttpError("truncated", "the message ended early")
    return Request(
        head.method, head.scheme, head.authority, head.path, head.headers, b"".join(content), trailers
    )


def decode_response(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Response:
    """A whole response in either form. Raises BhttpError."""
    decoder = ResponseDecoder(limits)
    informational: list[tuple[int, Fields]] = []
    head: Head | None = None
    content: list[bytes] = []
    trailers: Fields = ()
    for event in decoder.feed(data) + decoder.finish():
        if isinstance(event, Informational):
            informational.append((event.status, event.headers))
        elif isinstance(event, Head):
            head = event
        elif isinstance(event, Content):
            content.append(event.data)
        elif isinstance(event, End):
            trailers = event.trailers
    if head is None:
        raise BhttpError("truncated", "the message ended early")
    return Response(head.status, head.headers, b"".join(content), trailers, tuple(informational))


class ResponseEncoder:
    """Writes one response in the indeterminate-length form, piece by piece; each call returns the next bytes.

    Order: any number of ``informational``, one ``head``, any number of ``content``, one ``end``. Zero bytes
    may follow as padding. Raises BhttpError (``out_of_order``, or what a decoder would refuse).
    """

    def __init__(self) -> None:
        self._begun = self._headed = self._ended = False

    def informational(self, status: int, headers: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
        """A 1xx response."""
        self._expect(not self._headed)
        return (
            self._begin()
            + varint.encode(_checked_status(status, informational=True))
            + encode_lines(headers)
            + b"\0"
        )

    def head(self, status: int, headers: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
        """The final status (200 … 599) and the header section."""
        self._expect(not self._headed)
        lines = varint.encode(_checked_status(status, informational=False)) + encode_lines(headers) + b"\0"
        self._headed = True
        return self._begin() + lines

    def content(self, data: bytes) -> bytes:
        """A piece of content; nothing for nothing, because an empty chunk would end the content."""
        self._expect(self._headed and not self._ended)
        return varint.encode(len(data)) + data if data else b""

    def end(self, trailers: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
        """The end of the content, and the trailers."""
        self._expect(self._headed and not self._ended)
        lines = encode_lines(trailers, trailer=True)
        self._ended = True
        return b"\0" + lines + b"\0"

    def _begin(self) -> bytes:
        begun, self._begun = self._begun, True
        return b"" if begun else varint.encode(RESPONSE_INDETERMINATE)

    @staticmethod
    def _expect(in_order: bool) -> None:
        if not in_order:
            raise BhttpError(
                "out_of_order", "a response is informational answers, head, content, end, in this order"
            )


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
            _checked_status(status, informational=True)
            seen += 1
            if seen > self._limits.informational:
                raise BhttpError("too_large", "more informational responses than the limit")
            headers = yield from self._section(known)
            self._events.append(Informational(status, headers))
        _checked_status(status, informational=False)
        headers = yield from self._section(known)
        self._events.append(Head(status, headers))
        yield from self._rest(known)


def _checked_status(status: int, *, informational: bool) -> int:
    low, high = (100, 199) if informational else (200, 599)
    if not low <= status <= high:
        raise BhttpError("status", f"a status is {low} to {high} here")
    return status


def _put_string(out: bytearray, value: bytes) -> None:
    out += varint.encode(len(value))
    out += value


def _encode_rest(out: bytearray, headers: Fields, body: bytes, trailers: Fields, pad_to: int | None) -> bytes:
    _put_string(out, encode_lines(headers))
    _put_string(out, body)
    _put_string(out, encode_lines(trailers, trailer=True))
    if pad_to is not None:
        if pad_to < len(out):
            raise BhttpError("too_large", "the message is longer than the length it is to be padded to")
        out += bytes(pad_to - len(out))
    return bytes(out)
