"""HKDF (RFC 5869) over the SHA-2 family, in the two steps that HPKE and OHTTP take separately."""

import hmac
from hashlib import new

from .errors import HpkeError

HASH_SIZE = {name: new(name).digest_size for name in ("sha256", "sha384", "sha512")}

# The one-shot form: several times faster than an HMAC object, and it runs a dozen times a request.
_hmac = hmac.digest


def extract(hash_name: str, salt: bytes, ikm: bytes) -> bytes:
    """HKDF-Extract; an empty salt means zeros of the hash's size, which HMAC's key padding makes the same."""
    return _hmac(salt, ikm, hash_name)


def expand(hash_name: str, prk: bytes, info: bytes, length: int) -> bytes:
    """HKDF-Expand to ``length`` bytes; raises HpkeError beyond 255 blocks."""
    size = HASH_SIZE[hash_name]
    if 0 <= length <= size:  # as is every secret of HPKE and of Oblivious HTTP
        return _hmac(prk, info + b"\x01", hash_name)[:length]
    if not 0 <= length <= 255 * size:
        raise HpkeError("invalid_length", "HKDF gives at most 255 blocks of its hash")
    block = b""
    blocks: list[bytes] = []
    for counter in range(1, -(-length // size) + 1):
        block = _hmac(prk, block + info + bytes((counter,)), hash_name)
        blocks.append(block)
    return b"".join(blocks)[:length]
