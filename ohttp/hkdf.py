"""HKDF (RFC 5869) over the SHA-2 family, in the two steps that HPKE and OHTTP take separately.

Of HMAC's work on a short message half is the key's. A key that serves several messages, as a pseudorandom key does,
and the empty salt, which is the same for all, are therefore prepared once (``keyed``) and copied for each message.
"""

from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.hmac import HMAC

from .errors import HpkeError

_HASHES = {"sha256": SHA256(), "sha384": SHA384(), "sha512": SHA512()}
HASH_SIZE = {name: of.digest_size for name, of in _HASHES.items()}


def keyed(hash_name: str, key: bytes, begun: bytes = b"") -> HMAC:
    """HMAC under ``key``, of a message that starts with ``begun``. It is for ``digest``, as often as wanted."""
    mac = HMAC(key, _HASHES[hash_name])
    mac.update(begun)
    return mac


def digest(mac: HMAC, rest: bytes) -> bytes:
    """HMAC of the message that goes on with ``rest``; ``mac`` stays as it is."""
    own = mac.copy()
    own.update(rest)
    return own.finalize()


def extract(hash_name: str, salt: bytes, ikm: bytes) -> bytes:
    """HKDF-Extract; an empty salt means zeros of the hash's size, which HMAC's key padding makes the same."""
    mac = HMAC(salt, _HASHES[hash_name])
    mac.update(ikm)
    return mac.finalize()


def expand(hash_name: str, prk: bytes, info: bytes, length: int) -> bytes:
    """HKDF-Expand to ``length`` bytes; raises HpkeError beyond 255 blocks."""
    size = HASH_SIZE[hash_name]
    if 0 <= length <= size:  # as is every secret of HPKE and of Oblivious HTTP
        mac = HMAC(prk, _HASHES[hash_name])
        mac.update(info + b"\x01")
        return mac.finalize()[:length]
    if not 0 <= length <= 255 * size:
        raise HpkeError("invalid_length", "HKDF gives at most 255 blocks of its hash")
    prepared = keyed(hash_name, prk)
    block = b""
    blocks: list[bytes] = []
    for counter in range(1, -(-length // size) + 1):
        block = digest(prepared, block + info + bytes((counter,)))
        blocks.append(block)
    return b"".join(blocks)[:length]
