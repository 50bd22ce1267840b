"""Writing the DER that AMD's certificates are made of: the counterpart of ``attestation.der``.

A general certificate builder cannot write them, because a VCEK has serial number 0.
"""

from datetime import datetime
from typing import Final

from attestation import der

PSS_SHA384: Final = bytes.fromhex(
    # RSASSA-PSS with SHA-384, MGF1 with SHA-384, salt 48, and the default trailer that AMD writes out
    "304606092a864886f70d01010a3039"
    "a00f300d06096086480165030402020500"
    "a11c301a06092a864886f70d010108300d06096086480165030402020500"
    "a203020130a303020101"
)
"""AlgorithmIdentifier of AMD's signatures."""


def element(tag: int, *content: bytes) -> bytes:
    """One element of these parts."""
    body = b"".join(content)
    if len(body) < 0x80:
        return bytes([tag, len(body)]) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body


def sequence(*content: bytes) -> bytes:
    """A SEQUENCE of these elements."""
    return element(der.SEQUENCE, *content)


def integer(value: int) -> bytes:
    """An INTEGER that is not negative."""
    return element(der.INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def oid(dotted: str) -> bytes:
    """An OBJECT IDENTIFIER."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    body = bytearray()
    for arc in (40 * first + second, *rest):
        septets = [arc & 0x7F]
        while arc := arc >> 7:
            septets.append(arc & 0x7F | 0x80)
        body += bytes(reversed(septets))
    return element(der.OID, bytes(body))


def bit_string(data: bytes) -> bytes:
    """A BIT STRING of whole bytes."""
    return element(der.BIT_STRING, b"\0", data)


def octet_string(data: bytes) -> bytes:
    """An OCTET STRING."""
    return element(der.OCTET_STRING, data)


def boolean(value: bool) -> bytes:
    """A BOOLEAN."""
    return element(der.BOOLEAN, b"\xff" if value else b"\0")


def text(value: str, tag: int = der.PRINTABLE_STRING) -> bytes:
    """A string of ASCII characters."""
    return element(tag, value.encode("ascii"))


def time(value: datetime) -> bytes:
    """A UTCTime until 2049 and a GeneralizedTime from then on (RFC 5280 §4.1.2.5)."""
    if value.year < 2050:
        return element(der.UTC_TIME, f"{value:%y%m%d%H%M%SZ}".encode("ascii"))
    return element(der.GENERALIZED_TIME, f"{value:%Y%m%d%H%M%SZ}".encode("ascii"))


def explicit(number: int, *content: bytes) -> bytes:
    """Elements under the context tag ``[number]``."""
    return element(der.context(number), *content)
