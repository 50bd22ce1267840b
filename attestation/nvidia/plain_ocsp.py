"""A quick way through the one plain form of OCSP response: one good answer, no extensions, one certificate or none.

It takes only what it recognises as wholly well-formed DER; whatever is otherwise is left to the reader in
``ocsp_response``, which says what is wrong, or that nothing is. For what is taken here, both give the same.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final, NamedTuple

_DIGESTS: Final = {
    "1.3.14.3.2.26": (bytes.fromhex("06052b0e03021a"), 20),
    "2.16.840.1.101.3.4.2.1": (bytes.fromhex("0609608648016503040201"), 32),
    "2.16.840.1.101.3.4.2.2": (bytes.fromhex("0609608648016503040202"), 48),
    "2.16.840.1.101.3.4.2.3": (bytes.fromhex("0609608648016503040203"), 64),
}
_BY_OID: Final = {oid: (name, length) for name, (oid, length) in _DIGESTS.items()}


def _identity(oid: bytes, length: int) -> bytes:
    """The start of a certificate id: digest, hash of the issuer's name and hash of its key."""
    size = re.escape(bytes((length,)))
    forms = (bytes((0x30, len(oid))) + oid, bytes((0x30, len(oid) + 2)) + oid + b"\x05\x00")
    algorithm = b"|".join(map(re.escape, forms))
    return rb"(?:%s)\x04%s.{%d}\x04%s.{%d}" % (algorithm, size, length, size, length)


def _serials() -> Iterator[bytes]:
    """Patterns of positive INTEGERs of 8 to 20 bytes in their shortest form; the first byte is the length."""
    for length in range(20, 7, -1):
        yield rb"%s[\x01-\x7f].{%d}" % (re.escape(bytes((length,))), length - 1)
        yield rb"%s\x00[\x80-\xff].{%d}" % (re.escape(bytes((length + 1,))), length - 1)


_LENGTH: Final = rb"(?:([\x00-\x7f])|\x81([\x80-\xff])|\x82([\x01-\xff].))"
_HEAD: Final = re.compile(
    rb"\x30\x82(..)\x0a\x01\x00\xa0\x82(..)\x30\x82(..)\x06\x09\x2b\x06\x01\x05\x05\x07\x30\x01\x01"
    rb"\x04\x82(..)\x30\x82(..)\x30" + _LENGTH + rb"\xa2\x16\x04\x14(.{20})"
    rb"\x18\x0f([0-9]{14})Z\x30" + _LENGTH + rb"\x30" + _LENGTH + rb"\x30" + _LENGTH,
    re.DOTALL,
)
_WRAPPERS: Final = (1, 2, 3, 4, 5)
_SIGNED, _KEY_HASH, _PRODUCED, _RESPONSES, _ONE, _ID = 6, 9, 10, 11, 14, 17
"""Groups of it; a length takes three."""

_SINGLE: Final = re.compile(
    rb"("
    + b"|".join(_identity(oid, length) for oid, length in _DIGESTS.values())
    + rb")\x02("
    + b"|".join(_serials())
    + rb")\x80\x00\x18\x0f([0-9]{14})Z(?:\xa0\x11\x18\x0f([0-9]{14})Z)?",
    re.DOTALL,
)
_TAIL: Final = re.compile(
    rb"(\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03[\x02\x03])\x03([\x02-\x7f])\x00",
    re.DOTALL,
)
_CERTIFICATES: Final = re.compile(
    rb"\xa0\x82([\x01-\xff].)\x30\x82([\x01-\xff].)(?=\x30\x82([\x01-\xff].))", re.DOTALL
)


class PlainResponse(NamedTuple):
    """The fields of a response that says "good" of one certificate. ``certificate`` is the responder's, in DER."""

    signed: bytes
    algorithm: bytes
    signature: bytes
    responder_key_hash: bytes
    digest: str
    name_hash: bytes
    key_hash: bytes
    serial: int
    this_update: datetime
    next_update: datetime | None
    certificate: bytes | None


def read_plain_response(data: bytes) -> PlainResponse | None:
    """The fields of a response in plain form, or None for one that must be read in full."""
    head = _HEAD.match(data)
    if head is None:
        return None
    for wrapper in _WRAPPERS:
        size = _number(head[wrapper])
        # Each ends where the whole does; a length of two bytes is written so only from 256 on.
        if size < 256 or head.end(wrapper) + size != len(data):
            return None
    signed_at, signed_end = head.end(_WRAPPERS[-1]), _end(head, _SIGNED)
    if not signed_end == _end(head, _RESPONSES) == _end(head, _ONE):
        return None
    single, tail = _SINGLE.match(data, head.end()), _TAIL.match(data, signed_end)
    if single is None or tail is None or single.end() != signed_end or single.end(2) != _end(head, _ID):
        return None
    end = tail.end() + tail[2][0] - 1
    certificate = None
    if end != len(data):
        carried = _CERTIFICATES.match(data, end)
        if carried is None:
            return None
        certificate = data[carried.end() :]
        left = len(certificate)
        if [_number(size) for size in carried.groups()] != [left + 4, left, left - 4] or left < 260:
            return None
    identity = single[1]
    # The digest's OID is an element inside the first element; its length is in its second byte.
    digest, length = _BY_OID[identity[2 : 4 + identity[3]]]
    try:
        _time(head[_PRODUCED])
        this_update = _time(single[3])
        next_update = _time(single[4]) if single[4] else None
    except ValueError:
        return None
    return PlainResponse(
        signed=data[signed_at:signed_end],
        algorithm=tail[1],
        signature=data[tail.end() : end],
        responder_key_hash=head[_KEY_HASH],
        digest=digest,
        name_hash=identity[-2 * length - 2 : -length - 2],
        key_hash=identity[-length:],
        serial=_number(single[2][1:]),
        this_update=this_update,
        next_update=next_update,
        certificate=certificate,
    )


def _end(match: re.Match[bytes], length: int) -> int:
    """Where the content ends whose length is in one of three groups from ``length`` on."""
    for group in range(length, length + 3):
        if match[group] is not None:
            size = _number(match[group])
            # In the long form of two bytes, the first is not zero: the pattern sees to it.
            return match.end(group) + size
    raise AssertionError  # the pattern needs one of them


def _time(digits: bytes) -> datetime:
    year, month, day = int(digits[:4]), int(digits[4:6]), int(digits[6:8])
    return datetime(year, month, day, int(digits[8:10]), int(digits[10:12]), int(digits[12:]), tzinfo=UTC)


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")
