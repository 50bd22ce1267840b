"""Hybrid Public Key Encryption (RFC 9180): contexts that seal, open and export, in base and PSK mode.

Thin on purpose: the primitives are OpenSSL's, what is written here is the key schedule and the counting.
KEMs are in kem.py, KDFs in key_schedule.py, AEADs in aead.py.
"""

from functools import lru_cache

from . import aead
from .errors import HpkeError
from .kem import Ephemeral, Kem, PrivateKey, kem
from .key_schedule import (
    HKDF_HASH,
    HKDF_SHA256,
    HKDF_SHA384,
    HKDF_SHA512,
    SHAKE128,
    SHAKE256,
    Psk,
    key_schedule,
)

__all__ = [
    "HKDF_HASH",
    "HKDF_SHA256",
    "HKDF_SHA384",
    "HKDF_SHA512",
    "SHAKE128",
    "SHAKE256",
    "Context",
    "Psk",
    "RecipientContext",
    "SenderContext",
    "Suite",
    "suite",
    "supports",
]


class Context:
    """What both ends of an HPKE exchange hold; ``export`` gives secrets bound to it."""

    __slots__ = ("_aead", "_exporter_secret", "suite")

    def __init__(self, suite: "Suite", messages: aead.SequencedAead | None, exporter_secret: bytes) -> None:
        self.suite = suite
        self._aead = messages
        self._exporter_secret = exporter_secret

    def export(self, exporter_context: bytes, length: int) -> bytes:
        """A secret of ``length`` bytes for ``exporter_context`` (section 5.3). HpkeError ``invalid_length``."""
        return self.suite.schedule.export(self._exporter_secret, exporter_context, length)


class SenderContext(Context):
    """The sender's end; ``enc`` goes to the recipient first."""

    __slots__ = ("enc",)

    enc: bytes

    def seal(self, plaintext: bytes, aad: bytes = b"") -> bytes:
        """The next ciphertext. Raises HpkeError ``sequence_exhausted``, before anything is sealed."""
        if self._aead is None:
            raise _export_only()
        return self._aead.seal(plaintext, aad)


class RecipientContext(Context):
    """The recipient's end."""

    __slots__ = ()

    def open(self, ciphertext: bytes | bytearray, aad: bytes = b"") -> bytes:
        """The next plaintext. Raises HpkeError ``decrypt`` and stays at the same message."""
        if self._aead is None:
            raise _export_only()
        return self._aead.open(ciphertext, aad)


def _export_only() -> HpkeError:
    return HpkeError("export_only", "this suite exports secrets and seals nothing")


class Suite:
    """One combination of KEM, KDF and AEAD. Get it from ``suite``, which keeps one object for each."""

    __slots__ = ("aead_id", "kdf_id", "kem", "kem_id", "schedule")

    def __init__(self, kem_id: int, kdf_id: int, aead_id: int) -> None:
        self.kem: Kem = kem(kem_id)
        if aead_id not in aead.KEY_SIZE and aead_id != aead.EXPORT_ONLY:
            raise HpkeError("unsupported_suite", "no AEAD with this identifier here")
        self.kem_id = kem_id
        self.kdf_id = kdf_id
        self.aead_id = aead_id
        seals = aead_id != aead.EXPORT_ONLY
        self.schedule = key_schedule(
            kdf_id,
            b"HPKE" + kem_id.to_bytes(2) + kdf_id.to_bytes(2) + aead_id.to_bytes(2),
            aead.KEY_SIZE[aead_id] if seals else 0,
            aead.NONCE_SIZE if seals else 0,
        )

    def __repr__(self) -> str:
        return f"Suite(0x{self.kem_id:04x}, 0x{self.kdf_id:04x}, 0x{self.aead_id:04x})"

    @property
    def hash_name(self) -> str:
        """The hash of a KDF of two stages, as hashlib names it; HpkeError ``unsupported_suite`` for SHAKE."""
        name = HKDF_HASH.get(self.kdf_id)
        if name is None:
            raise HpkeError("unsupported_suite", "this key derivation function does not extract and expand")
        return name

    def setup_sender(
        self, public_key: bytes, info: bytes, *, psk: Psk | None = None, ephemeral: Ephemeral | None = None
    ) -> SenderContext:
        """A context towards the holder of ``public_key`` (serialised), bound to ``info``.

        Raises HpkeError: ``invalid_public_key``, or what ``Kem.encapsulate`` says of ``ephemeral``.
        """
        shared_secret, enc = self.kem.encapsulate(public_key, ephemeral)
        context = SenderContext(self, *self._opened(shared_secret, info, psk))
        context.enc = enc
        return context

    def setup_recipient(
        self, enc: bytes, private_key: PrivateKey, info: bytes, *, psk: Psk | None = None
    ) -> RecipientContext:
        """The context that ``enc`` opens. Raises HpkeError ``wrong_kem`` or ``invalid_encapsulation``."""
        if private_key.kem_id != self.kem_id:
            raise HpkeError("wrong_kem", "the private key belongs to another mechanism")
        if len(enc) != self.kem.enc_size:
            raise HpkeError("invalid_encapsulation", "the encapsulated key has the wrong size")
        return RecipientContext(self, *self._opened(private_key.decapsulate(enc), info, psk))

    def _opened(
        self, shared_secret: bytes, info: bytes, psk: Psk | None
    ) -> tuple[aead.SequencedAead | None, bytes]:
        key, base_nonce, exporter_secret = self.schedule.secrets(shared_secret, info, psk)
        if self.aead_id == aead.EXPORT_ONLY:
            return None, exporter_secret
        return aead.SequencedAead(self.aead_id, key, base_nonce), exporter_secret


@lru_cache(maxsize=64)
def suite(kem_id: int, kdf_id: int, aead_id: int) -> Suite:
    """The suite with these identifiers. Raises HpkeError ``unsupported_kem`` or ``unsupported_suite``."""
    return Suite(kem_id, kdf_id, aead_id)


def supports(kem_id: int, kdf_id: int, aead_id: int) -> bool:
    """Whether ``suite`` knows this combination and it can seal."""
    try:
        return suite(kem_id, kdf_id, aead_id).aead_id != aead.EXPORT_ONLY
    except HpkeError:
        return False
