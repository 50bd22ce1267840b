"""Firmware id in an NVIDIA attestation certificate: which firmware image the ROM issued the key to.

Two forms: the composite device id of TCG DICE (OID 2.23.133.5.4.1; Hopper and LS10) and DiceTcbInfo
(OID 2.23.133.5.4.1.1; Blackwell). Both carry ``FWID ::= SEQUENCE { hashAlg, digest }`` with SHA-384.
"""

from cryptography import x509

from attestation.nvidia.errors import FirmwareError
from attestation.nvidia.opaque import FWID_BYTES

COMPOSITE_DEVICE_ID = x509.ObjectIdentifier("2.23.133.5.4.1")
DICE_TCB_INFO = x509.ObjectIdentifier("2.23.133.5.4.1.1")

_INTEGER = 0x02
_OCTET_STRING = 0x04
_OBJECT_IDENTIFIER = 0x06
_SEQUENCE = 0x30
_TCB_INFO_FWIDS = 0xA6
_SHA384 = bytes.fromhex("608648016503040202")


def certificate_fwid(extensions: x509.Extensions) -> bytes | None:
    """The firmware id (48 bytes) of an attestation certificate, or None where it names none.

    Raises `FirmwareError` (``fwid_malformed``) for any other content, or for both forms at once.
    """
    found: list[bytes] = []
    for extension in extensions:
        if extension.oid == COMPOSITE_DEVICE_ID:
            found.append(_composite_device_id(_value(extension)))
        elif extension.oid == DICE_TCB_INFO:
            found.append(_dice_tcb_info(_value(extension)))
    if len(found) > 1:
        raise _malformed("two firmware id extensions")
    return found[0] if found else None


def _value(extension: x509.Extension[x509.ExtensionType]) -> bytes:
    if not isinstance(extension.value, x509.UnrecognizedExtension):
        raise _malformed("not an opaque extension")
    return extension.value.value


def _composite_device_id(data: bytes) -> bytes:
    parts = _elements(_only(data, _SEQUENCE))
    if [tag for tag, _ in parts] != [_INTEGER, _SEQUENCE, _SEQUENCE] or parts[0][1] != b"\x01":
        raise _malformed("not version, key and firmware id")
    return _fwid(parts[2][1])


def _dice_tcb_info(data: bytes) -> bytes:
    parts = _elements(_only(data, _SEQUENCE))
    numbers = [tag & 0x1F for tag, _ in parts]
    # The members are optional and numbered: rising numbers rule out a second list of firmware ids.
    if any(not tag & 0x80 for tag, _ in parts) or numbers != sorted(set(numbers)):
        raise _malformed("members of the TCB information are out of order")
    lists = [value for tag, value in parts if tag == _TCB_INFO_FWIDS]
    if not lists:
        raise _malformed("TCB information without firmware ids")
    ids = _elements(lists[0])
    if not ids or any(tag != _SEQUENCE for tag, _ in ids):
        raise _malformed("list of firmware ids")
    return _fwid(ids[0][1])


def _fwid(data: bytes) -> bytes:
    parts = _elements(data)
    if [tag for tag, _ in parts] != [_OBJECT_IDENTIFIER, _OCTET_STRING] or parts[0][1] != _SHA384:
        raise _malformed("firmware id is not a SHA-384 digest")
    digest = parts[1][1]
    if len(digest) != FWID_BYTES:
        raise _malformed(f"firmware id of {len(digest)} bytes")
    return digest


def _only(data: bytes, tag: int) -> bytes:
    elements = _elements(data)
    if len(elements) != 1 or elements[0][0] != tag:
        raise _malformed("one sequence expected")
    return elements[0][1]


def _elements(data: bytes) -> list[tuple[int, bytes]]:
    """The DER elements that fill ``data``: tag byte and content (one-byte tags, lengths below 65536)."""
    elements: list[tuple[int, bytes]] = []
    offset = 0
    while offset < len(data):
        tag = data[offset]
        if tag & 0x1F == 0x1F or offset + 2 > len(data):
            raise _malformed("DER header")
        length = data[offset + 1]
        offset += 2
        if length >= 0x80:
            octets = length - 0x80
            if octets not in (1, 2) or offset + octets > len(data):
                raise _malformed("DER length")
            length = int.from_bytes(data[offset : offset + octets], "big")
            if length < (0x80 if octets == 1 else 0x100):
                raise _malformed("DER length is not minimal")
            offset += octets
        if offset + length > len(data):
            raise _malformed("DER element runs past the end")
        elements.append((tag, data[offset : offset + length]))
        offset += length
    return elements


def _malformed(detail: str) -> FirmwareError:
    return FirmwareError(code="fwid_malformed", stage="gpu.fwid", detail=detail)
