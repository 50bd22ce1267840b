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
    """Gathers one field section line by line, within the limits. Names become lower case."""

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
        name, _ = _checked_name(name, not self._trailer and not after_regular)
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
    """The lines one after another, without length or terminator. Raises BhttpError (``field``)."""
    parts: list[bytes] = []
    for name, value in _checked(fields, trailer):
        parts += (varint.encode(len(name)), name, varint.encode(len(value)), value)
    return b"".join(parts)


def _checked(lines: Iterable[tuple[bytes, bytes]], trailer: bool) -> list[tuple[bytes, bytes]]:
    """The lines with their names in lower case, where they may stand in this order."""
    checked: list[tuple[bytes, bytes]] = []
    pseudo = not trailer
    for name, value in lines:
        if name in _USUAL_NAMES:
            lower, pseudo = name, False
        else:
            lower, pseudo = _checked_name(name, pseudo)
        if not _VALUE(value):
            raise _forbidden_byte()
        checked.append((lower, value))
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


def _checked_name(name: bytes, pseudo: bool) -> tuple[bytes, bool]:
    """The name in lower case, and whether it is a pseudo-field's, which ``pseudo`` says may stand here."""
    is_pseudo = name[:1] == b":"
    if is_pseudo and (not pseudo or name.lower() in _CONTROL_DATA_NAMES):
        raise BhttpError("field", "a pseudo-field may not stand here")
    if not _TOKEN(name[1:] if is_pseudo else name):
        raise BhttpError("field", "a field name is not a token")
    return name.lower(), is_pseudo


def _overrun() -> BhttpError:
    return BhttpError("field", "a field line runs over the end of its section")


def _forbidden_byte() -> BhttpError:
    return BhttpError("field", "a field value holds a forbidden byte")
