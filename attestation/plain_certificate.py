"""A quick way through the plain forms of certificate and revocation list that vendors' chains nearly always have.

It takes only what it recognises as wholly well-formed: version 3, a positive serial number of 8 to 21 bytes,
ECDSA with SHA-256 or SHA-384, the same in both places, names of single attributes, times in their usual forms,
an uncompressed key on P-256 or P-384, known extensions of which none occurs twice. Whatever is otherwise is left
to the reader in ``certificate``, which says what is wrong, or that nothing is. For what is taken here, both give
the same.
"""

import re
from datetime import UTC, datetime
from typing import Final, NamedTuple

_ECDSA_SHA256: Final = bytes.fromhex("300a06082a8648ce3d040302")
_ECDSA: Final = bytes.fromhex("300a06082a8648ce3d0403")
"""The AlgorithmIdentifier of ECDSA with a SHA-2 digest, its last arc left open: 2 is SHA-256, 3 SHA-384."""

_P256: Final = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
_P384: Final = bytes.fromhex("3076301006072a8648ce3d020106052b8104002203620004")


_HEAD: Final = re.compile(
    rb"\x30\x82(..)\x30\x82(..)\xa0\x03\x02\x01\x02\x02([\x08-\x15])(?:[\x01-\x7f]|\x00[\x80-\xff])",
    re.DOTALL,
)
_ISSUER: Final = re.compile(
    rb"(" + re.escape(_ECDSA) + rb"[\x02\x03])\x30(?:([\x00-\x7f])|\x81([\x80-\xff]))", re.DOTALL
)
_VALIDITY: Final = re.compile(
    rb"\x30([\x1e\x20\x22])(?:\x17\x0d([0-9]{12})|\x18\x0f([0-9]{14}))Z(?:\x17\x0d([0-9]{12})|\x18\x0f([0-9]{14}))Z"
    rb"\x30(?:([\x00-\x7f])|\x81([\x80-\xff]))"
)
_KEY: Final = re.compile(
    rb"(" + re.escape(_P256) + rb".{64}|" + re.escape(_P384) + rb".{96})"
    rb"(?:\xa3\x81([\x83-\xff])\x30\x81([\x80-\xff])|\xa3\x82([\x01-\xff].)\x30\x82([\x01-\xff].)"
    rb"|\xa3([\x02-\x7f])\x30([\x00-\x7d]))",
    re.DOTALL,
)
_SIGNATURE: Final = re.compile(rb"(" + re.escape(_ECDSA) + rb"[\x02\x03])\x03([\x01-\x7f])\x00", re.DOTALL)
_OIDS: Final = {
    **{bytes((0x55, 0x1D, number)): f"2.5.29.{number}" for number in (14, 15, 17, 19, 20, 31, 32, 35, 37)},
    bytes.fromhex("2a864886f84d010d01"): "1.2.840.113741.1.13.1",  # Intel's, of a PCK
    bytes.fromhex("678105050401"): "2.23.133.5.4.1",  # TCG DICE, the firmware's identity
    bytes.fromhex("2b06010505070101"): "1.3.6.1.5.5.7.1.1",
    bytes.fromhex("2b0601050507300105"): "1.3.6.1.5.5.7.48.1.5",
}
_EXTENSION: Final = re.compile(
    # The whole, the OID, whether it is critical, the value.
    rb"\x30(?:([\x00-\x7f])|\x82([\x01-\xff].)|\x81([\x80-\xff]))\x06("
    + b"|".join(re.escape(bytes((len(oid),)) + oid) for oid in _OIDS)
    + rb")(\x01\x01[\x00\xff])?"
    rb"\x04(?:([\x00-\x7f])|\x82([\x01-\xff].)|\x81([\x80-\xff]))",
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
    whole, body, count = head.groups()
    end = 8 + int.from_bytes(body, "big")
    numbered = head.end(3) + count[0]
    named = _ISSUER.match(data, numbered)
    if named is None:
        return None
    algorithm, length, wide = named.groups()
    issued = named.end() + (length or wide)[0]
    validity = _VALIDITY.match(data, issued)
    # A length of two bytes is written so only from 256 on.
    if validity is None or 4 + int.from_bytes(whole, "big") != len(data) or not whole[0] or not body[0]:
        return None
    times, first, long_first, last, long_last, short, long = validity.groups()
    if times[0] != 30 + (0 if first else 2) + (0 if last else 2):
        return None
    entitled = validity.end() + (short or long)[0]
    subject = data[validity.end() - (2 if short else 3) : entitled]
    name = _common_name(subject, 2 if short else 3)
    key = _KEY.match(data, entitled)
    tail = _SIGNATURE.match(data, end)
    if name is None or key is None or tail is None or tail.end() + tail[2][0] - 1 != len(data):
        return None
    spki, outer, inner, wide_outer, wide_inner, short_outer, short_inner = key.groups()
    start = key.end()
    if inner:
        size, wrapped = inner[0], outer[0] - 3
    elif wide_inner:
        size, wrapped = _number(wide_inner), _number(wide_outer) - 4
    else:
        size, wrapped = short_inner[0], short_outer[0] - 2
    if size != wrapped or start + size != end or tail[1] != algorithm:
        return None
    extensions = _extensions(data, start, end)
    if extensions is None:
        return None
    try:
        return PlainCertificate(
            signed=data[4:end],
            serial=_number(data[head.end(3) : numbered]),
            algorithm=algorithm,
            issuer=data[named.end() - (2 if length else 3) : issued],
            subject=subject,
            common_name=name,
            not_before=_time(first) if first else _long_time(long_first),
            not_after=_time(last) if last else _long_time(long_last),
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
    if signature.end() + signature[2][0] - 1 != len(data) or signature[1] != _ECDSA_SHA256:
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
        size, wide, long, number, critical, length, wide_length, long_length = extension.groups()
        start = extension.end()
        if size:
            stop = at + 2 + size[0]
        elif wide:
            stop = at + 4 + _number(wide)
        else:
            stop = at + 3 + long[0]
        if length:
            left = length[0]
        elif wide_length:
            left = _number(wide_length)
        else:
            left = long_length[0]
        if stop > end or start + left != stop or number in seen:
            return None
        seen.add(number)
        found.append((_OIDS[number[1:]], critical == b"\x01\x01\xff", data[start:stop]))
        at = stop
    return found


def _common_name(name: bytes, at: int) -> str | None:
    """The one common name in a name of single attributes from ``at`` on, ASCII; None for another form."""
    end, found = len(name), None
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


def _long_time(digits: bytes) -> datetime:
    return datetime(
        int(digits[:4]),
        int(digits[4:6]),
        int(digits[6:8]),
        int(digits[8:10]),
        int(digits[10:12]),
        int(digits[12:]),
        tzinfo=UTC,
    )


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")
