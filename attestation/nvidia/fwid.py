"""Firmware id in an NVIDIA attestation certificate: which firmware image the ROM issued the key to.

Two forms: the composite device id of TCG DICE (OID 2.23.133.5.4.1; Hopper and LS10) and DiceTcbInfo
(OID 2.23.133.5.4.1.1; Blackwell). Both carry ``FWID ::= SEQUENCE { hashAlg, digest }`` with SHA-384.
"""

from collections.abc import Iterable

from attestation import der
from attestation.certificate import Extension
from attestation.nvidia.errors import FirmwareError
from attestation.nvidia.opaque import FWID_BYTES

COMPOSITE_DEVICE_ID = "2.23.133.5.4.1"
DICE_TCB_INFO = "2.23.133.5.4.1.1"

_SHA384 = "2.16.840.1.101.3.4.2.2"
_TCB_INFO_FWIDS = der.context(6)


def certificate_fwid(extensions: Iterable[Extension]) -> bytes | None:
    """The firmware id (48 bytes) of an attestation certificate, or None where it names none.

    Raises `FirmwareError` (``fwid_malformed``) for any other content, or for both forms at once.
    """
    found: list[bytes] = []
    for extension in extensions:
        if extension.oid not in (COMPOSITE_DEVICE_ID, DICE_TCB_INFO):
            continue
        read = _composite_device_id if extension.oid == COMPOSITE_DEVICE_ID else _dice_tcb_info
        try:
            found.append(read(der.Reader(extension.value)))
        except der.DerError as error:
            raise _malformed(error.detail) from error
    if len(found) > 1:
        raise _malformed("two firmware id extensions")
    return found[0] if found else None


def _composite_device_id(data: der.Reader) -> bytes:
    members = data.inside()
    data.end()
    if members.integer() != 1:
        raise _malformed("version of the composite device id")
    members.element(der.SEQUENCE)  # the device identity key, which the chain itself vouches for
    fwid = _fwid(members.inside())
    members.end()
    return fwid


def _dice_tcb_info(data: der.Reader) -> bytes:
    members = list(data.inside().each())
    data.end()
    numbers = [member.tag & 0x1F for member in members]
    # The members are optional and numbered: rising numbers rule out a second list of firmware ids.
    if any(not member.tag & 0x80 for member in members) or numbers != sorted(set(numbers)):
        raise _malformed("members of the TCB information are out of order")
    lists = [member.content for member in members if member.tag == _TCB_INFO_FWIDS]
    if not lists:
        raise _malformed("TCB information without firmware ids")
    # The first is the firmware that holds the key; the second, where there is one, is all zero.
    return _fwid(der.Reader(lists[0]).inside())


def _fwid(members: der.Reader) -> bytes:
    if members.oid() != _SHA384:
        raise _malformed("firmware id is not a SHA-384 digest")
    digest = members.octets()
    members.end()
    if len(digest) != FWID_BYTES:
        raise _malformed(f"firmware id of {len(digest)} bytes")
    return digest


def _malformed(detail: str) -> FirmwareError:
    return FirmwareError(code="fwid_malformed", stage="gpu.fwid", detail=detail)
