"""An issuer's public key for token type 2 (RFC 9578 section 6.5): 2048 bits, in one form only.

The form is a SubjectPublicKeyInfo that names RSASSA-PSS with SHA-384, MGF1 over SHA-384 and a 48-byte salt. DER has
one encoding of it, so a key is read by writing it again and comparing: two texts of one key would be two key ids, and
a key id of its own would mark a client.
"""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from .blind_rsa import PublicKey
from .errors import TokenError

MODULUS_BITS = 2048
SIGNATURE_BYTES = MODULUS_BITS // 8
KEY_ID_BYTES = 32
MAX_SPKI = 512

_ALGORITHM = bytes.fromhex(
    "303d06092a864886f70d01010a3030a00d300b0609608648016503040202"
    "a11a301806092a864886f70d010108300b0609608648016503040202a203020130"
)


@dataclass(frozen=True)
class TokenKey:
    """A key that signs tokens. ``spki`` is its DER form, ``key_id`` the SHA-256 of that."""

    public: PublicKey
    spki: bytes = field(repr=False)

    @cached_property
    def key_id(self) -> bytes:
        """32 bytes; it stands in every token that the key signed."""
        return hashlib.sha256(self.spki).digest()

    @property
    def truncated_key_id(self) -> int:
        """The last byte of ``key_id``: all that a token request says about the key, so that it marks nobody."""
        return self.key_id[-1]

    @classmethod
    def of(cls, public: PublicKey) -> "TokenKey":
        """Raises TokenError (``unsupported``) for another size than 2048 bits."""
        if public.n.bit_length() != MODULUS_BITS:
            raise TokenError("unsupported", "token type 2 has keys of 2048 bits")
        numbers = _sequence(_integer(public.n) + _integer(public.e))
        bits = b"\x03" + _length(len(numbers) + 1) + b"\0" + numbers
        return cls(public, _sequence(_ALGORITHM + bits))

    @classmethod
    def parse(cls, spki: bytes) -> "TokenKey":
        """Raises TokenError (``malformed``, ``unsupported``) for everything but the one form of a fit key."""
        if len(spki) > MAX_SPKI:
            raise TokenError("too_large", f"a token key has at most {MAX_SPKI} bytes")
        try:
            loaded = serialization.load_der_public_key(spki)
        except (ValueError, UnsupportedAlgorithm):
            raise TokenError("malformed", "not a SubjectPublicKeyInfo") from None
        if not isinstance(loaded, rsa.RSAPublicKey):
            raise TokenError("unsupported", "not an RSA key")
        numbers = loaded.public_numbers()
        key = cls.of(PublicKey(numbers.n, numbers.e))
        if key.spki != spki:
            raise TokenError("unsupported", "not the form that RFC 9578 gives a token key")
        return key


def _integer(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1)
    return b"\x02" + _length(len(data)) + data


def _sequence(content: bytes) -> bytes:
    return b"\x30" + _length(len(content)) + content


def _length(size: int) -> bytes:
    if size < 0x80:
        return size.to_bytes(1)
    octets = size.to_bytes(-(-size.bit_length() // 8))
    return (0x80 | len(octets)).to_bytes(1) + octets
