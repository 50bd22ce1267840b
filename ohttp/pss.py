"""EMSA-PSS (RFC 8017 section 9.1.1) with SHA-384 for the hash and for MGF1: what is signed blindly.

Written out because a blind signature needs the encoding before and apart from the private operation; the check
of a finished signature is left to the cryptography library.
"""

from hashlib import sha384

from .errors import TokenError

HASH_BYTES = 48


def encode(message: bytes, bits: int, salt: bytes) -> bytes:
    """The encoded message of ``bits`` bits: at least 8 * (HASH_BYTES + len(salt)) + 9 of them.

    Raises TokenError (``invalid_input``) where they are fewer.
    """
    size = -(-bits // 8)
    filler = size - len(salt) - HASH_BYTES - 2
    if filler < 0:
        raise TokenError("invalid_input", "the modulus is too small for this salt")
    digest = sha384(bytes(8) + sha384(message).digest() + salt).digest()
    block = bytes(filler) + b"\x01" + salt
    masked = int.from_bytes(block) ^ int.from_bytes(mgf1(digest, len(block)))
    masked &= (1 << (8 * len(block) - (8 * size - bits))) - 1
    return masked.to_bytes(len(block)) + digest + b"\xbc"


def mgf1(seed: bytes, length: int) -> bytes:
    """``length`` bytes of mask (RFC 8017 appendix B.2.1)."""
    counters = range(-(-length // HASH_BYTES))
    return b"".join(sha384(seed + counter.to_bytes(4)).digest() for counter in counters)[:length]
