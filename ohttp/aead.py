"""The AEADs of HPKE (RFC 9180 section 7.3) under a counted nonce.

HPKE contexts and chunked OHTTP responses number their messages the same way: the base nonce is XORed with a
counter. One class does it for both, so that the rule "never twice the same nonce" stands in one place.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from .errors import HpkeError

AES_128_GCM = 0x0001
AES_256_GCM = 0x0002
CHACHA20_POLY1305 = 0x0003
EXPORT_ONLY = 0xFFFF

KEY_SIZE = {AES_128_GCM: 16, AES_256_GCM: 32, CHACHA20_POLY1305: 32}
"""Nk, bytes, of every AEAD that can seal."""
NONCE_SIZE = 12
"""Nn, bytes, the same for all of them."""
TAG_SIZE = 16
"""Nt, bytes, the same for all of them."""

LAST_SEQUENCE = (1 << (8 * NONCE_SIZE)) - 1
"""Refused as a sequence number: after it the nonce would wrap (RFC 9180 section 5.2)."""


class SequencedAead:
    """One direction of messages under one key: the n-th seal or open uses ``base_nonce`` XOR n.

    Use an instance for sealing or for opening, never for both.
    """

    __slots__ = ("_base_nonce", "_decrypt", "_encrypt", "_sequence")

    def __init__(self, aead_id: int, key: bytes, base_nonce: bytes) -> None:
        if aead_id not in KEY_SIZE or len(key) != KEY_SIZE[aead_id] or len(base_nonce) != NONCE_SIZE:
            raise HpkeError("unsupported_suite", "no AEAD with this identifier and key size")
        cipher = ChaCha20Poly1305(key) if aead_id == CHACHA20_POLY1305 else AESGCM(key)
        self._encrypt = cipher.encrypt
        self._decrypt = cipher.decrypt
        self._base_nonce = int.from_bytes(base_nonce)
        self._sequence = 0

    @property
    def sequence(self) -> int:
        """The number that the next message gets."""
        return self._sequence

    def seal(self, plaintext: bytes, aad: bytes = b"") -> bytes:
        """Ciphertext with its tag. Raises HpkeError ``sequence_exhausted`` before a nonce could repeat."""
        sequence = self._sequence
        if sequence >= LAST_SEQUENCE:
            raise _exhausted()
        try:
            ciphertext = self._encrypt((self._base_nonce ^ sequence).to_bytes(NONCE_SIZE), plaintext, aad)
        except OverflowError:
            raise HpkeError("invalid_length", "a message is limited to 2^31 - 1 bytes") from None
        self._sequence = sequence + 1
        return ciphertext

    def open(self, ciphertext: bytes | bytearray, aad: bytes = b"") -> bytes:
        """Plaintext. Raises HpkeError ``decrypt``, and then expects the same number again."""
        sequence = self._sequence
        if sequence >= LAST_SEQUENCE:
            raise _exhausted()
        try:
            plaintext = self._decrypt((self._base_nonce ^ sequence).to_bytes(NONCE_SIZE), ciphertext, aad)
        except (InvalidTag, OverflowError):
            raise HpkeError("decrypt", "the message does not authenticate") from None
        self._sequence = sequence + 1
        return plaintext


def _exhausted() -> HpkeError:
    return HpkeError("sequence_exhausted", "this key has sealed as many messages as its nonce can number")
