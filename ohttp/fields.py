"""Field lines and request lines of Binary HTTP: what may stand in them (RFC 9292 sections 3.4 and 3.6).

The rules come from HTTP/2 (RFC 9113 section 8.2.1 and 8.3.1) because they keep a message from turning into
two when someone writes it out as HTTP/1.1 later.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from . import varint
from .errors import BhttpError

Fields = tuple[tuple[bytes, bytes], ...]

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_NAME = re.compile(rb":?[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
_VALUE = re.compile(rb"(?![ \t])[^\0\r\n]*(?<![ \t])").fullmatch
_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+\-.]*").fullmatch
_VISIBLE = re.compile(rb"[!-~]*").fullmatch
_CONTROL_DATA_NAMES = frozenset((b":method", b":scheme", b":authority", b":path", b":status"))
# Tokens in lower case, as everybody can see: most lines need no closer look at their names.
_USUAL_NAMES = frozenset(
    b"accept accept-encoding accept-language attestation-digest authorization cache-control connection content-encoding"
    b" content-length content-type date host request-id retry-after user-agent".split()
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a decoder accepts, checked on the declared length and so before anything is allocated.

    ``control``: bytes of one part of the request line. ``section`` and ``fields``: bytes and lines of one
    field section. ``content`` and ``pieces``: bytes of the whole content, and in how many pieces it may come.
    ``informational``: number of 1xx responses before the final.
    """

    control: int = 16 * 1024
    section: int = 64 * 1024
    fields: int = 256
    content: int = 64 * 1024 * 1024
    pieces: int = 1024 * 1024
    informational: int = 65_536


DEFAULT_LIMITS = Limits()


def check_request_line(method: bytes, scheme: bytes, authority: bytes, path: bytes) -> None:
    """Raises BhttpError (``control_data``) for parts that could not be pseudo-fields of an HTTP/2 request."""
    web = scheme.lower() in (b"http", b"https")
    connect = method == b"CONNECT"
    valid = (
        _TOKEN(method)
        and (_SCHEME(scheme) or (connect and not scheme))
        and _VISIBLE(authority)
        and _VISIBLE(path)
        and not (web and b"@" in authority)
        and (not web or connect or path[:1] == b"/" or (method == b"OPTIONS" and path == b"*"))
    )
    if not valid:
        raise BhttpError("control_data", "the request line is not valid")


class FieldSection:
    """Gathers one field section line by line, within the limits."""

    def __init__(self, limits: Limits, *, trailer: bool = False) -> None:
        self._limits = limits
        self._trailer = trailer
        self._room = limits.section
        self._lines: list[tuple[bytes, bytes]] = []

    def claim(self, length: int) -> int:
        """Gives ``length`` back, the bytes to come; raises BhttpError (``too_large``) beyond the limit."""
        self._room -= length
        if self._room < 0 or len(self._lines) >= self._limits.fields:
            raise BhttpError("too_large", "a field section is larger than the limit")
        return length

    def add(self, name: bytes, value: bytes) -> None:
        """Raises BhttpError (``field``) for a line that may not stand here."""
        after_regular = bool(self._lines) and not self._lines[-1][0].startswith(b":")
        _check_name(name, not self._trailer and not after_regular)
        if not _VALUE(value):
            raise _forbidden_byte()
        self._lines.append((name, value))

    def done(self) -> Fields:
        """The lines so far."""
        return tuple(self._lines)


def parse_known_section(section: bytes, limits: Limits, *, trailer: bool = False) -> Fields:
    """The lines of a section of declared length. Raises BhttpError."""
    if len(section) > limits.section:
        raise BhttpError("too_large", "a field section is larger than the limit")
    if not section:
        return ()
    strings = iter(_strings(section, 2 * limits.fields))
    return tuple(_checked(zip(strings, strings, strict=True), trailer))


def encode_lines(fields: Iterable[tuple[bytes, bytes]], *, trailer: bool = False) -> bytes:
    """The lines one after another, names in lower case, without length or terminator. Raises BhttpError (``field``)."""
    parts: list[bytes] = []
    for name, value in _checked(fields, trailer, lower=True):
        parts += (varint.encode(len(name)), name, varint.encode(len(value)), value)
    return b"".join(parts)


def _checked(
    lines: Iterable[tuple[bytes, bytes]], trailer: bool, *, lower: bool = False
) -> list[tuple[bytes, bytes]]:
    """The lines, where they may stand in this order. ``lower``: they are being written, and may have capitals."""
    checked: list[tuple[bytes, bytes]] = []
    pseudo = not trailer
    for name, value in lines:
        if name in _USUAL_NAMES:
            pseudo = False
        else:
            name = name.lower() if lower else name
            pseudo = _check_name(name, pseudo)
        if not _VALUE(value):
            raise _forbidden_byte()
        checked.append((name, value))
    return checked


def _strings(section: bytes, most: int) -> list[bytes]:
    """Names and values in turn, each of which stands behind its length."""
    strings: list[bytes] = []
    at, end = 0, len(section)
    while at < end:
        if len(strings) == most:
            raise BhttpError("too_large", "a field section is larger than the limit")
        length = section[at]
        at += 1
        if length >= 0x40:  # more than the usual length of a length
            found = varint.decode(section, at - 1)
            if found is None:
                raise _overrun()
            length, at = found
        stop = at + length
        if stop > end:
            raise _overrun()
        strings.append(section[at:stop])
        at = stop
    if len(strings) % 2:
        raise _overrun()
    return strings


def _check_name(name: bytes, pseudo: bool) -> bool:
    """Whether the name is a pseudo-field's; ``pseudo``: whether one may stand here. Raises BhttpError (``field``)."""
    is_pseudo = name[:1] == b":"
    if is_pseudo and (not pseudo or name.lower() in _CONTROL_DATA_NAMES):
        raise BhttpError("field", "a pseudo-field may not stand here")
    if not _NAME(name):
        raise BhttpError("field", "a field name is a token in lower case")
    return is_pseudo


def _overrun() -> BhttpError:
    return BhttpError("field", "a field line runs over the end of its section")


def _forbidden_byte() -> BhttpError:
    return BhttpError("field", "a field value holds a forbidden byte")
