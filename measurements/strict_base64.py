"""Standard base64 (RFC 4648 §4) with exactly one spelling of every value.

Python's decoder skips foreign characters and ignores the unused bits before the padding. Both would let a
signature line change without its signature failing, so a value is accepted only if it encodes back to itself.
"""

import base64
import binascii


def encode(data: bytes) -> str:
    """Padded standard base64."""
    return base64.b64encode(data).decode("ascii")


def decode(text: str) -> bytes:
    """The bytes of canonical, padded standard base64. Raises ValueError for anything else."""
    try:
        raw = text.encode("ascii")
        data = binascii.a2b_base64(raw, strict_mode=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise ValueError("not standard base64") from error
    if base64.b64encode(data) != raw:
        raise ValueError("base64 is not canonical")
    return data
