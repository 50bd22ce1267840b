"""A small strict reader of DER (ITU-T X.690 §10), for certificates that must be read without leniency.

It reads piece by piece, in the order of the ASN.1 definition; whoever reads calls ``end()`` where nothing may
follow. Only what AMD's certificates and revocation lists are made of is here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from .errors import CertificateMalformed

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
NULL: Final = 0x05
OID: Final = 0x06
UTF8_STRING: Final = 0x0C
PRINTABLE_STRING: Final = 0x13
IA5_STRING: Final = 0x16
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18
SEQUENCE: Final = 0x30
SET: Final = 0x31

_MAX_INTEGER: Final = 1024
"""Bytes of an INTEGER at most: twice an RSA-4096 modulus."""


class DerError(CertificateMalformed):
    """Bytes that are not the DER which was expected."""

    def __init__(self, detail: str) -> None:
        super().__init__(code="cert_malformed", detail=detail)


@dataclass(frozen=True, slots=True)
class Element:
    """One element: its tag byte, its content, and all of its bytes."""

    tag: int
    content: bytes
    raw: bytes


def context(number: int) -> int:
    """The tag of a constructed context-specific element ``[number]``, as EXPLICIT tagging makes it."""
    return 0xA0 | number


class Reader:
    """Reads elements one after the other. Every method raises DerError for what is not there."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def more(self) -> bool:
        """Whether anything is left."""
        return self._at < len(self._data)

    def end(self) -> None:
        """Nothing may be left."""
        if self.more:
            raise DerError("unexpected bytes at the end")

    def next_is(self, tag: int) -> bool:
        """Whether the next element has this tag."""
        return self.more and self._data[self._at] == tag

    def element(self, tag: int | None = None) -> Element:
        """The next element, of the given tag if one is given."""
        data, start = self._data, self._at
        if len(data) - start < 2:
            raise DerError("truncated element")
        found = data[start]
        if found & 0x1F == 0x1F:
            raise DerError("tag of more than one byte")
        if tag is not None and found != tag:
            raise DerError(f"expected tag 0x{tag:02x}, found 0x{found:02x}")
        length, body = data[start + 1], start + 2
        if length >= 0x80:
            size = length & 0x7F
            if not 1 <= size <= 3 or len(data) - body < size:
                raise DerError("length is not definite, too long, or truncated")
            length = int.from_bytes(data[body : body + size], "big")
            body += size
            if length < 0x80 or length >> (8 * (size - 1)) == 0:
                raise DerError("length is not minimal")
        if len(data) - body < length:
            raise DerError("truncated content")
        self._at = body + length
        return Element(found, data[body : self._at], data[start : self._at])

    def inside(self, tag: int = SEQUENCE) -> "Reader":
        """A reader of the content of the next element."""
        return Reader(self.element(tag).content)

    def each(self) -> Iterator[Element]:
        """All elements that are left."""
        while self.more:
            yield self.element()

    def integer(self) -> int:
        """An INTEGER in its shortest form."""
        content = self.element(INTEGER).content
        if not 1 <= len(content) <= _MAX_INTEGER:
            raise DerError("INTEGER is empty or too long")
        if len(content) > 1 and (content[0], content[1] >> 7) in ((0, 0), (0xFF, 1)):
            raise DerError("INTEGER is not minimal")
        return int.from_bytes(content, "big", signed=True)

    def boolean(self) -> bool:
        """A BOOLEAN, which DER writes as 00 or FF."""
        content = self.element(BOOLEAN).content
        if content not in (b"\x00", b"\xff"):
            raise DerError("BOOLEAN is neither 00 nor FF")
        return content == b"\xff"

    def octets(self) -> bytes:
        """The content of an OCTET STRING."""
        return self.element(OCTET_STRING).content

    def bits(self) -> bytes:
        """The content of a BIT STRING of whole bytes."""
        content = self.element(BIT_STRING).content
        if not content or content[0] != 0:
            raise DerError("BIT STRING is not of whole bytes")
        return content[1:]

    def oid(self) -> str:
        """An OBJECT IDENTIFIER in dotted form."""
        content = self.element(OID).content
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
        text = element.content.decode("ascii", "replace")
        digits = {UTC_TIME: 12, GENERALIZED_TIME: 14}.get(element.tag)
        if digits is None or len(text) != digits + 1 or text[-1] != "Z":
            raise DerError("not a time in UTC seconds")
        if not (text[:-1].isascii() and text[:-1].isdigit()):
            raise DerError("a time of other than digits")
        if element.tag == UTC_TIME:
            text = ("19" if text[:2] >= "50" else "20") + text
        try:
            return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
        except ValueError:
            raise DerError("no such time") from None
