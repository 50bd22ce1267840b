"""The certificate table that a host may put beside an extended SEV-SNP report (AMD 56421 §4.1.8.1).

Entries of GUID[16], u32 offset, u32 length, the last one all zero; offsets count from the table's start. The
host writes it, so it is a hint where to find certificates and nothing more: verification trusts none of it.
"""

from struct import Struct
from typing import Final
from uuid import UUID

from ..certificate import MAX_CERTIFICATE, MAX_REVOCATION_LIST
from ..errors import EvidenceMalformed

MAX_TABLE: Final = 512 * 1024
MAX_ENTRIES: Final = 32

_ENTRY: Final = Struct("<16sII")
_CODE: Final = "certificate_table_malformed"

_GUIDS: Final = {
    UUID("63da758d-e664-4564-adc5-f4b93be8accd"): "vcek",
    UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1"): "vlek",
    UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782"): "ask",
    UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae"): "ark",
    UUID("92f81bc3-5811-4d3d-97ff-d19f88dc67ea"): "crl",
}
# Hosts write a GUID's first fields in either byte order; no two of these names can be taken for one another.
_NAMES: Final = {form: name for guid, name in _GUIDS.items() for form in (guid.bytes, guid.bytes_le)}


def parse_certificate_table(data: bytes) -> dict[str, bytes]:
    """The entries with known names: ``vcek``, ``vlek``, ``ask``, ``ark``, ``crl``; no data gives none.

    Raises EvidenceMalformed (``certificate_table_malformed``): no end, an entry outside the table, a name
    twice, or an entry larger than any certificate.
    """
    if len(data) > MAX_TABLE:
        raise _malformed(f"more than {MAX_TABLE} bytes")
    if not any(data):
        return {}
    found: dict[str, bytes] = {}
    for number in range(MAX_ENTRIES + 1):
        at = number * _ENTRY.size
        if at + _ENTRY.size > len(data):
            raise _malformed("no entry that ends it")
        guid, offset, length = _ENTRY.unpack_from(data, at)
        if not any(guid):
            if offset or length:
                raise _malformed("the entry that ends it is not zero")
            return found
        if offset + length > len(data) or offset < _ENTRY.size:
            raise _malformed("an entry lies outside the table")
        name = _NAMES.get(guid)
        if name is None:
            continue
        if name in found:
            raise _malformed(f"two entries for {name}")
        if length > (MAX_REVOCATION_LIST if name == "crl" else MAX_CERTIFICATE):
            raise _malformed(f"the entry for {name} is too large")
        found[name] = bytes(data[offset : offset + length])
    raise _malformed(f"more than {MAX_ENTRIES} entries")


def collateral_of(table: dict[str, bytes], *, vlek: bool) -> dict[str, bytes]:
    """The table's certificates under a bundle's names, ``vek`` being the VLEK or the VCEK."""
    names = {"vek": "vlek" if vlek else "vcek", "ask": "ask", "ark": "ark", "crl": "crl"}
    return {ours: table[theirs] for ours, theirs in names.items() if theirs in table}


def _malformed(detail: str) -> EvidenceMalformed:
    return EvidenceMalformed(code=_CODE, detail=detail)
