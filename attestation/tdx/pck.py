"""What a PCK certificate says of the platform whose quoting enclave it certifies (Intel, "PCK Certificate and CRL").

The extension 1.2.840.113741.1.13.1 is a sequence of (OID, value) pairs under its own arc.
"""

import re
from typing import Final, NamedTuple

from .. import der
from ..certificate import Certificate
from ..errors import EndorsementMismatch

OID_SGX_EXTENSIONS: Final = "1.2.840.113741.1.13.1"
_ARC: Final = bytes.fromhex("2a864886f84d010d01")
_ENUMERATED: Final = 0x0A
_LEVEL_OID: Final = b"\x06\x0b" + _ARC + b"\x02\x00"
"""An OID of the part TCB in DER, its last arc left open."""

_COMPONENTS: Final = 16
_PCESVN: Final = 17
_CPUSVN: Final = 18
_PPID, _TCB, _PCEID, _FMSPC, _SGX_TYPE, _INSTANCE, _CONFIGURATION = range(1, 8)
_FLAGS: Final = {1: "dynamic_platform", 2: "cached_keys", 3: "smt"}


def _part(length: int, *arcs: int) -> bytes:
    """A pattern of the start of a part or level: SEQUENCE of ``length`` bytes, its OID."""
    size = bytes((length,)) if length < 0x80 else b"\x82" + length.to_bytes(2, "big")
    oid = _ARC + bytes(arcs)
    return re.escape(b"\x30" + size + bytes((der.OID, len(oid))) + oid)


_PLAIN_EXTENSION: Final = re.compile(
    rb"\x30\x82(\x02\x26|\x01\xc0)"
    + (_part(30, _PPID) + rb"\x04\x10(.{16})")
    + (_part(355, _TCB) + rb"\x30\x82\x01\x53")
    + b"".join(_part(16, _TCB, number) + rb"\x02\x01([\x00-\x7f])" for number in range(1, _PCESVN + 1))
    + (_part(31, _TCB, _CPUSVN) + rb"\x04\x10(.{16})")
    + (_part(16, _PCEID) + rb"\x04\x02(..)")
    + (_part(20, _FMSPC) + rb"\x04\x06(.{6})")
    + (_part(15, _SGX_TYPE) + rb"\x0a\x01.")
    + (rb"(?:" + _part(30, _INSTANCE) + rb"\x04\x10.{16}" + _part(68, _CONFIGURATION) + rb"\x30\x36")
    + b"".join(_part(16, _CONFIGURATION, number) + rb"\x01\x01([\x00\xff])" for number in sorted(_FLAGS))
    + rb")?",
    re.DOTALL,
)
"""The extension as it nearly always is: all parts in order, and no number above 127."""


class PckPlatform(NamedTuple):
    """A platform: its kind (``fmspc``), its own number (``ppid``) and the levels that its keys certify.

    ``components`` are 16 security version numbers. ``configuration`` names the flags that are set, None where
    the certificate does not say (as a Processor CA's do not).
    """

    ppid: bytes
    components: bytes
    pcesvn: int
    cpusvn: bytes
    pceid: bytes
    fmspc: bytes
    configuration: frozenset[str] | None


def read_platform(certificate: Certificate) -> PckPlatform:
    """Read the extension. Raises EndorsementMismatch (``pck_extension_malformed``)."""
    for extension in certificate.extensions:
        if extension.oid == OID_SGX_EXTENSIONS:
            plain = _PLAIN_EXTENSION.fullmatch(extension.value)
            if plain is not None and int.from_bytes(plain[1], "big") + 4 == len(extension.value):
                return _read_plain(*plain.groups())
            try:
                return _read(extension.value)
            except der.DerError as error:
                raise _malformed(error.detail) from None
    raise _malformed("the extension is missing")


def _read_plain(_: bytes, ppid: bytes, *rest: bytes) -> PckPlatform:
    components, (pcesvn, cpusvn, pceid, fmspc, *flags) = rest[:_COMPONENTS], rest[_COMPONENTS:]
    configuration = None
    if flags[0] is not None:
        configuration = frozenset(_FLAGS[number] for number in _FLAGS if flags[number - 1] == b"\xff")
    return PckPlatform(
        ppid=ppid,
        components=b"".join(components),
        pcesvn=pcesvn[0],
        cpusvn=cpusvn,
        pceid=pceid,
        fmspc=fmspc,
        configuration=configuration,
    )


def _read(value: bytes) -> PckPlatform:
    outer = der.Reader(value)
    parts = _pairs(outer.inside(), _ARC)
    outer.end()
    for number in (_PPID, _TCB, _PCEID, _FMSPC, _SGX_TYPE):
        if number not in parts:
            raise _malformed(f"part {number} is missing")
    if parts[_TCB].tag != der.SEQUENCE:
        raise _malformed("the levels are no SEQUENCE")
    levels = _levels(parts[_TCB].content)
    components = [_number(levels.get(index), 255) for index in range(1, _COMPONENTS + 1)]
    if parts[_SGX_TYPE].tag != _ENUMERATED:
        raise _malformed("the SGX type is no ENUMERATED")
    return PckPlatform(
        ppid=_octets(parts[_PPID], 16),
        components=bytes(components),
        pcesvn=_number(levels.get(_PCESVN), 0xFFFF),
        cpusvn=_octets(_read_element(levels.get(_CPUSVN)), 16),
        pceid=_octets(parts[_PCEID], 2),
        fmspc=_octets(parts[_FMSPC], 6),
        configuration=_configuration(parts[_CONFIGURATION]) if _CONFIGURATION in parts else None,
    )


def _configuration(element: der.Element) -> frozenset[str]:
    names = set()
    for number, value in _pairs(_sequence(element), _ARC + bytes((_CONFIGURATION,))).items():
        if value.tag != der.BOOLEAN or value.content not in (b"\x00", b"\xff"):
            raise _malformed(f"configuration {number} is no BOOLEAN")
        if value.content == b"\xff":
            names.add(_FLAGS.get(number, f"flag_{number}"))
    return frozenset(names)


def _pairs(sequence: der.Reader, arc: bytes) -> dict[int, der.Element]:
    found: dict[int, der.Element] = {}
    while sequence.more:
        pair = sequence.inside()
        oid = pair.content(der.OID)
        value = pair.element()
        pair.end()
        if len(oid) != len(arc) + 1 or not oid.startswith(arc) or oid[-1] & 0x80:
            raise _malformed("a part from elsewhere")
        if oid[-1] in found:
            raise _malformed(f"part {oid[-1]} occurs twice")
        found[oid[-1]] = value
    return found


def _sequence(element: der.Element) -> der.Reader:
    return der.Reader(element.raw).inside()


def _levels(content: bytes) -> dict[int, bytes]:
    """The elements of the part TCB by number; each is SEQUENCE {OID, value} of less than 128 bytes."""
    found: dict[int, bytes] = {}
    at, end = 0, len(content)
    while at < end:
        value = at + 2 + len(_LEVEL_OID)
        stop = at + 2 + content[at + 1] if end - at > 1 else end + 1
        if content[at] != der.SEQUENCE or content[at + 1 : at + 2] >= b"\x80" or stop > end or value >= stop:
            raise _malformed("a level is no short SEQUENCE")
        if content[at + 2 : value - 1] != _LEVEL_OID[:-1] or content[value - 1] & 0x80:
            raise _malformed("a level from elsewhere")
        number = content[value - 1]
        if number in found:
            raise _malformed(f"level {number} occurs twice")
        found[number] = content[value:stop]
        at = stop
    return found


def _number(data: bytes | None, highest: int) -> int:
    if data is None:
        raise _malformed("a level is missing")
    if len(data) == 3 and data[:2] == b"\x02\x01" and data[2] < 0x80:
        return data[2]
    reader = der.Reader(data)
    number = reader.integer()
    reader.end()
    if not 0 <= number <= highest:
        raise _malformed("a level is out of range")
    return number


def _read_element(data: bytes | None) -> der.Element | None:
    if data is None:
        return None
    reader = der.Reader(data)
    element = reader.element()
    reader.end()
    return element


def _octets(element: der.Element | None, length: int) -> bytes:
    if element is None or element.tag != der.OCTET_STRING or len(element.content) != length:
        raise _malformed(f"not an OCTET STRING of {length} bytes")
    return element.content


def _malformed(detail: str) -> EndorsementMismatch:
    return EndorsementMismatch(code="pck_extension_malformed", detail=detail)
