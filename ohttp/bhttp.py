"""Binary representation of HTTP messages (RFC 9292): requests and responses, both forms.

Whole messages are written in the known-length form; a response that is still being produced is written piece
by piece in the indeterminate-length form. Whole messages of either form are read here; messages that are still
arriving, by the decoders of bhttp_stream.py. Field names are written in lower case, and refused in any other, as in
HTTP/2; the order of fields and repeated fields are kept.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from . import varint
from .bhttp_stream import (
    REQUEST_INDETERMINATE,
    REQUEST_KNOWN,
    RESPONSE_INDETERMINATE,
    RESPONSE_KNOWN,
    Content,
    End,
    Event,
    Head,
    Informational,
    RequestDecoder,
    RequestHead,
    ResponseDecoder,
    checked_status,
)
from .errors import BhttpError
from .fields import (
    DEFAULT_LIMITS,
    Fields,
    FieldSection,
    Limits,
    check_request_line,
    encode_lines,
    parse_known_section,
)

__all__ = [
    "DEFAULT_LIMITS",
    "Content",
    "End",
    "Event",
    "Head",
    "Informational",
    "Limits",
    "Request",
    "RequestDecoder",
    "RequestHead",
    "Response",
    "ResponseDecoder",
    "ResponseEncoder",
    "decode_request",
    "decode_response",
    "encode_request",
    "encode_response",
]


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
        out += varint.encode(checked_status(status, informational=True))
        _put_string(out, encode_lines(headers))
    out += varint.encode(checked_status(response.status, informational=False))
    return _encode_rest(out, response.headers, response.body, response.trailers, pad_to)


def decode_request(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Request:
    """A whole request in either form. Raises BhttpError, as RequestDecoder would."""
    reader = _Reader(data, limits)
    framing = reader.number()
    if framing not in (REQUEST_KNOWN, REQUEST_INDETERMINATE):
        raise BhttpError("framing", "this is not a request")
    known = framing == REQUEST_KNOWN
    method, scheme, authority, path = reader.control_data()
    check_request_line(method, scheme, authority, path)
    headers = reader.section(known)
    body = reader.content(known)
    return Request(method, scheme, authority, path, headers, body, reader.trailers(known))


def decode_response(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Response:
    """A whole response in either form. Raises BhttpError, as ResponseDecoder would."""
    reader = _Reader(data, limits)
    framing = reader.number()
    if framing not in (RESPONSE_KNOWN, RESPONSE_INDETERMINATE):
        raise BhttpError("framing", "this is not a response")
    known = framing == RESPONSE_KNOWN
    informational: list[tuple[int, Fields]] = []
    while (status := reader.number()) < 200:
        checked_status(status, informational=True)
        if len(informational) >= limits.informational:
            raise BhttpError("too_large", "more informational responses than the limit")
        informational.append((status, reader.section(known)))
    checked_status(status, informational=False)
    headers = reader.section(known)
    body = reader.content(known)
    return Response(status, headers, body, reader.trailers(known), tuple(informational))


class _Reader:
    """Takes a whole message apart from front to back, by the rules of the decoders of bhttp_stream.py."""

    __slots__ = ("_at", "_data", "_limits")

    def __init__(self, data: bytes, limits: Limits) -> None:
        self._data = data
        self._limits = limits
        self._at = 0

    def number(self) -> int:
        data, at = self._data, self._at
        if at < len(data) and (value := data[at]) < 0x40:  # the usual length of a number
            self._at = at + 1
            return value
        found = varint.decode(data, at)
        if found is None:
            raise _truncated()
        self._at = found[1]
        return found[0]

    def control_data(self) -> list[bytes]:
        """Method, scheme, authority and path."""
        data, at, limit = self._data, self._at, self._limits.control
        end = len(data)
        strings: list[bytes] = []
        for _ in range(4):
            if at < end and (length := data[at]) < 0x40:  # the usual length of a length
                at += 1
            else:
                self._at = at
                length = self.number()
                at = self._at
            if length > limit:
                raise _too_long()
            stop = at + length
            if stop > end:
                raise _truncated()
            strings.append(data[at:stop])
            at = stop
        self._at = at
        return strings

    def string(self, limit: int) -> bytes:
        length = self.number()
        if length > limit:
            raise _too_long()
        return self._take(length)

    def section(self, known: bool, *, trailer: bool = False) -> Fields:
        if self._at == len(self._data):
            return ()
        if known:
            return parse_known_section(self.string(self._limits.section), self._limits, trailer=trailer)
        lines = FieldSection(self._limits, trailer=trailer)
        while (length := self.number()) != 0:
            name = self._take(lines.claim(length))
            lines.add(name, self._take(lines.claim(self.number())))
        return lines.done()

    def content(self, known: bool) -> bytes:
        if self._at == len(self._data):
            return b""
        limits = self._limits
        if known:
            return self.string(limits.content)
        pieces: list[bytes] = []
        total = 0
        while (length := self.number()) != 0:
            total += length
            if total > limits.content or len(pieces) >= limits.pieces:
                raise BhttpError("too_large", "the content is longer or in more pieces than the limit")
            pieces.append(self._take(length))
        return b"".join(pieces)

    def trailers(self, known: bool) -> Fields:
        """The trailer section; what follows it has to be zeros."""
        if self._zeros():
            return ()  # a section of no length, or none at all, and padding
        trailers = self.section(known, trailer=True)
        if not self._zeros():
            raise BhttpError("padding", "padding must be zero")
        return trailers

    def _zeros(self) -> bool:
        return self._data.count(0, self._at) == len(self._data) - self._at

    def _take(self, length: int) -> bytes:
        start = self._at
        end = start + length
        if end > len(self._data):
            raise _truncated()
        self._at = end
        return self._data[start:end]


def _too_long() -> BhttpError:
    return BhttpError("too_large", "a part of the message is longer than the limit")


def _truncated() -> BhttpError:
    return BhttpError("truncated", "the message ended early")


class ResponseEncoder:
    """Writes one response in the indeterminate-length form, piece by piece; each call returns the next bytes.

    Order: any number of ``informational``, one ``head``, any number of ``content``, one ``end``. Zero bytes
    may follow as padding. Raises BhttpError (``out_of_order``, or what a decoder would refuse).
    """

    __slots__ = ("_begin", "_ended", "_headed")

    def __init__(self) -> None:
        self._begin = varint.encode(RESPONSE_INDETERMINATE)
        self._headed = self._ended = False

    def informational(self, status: int, headers: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
        """A 1xx response."""
        if self._headed:
            raise _out_of_order()
        return self._section(checked_status(status, informational=True), headers)

    def head(self, status: int, headers: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
        """The final status (200 … 599) and the header section."""
        if self._headed:
            raise _out_of_order()
        section = self._section(checked_status(status, informational=False), headers)
        self._headed = True
        return section

    def content(self, data: bytes) -> bytes:
        """A piece of content; nothing for nothing, because an empty chunk would end the content."""
        if not self._headed or self._ended:
            raise _out_of_order()
        return varint.encode(len(data)) + data if data else b""

    def end(self, trailers: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
        """The end of the content, and the trailers."""
        if not self._headed or self._ended:
            raise _out_of_order()
        lines = encode_lines(trailers, trailer=True)
        self._ended = True
        return b"\0" + lines + b"\0"

    def _section(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        lines = encode_lines(headers)
        begin, self._begin = self._begin, b""
        return begin + varint.encode(status) + lines + b"\0"


def _out_of_order() -> BhttpError:
    return BhttpError(
        "out_of_order", "a response is informational answers, head, content, end, in this order"
    )


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
