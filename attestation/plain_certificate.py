"""A quick way through the one plain form of certificate and revocation list that P-256 chains nearly always have.

It takes only what it recognises as wholly well-formed: version 3, a positive serial number of 18 bytes or more,
ECDSA with SHA-256 in both places, names and times in their short forms, an uncompressed P-256 key, extensions
of which none occurs twice. Whatever is otherwise is left to the reader in ``certificate``, which says what is
wrong, or that nothing is. For what is taken here, both give the same.
"""

import re
from datetime import UTC, datetime
from typing import Final, NamedTuple

_ECDSA_SHA256: Final = bytes.fromhex("300a06082a8648ce3d040302")
_P256: Final = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")
_SERIAL: Final = rb"(\x12[\x01-\x7f].{17}|\x13[\x01-\x7f].{18}|\x14[\x01-\x7f].{19}|\x15\x00[\x80-\xff].{19})"

_HEAD: Final = re.compile(
    rb"\x30\x82(..)\x30\x82(..)\xa0\x03\x02\x01\x02\x02"
    + _SERIAL
    + re.escape(_ECDSA_SHA256)
    + rb"\x30([\x00-\x7f])",
    re.DOTALL,
)
_VALIDITY: Final = re.compile(rb"\x30\x1e\x17\x0d([0-9]{12})Z\x17\x0d([0-9]{12})Z\x30([\x00-\x7f])")
_KEY: Final = re.compile(
    rb"(" + re.escape(_P256) + rb"\x04.{64})"
    rb"(?:\xa3\x81([\x83-\xff])\x30\x81([\x80-\xff])|\xa3\x82([\x01-\xff].)\x30\x82([\x01-\xff].))",
    re.DOTALL,
)
_SIGNATURE: Final = re.compile(re.escape(_ECDSA_SHA256) + rb"\x03([\x01-\x7f])\x00", re.DOTALL)
_EXTENSION: Final = re.compile(
    # The whole, the OID: 2.5.29.x or Intel's, whether it is critical, the value.
    rb"\x30(?:([\x00-\x7f])|\x82([\x01-\xff].))"
    rb"(?:\x06\x03\x55\x1d([\x0e\x0f\x13\x14\x1f\x23])|\x06\x09\x2a\x86\x48\x86\xf8\x4d\x01\x0d\x01)(\x01\x01[\x00\xff])?"
    rb"\x04(?:([\x00-\x7f])|\x82([\x01-\xff].))",
    re.DOTALL,
)
_ATTRIBUTE: Final = re.compile(
    rb"\x31([\x00-\x7f])\x30([\x00-\x7f])\x06\x03\x55\x04([\x00-\x7f])[\x0c\x13\x16]([\x00-\x7f])", re.DOTALL
)
_LIST_HEAD: Final = re.compile(
    rb"\x30\x82([\x01-\xff].)\x30(?:\x82([\x01-\xff].)|\x81([\x80-\xff]))\x02\x01\x01"
    + re.escape(_ECDSA_SHA256)
    + rb"\x30([\x00-\x7f])",
    re.DOTALL,
)
_LIST_BODY: Final = re.compile(
    rb"\x17\x0d([0-9]{12})Z\x17\x0d([0-9]{12})Z"
    rb"(?:\x30(?:([\x00-\x7f])|\x81([\x80-\xff])|\x82([\x01-\xff].)))?",
    re.DOTALL,
)
_LIST_TAIL: Final = re.compile(rb"\xa0([\x02-\x7f])\x30([\x00-\x7f])")
_INTEL: Final = "1.2.840.113741.1.13.1"
_OIDS: Final = {bytes((number,)): f"2.5.29.{number}" for number in (14, 15, 19, 20, 31, 35)}
_COMMON_NAME: Final = b"\x03"


class PlainCertificate(NamedTuple):
    """The fields of a certificate; extensions as (OID, critical, value)."""

    signed: bytes
    serial: int
    algorithm: bytes
    issuer: bytes
    subject: bytes
    common_name: str
    not_before: datetime
    not_after: datetime
    key: bytes
    extensions: list[tuple[str, bool, bytes]]
    signature: bytes


class PlainRevocationList(NamedTuple):
    """The fields of a revocation list; nobody has looked into ``entries`` yet."""

    signed: bytes
    algorithm: bytes
    issuer: bytes
    this_update: datetime
    next_update: datetime
    entries: bytes
    signature: bytes


def read_plain(data: bytes) -> PlainCertificate | None:
    """The fields of a certificate in plain form, or None for one that must be read in full."""
    head = _HEAD.match(data)
    if head is None:
        return None
    whole, body, number, length = head.groups()
    end = 8 + int.from_bytes(body, "big")
    issued = head.end() + length[0]
    validity = _VALIDITY.match(data, issued)
    # A length of two bytes is written so only from 256 on.
    if validity is None or 4 + int.from_bytes(whole, "big") != len(data) or not whole[0] or not body[0]:
        return None
    first, last, length = validity.groups()
    named = validity.end() + length[0]
    subject = data[validity.end() - 2 : named]
    name = _common_name(subject)
    key = _KEY.match(data, named)
    tail = _SIGNATURE.match(data, end)
    if name is None or key is None or tail is None or tail.end() + tail[1][0] - 1 != len(data):
        return None
    spki, outer, inner, wide_outer, wide_inner = key.groups()
    start = key.end()
    size, wrapped = (inner[0], outer[0] - 3) if inner else (_number(wide_inner), _number(wide_outer) - 4)
    if size != wrapped or start + size != end:
        return None
    extensions = _extensions(data, start, end)
    if extensions is None:
        return None
    try:
        return PlainCertificate(
            signed=data[4:end],
            serial=int.from_bytes(number[1:], "big"),
            algorithm=_ECDSA_SHA256,
            issuer=data[head.end() - 2 : issued],
            subject=subject,
            common_name=name,
            not_before=_time(first),
            not_after=_time(last),
            key=spki,
            extensions=extensions,
            signature=data[tail.end() :],
        )
    except ValueError:
        return None


def read_plain_list(data: bytes) -> PlainRevocationList | None:
    """The fields of a revocation list in plain form, or None for one that must be read in full."""
    head = _LIST_HEAD.match(data)
    if head is None:
        return None
    whole, wide, body, length = head.groups()
    end = head.start(3) + 1 + body[0] if body else head.start(2) + 2 + _number(wide)
    issued = head.end() + length[0]
    times = _LIST_BODY.match(data, issued)
    signature = _SIGNATURE.match(data, end)
    if times is None or signature is None or 4 + _number(whole) != len(data):
        return None
    if signature.end() + signature[1][0] - 1 != len(data):
        return None
    first, last, *sizes = times.groups()
    start = times.end()
    listed = start + sum(_number(size) for size in sizes if size)
    tail = _LIST_TAIL.match(data, listed)
    if tail is None or tail[1][0] != tail[2][0] + 2 or tail.end() + tail[2][0] != end:
        return None
    extensions = _extensions(data, tail.end(), end)
    if extensions is None or any(critical for _, critical, _ in extensions):
        return None
    try:
        this_update, next_update = _time(first), _time(last)
    except ValueError:
        return None
    return PlainRevocationList(
        signed=data[4:end],
        algorithm=_ECDSA_SHA256,
        issuer=data[head.end() - 2 : issued],
        this_update=this_update,
        next_update=next_update,
        entries=data[start:listed],
        signature=data[signature.end() :],
    )


def _extensions(data: bytes, at: int, end: int) -> list[tuple[str, bool, bytes]] | None:
    found: list[tuple[str, bool, bytes]] = []
    seen = set()
    match = _EXTENSION.match
    while at < end:
        extension = match(data, at)
        if extension is None:
            return None
        size, wide_size, number, critical, length, wide_length = extension.groups()
        start = extension.end()
        stop = at + 2 + size[0] if size else at + 4 + _number(wide_size)
        if stop > end or start + (length[0] if length else _number(wide_length)) != stop or number in seen:
            return None
        seen.add(number)
        oid = _OIDS[number] if number else _INTEL
        found.append((oid, critical == b"\x01\x01\xff", data[start:stop]))
        at = stop
    return found


def _common_name(name: bytes) -> str | None:
    """The one common name in a name of single attributes, ASCII; None for a name of another form."""
    at, end, found = 2, len(name), None
    match = _ATTRIBUTE.match
    while at < end:
        attribute = match(name, at)
        if attribute is None:
            return None
        outer, inner, number, length = attribute.groups()
        size = length[0]
        start, at = attribute.end(), attribute.end() + size
        if outer[0] != size + 9 or inner[0] != size + 7:
            return None
        if number == _COMMON_NAME:
            if found is not None:
                return None
            found = name[start:at]
    return found.decode() if at == end and found is not None and found.isascii() else None


def _time(digits: bytes) -> datetime:
    year = int(digits[:2])
    return datetime(
        year + (1900 if year >= 50 else 2000),
        int(digits[2:4]),
        int(digits[4:6]),
        int(digits[6:8]),
        int(digits[8:10]),
        int(digits[10:12]),
        tzinfo=UTC,
    )


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")
