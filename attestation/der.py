"""A small strict reader of DER (ITU-T X.690 §10), for certificates that must be read without leniency.

It reads piece by piece, in the order of the ASN.1 definition; whoever reads calls ``end()`` where nothing may
follow. Only what vendors' certificates and revocation lists are made of is here.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Final, NamedTuple

from .errors import CertificateMalformed

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
NULL: Final = 0x05
OID: Final = 0x06
UTF8_STRING: Final = 0x0C
PRINTABLE_STRING: Final = 0x13
TELETEX_STRING: Final = 0x14
IA5_STRING: Final = 0x16
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18
UNIVERSAL_STRING: Final = 0x1C
BMP_STRING: Final = 0x1E
SEQUENCE: Final = 0x30
SET: Final = 0x31

_ZULU: Final = ord("Z")
_OFTEN: Final[Mapping[bytes, str]] = {
    # What certificates are full of, so that it need not be worked out each time (X.520, RFC 5280).
    **{bytes((0x55, 0x04, number)): f"2.5.4.{number}" for number in (3, 6, 7, 8, 10, 11)},
    **{bytes((0x55, 0x1D, number)): f"2.5.29.{number}" for number in (14, 15, 19, 31, 35)},
}

_MAX_INTEGER: Final = 1024
"""Bytes of an INTEGER at most: twice an RSA-4096 modulus."""


class DerError(CertificateMalformed):
    """Bytes that are not the DER which was expected."""

    def __init__(self, detail: str, *, code: str = "cert_malformed") -> None:
        super().__init__(code=code, detail=detail)


class Element(NamedTuple):
    """One element: its tag byte, its content, and all of its bytes."""

    tag: int
    content: bytes
    raw: bytes


def context(number: int) -> int:
    """The tag of a constructed context-specific element ``[number]``, as EXPLICIT tagging makes it."""
    return 0xA0 | number


class Reader:
    """Reads elements one after the other. Every method raises DerError for what is not there."""

    __slots__ = ("_at", "_data", "_end")

    def __init__(self, data: bytes, start: int = 0, end: int | None = None) -> None:
        self._data = data
        self._at = start
        self._end = len(data) if end is None else end

    @property
    def more(self) -> bool:
        """Whether anything is left."""
        return self._at < self._end

    def end(self) -> None:
        """Nothing may be left."""
        if self._at < self._end:
            raise DerError("unexpected bytes at the end")

    def next_is(self, tag: int) -> bool:
        """Whether the next element has this tag."""
        return self._at < self._end and self._data[self._at] == tag

    def element(self, tag: int | None = None) -> Element:
        """The next element, of the given tag if one is given."""
        start = self._at
        body = self._enter(tag)
        data, end = self._data, self._at
        return Element(data[start], data[body:end], data[start:end])

    def content(self, tag: int) -> bytes:
        """The content of the next element, which has this tag."""
        body = self._enter(tag)
        return self._data[body : self._at]

    def skip(self) -> None:
        """Step over the next element, whatever it is."""
        self._enter(None)

    @property
    def position(self) -> int:
        """How many bytes of the data lie behind."""
        return self._at

    def skip_attribute_other_than(self, number: int) -> bool:
        """Step over a RelativeDistinguishedName of one attribute 2.5.4.x, x not ``number``; else stay.

        Names are mostly made of these, so that most of a name need not be taken apart.
        """
        data, at = self._data, self._at
        head = data[at : at + 11]
        if len(head) < 11 or head[0] != SET or head[2] != SEQUENCE or head[4:8] != b"\x06\x03\x55\x04":
            return False
        end = at + 2 + head[1]
        if head[1] != head[3] + 2 or head[3] != head[10] + 7 or head[1] >= 0x80 or end > self._end:
            return False
        if head[8] == number or head[8] & 0x80 or head[9] & 0x1F == 0x1F:
            return False
        self._at = end
        return True

    def rest(self) -> bytes:
        """All bytes that are left."""
        start, self._at = self._at, self._end
        return self._data[start : self._end]

    def inside(self, tag: int = SEQUENCE) -> "Reader":
        """A reader of the content of the next element."""
        body = self._enter(tag)
        return Reader(self._data, body, self._at)

    def each(self) -> Iterator[Element]:
        """All elements that are left."""
        while self.more:
            yield self.element()

    def _enter(self, tag: int | None) -> int:
        """Step over the next element; where its content starts. Its end is where the reader then stands."""
        data, start, limit = self._data, self._at, self._end
        if limit - start < 2:
            raise DerError("truncated element")
        found, length, body = data[start], data[start + 1], start + 2
        if found != tag:
            if found & 0x1F == 0x1F:
                raise DerError("tag of more than one byte")
            if tag is not None:
                raise DerError(f"expected tag 0x{tag:02x}, found 0x{found:02x}")
        if length >= 0x80:
            size = length & 0x7F
            if not 1 <= size <= 3 or limit - body < size:
                raise DerError("length is not definite, too long, or truncated")
            length = int.from_bytes(data[body : body + size], "big")
            body += size
            if length < 0x80 or length >> (8 * (size - 1)) == 0:
                raise DerError("length is not minimal")
        end = body + length
        if end > limit:
            raise DerError("truncated content")
        self._at = end
        return body

    def integer(self) -> int:
        """An INTEGER in its shortest form."""
        content = self.content(INTEGER)
        if not 1 <= len(content) <= _MAX_INTEGER:
            raise DerError("INTEGER is empty or too long")
        if len(content) > 1 and (content[0], content[1] >> 7) in ((0, 0), (0xFF, 1)):
            raise DerError("INTEGER is not minimal")
        return int.from_bytes(content, "big", signed=True)

    def boolean(self) -> bool:
        """A BOOLEAN, which DER writes as 00 or FF."""
        content = self.content(BOOLEAN)
        if content not in (b"\x00", b"\xff"):
            raise DerError("BOOLEAN is neither 00 nor FF")
        return content == b"\xff"

    def octets(self) -> bytes:
        """The content of an OCTET STRING."""
        return self.content(OCTET_STRING)

    def bits(self) -> bytes:
        """The content of a BIT STRING of whole bytes."""
        content = self.content(BIT_STRING)
        if not content or content[0] != 0:
            raise DerError("BIT STRING is not of whole bytes")
        return content[1:]

    def oid(self) -> str:
        """An OBJECT IDENTIFIER in dotted form."""
        content = self.content(OID)
        if content in _OFTEN:
            return _OFTEN[content]
        if not 1 <= len(content) <= 64 or content[-1] & 0x80:
            raise DerError("OBJECT IDENTIFIER is empty, too long, or truncated")
        arcs: list[int] = []
        value, fresh = 0, True
        for byte in content:
            if fresh and byte == 0x80:
                raise DerError("OBJECT IDENTIFIER is not minimal")
            value, fresh = value << 7 | byte & 0x7F, False
            if not byte & 0x80:
                arcs.append(value)
                value, fresh = 0, True
        first = min(arcs[0] // 40, 2)
        return ".".join(str(arc) for arc in (first, arcs[0] - 40 * first, *arcs[1:]))

    def time(self) -> datetime:
        """A UTCTime or GeneralizedTime in the one form of each that RFC 5280 §4.1.2.5 allows."""
        element = self.element()
        text = element.content
        digits = {UTC_TIME: 12, GENERALIZED_TIME: 14}.get(element.tag)
        if digits is None or len(text) != digits + 1 or text[-1] != _ZULU:
            raise DerError("not a time in UTC seconds")
        if not text[:-1].isdigit():
            raise DerError("a time of other than digits")
        if element.tag == UTC_TIME:
            text = (b"19" if text[:2] >= b"50" else b"20") + text
        try:
            return datetime(
                int(text[:4]),
                int(text[4:6]),
                int(text[6:8]),
                int(text[8:10]),
                int(text[10:12]),
                int(text[12:14]),
                tzinfo=UTC,
            )
        except ValueError:
            raise DerError("no such time") from None
