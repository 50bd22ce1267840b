"""Hybrid Public Key Encryption (RFC 9180): contexts that seal, open and export, in base and PSK mode.

Thin on purpose: the primitives are OpenSSL's, what is written here is the key schedule and the counting.
KEMs are in kem.py, AEADs in aead.py; the KDFs are HKDF with SHA-256, SHA-384 and SHA-512.
"""

from dataclasses import dataclass, field
from functools import lru_cache

from . import aead, hkdf
from .errors import HpkeError
from .kem import VERSION_LABEL, Ephemeral, Kem, PrivateKey, kem

HKDF_SHA256 = 0x0001
HKDF_SHA384 = 0x0002
HKDF_SHA512 = 0x0003

_KDF_HASH = {HKDF_SHA256: "sha256", HKDF_SHA384: "sha384", HKDF_SHA512: "sha512"}
_MODE_BASE = 0
_MODE_PSK = 1
_MIN_PSK_SIZE = 32
_CACHED_INFO_SIZE = 256


@dataclass(frozen=True, slots=True)
class Psk:
    """A pre-shared key and the name both sides know it by (RFC 9180 section 5.1.2).

    The secret needs at least 32 bytes (section 9.5), the name at least one; else HpkeError ``invalid_psk``.
    """

    secret: bytes = field(repr=False)
    identity: bytes

    def __post_init__(self) -> None:
        if len(self.secret) < _MIN_PSK_SIZE or not self.identity:
            raise HpkeError("invalid_psk", "a pre-shared key has at least 32 bytes, and a name")


class Context:
    """What both ends of an HPKE exchange hold; ``export`` gives secrets bound to it."""

    __slots__ = ("_aead", "_exporter_secret", "suite")

    def __init__(self, suite: "Suite", messages: aead.SequencedAead | None, exporter_secret: bytes) -> None:
        self.suite = suite
        self._aead = messages
        self._exporter_secret = exporter_secret

    def export(self, exporter_context: bytes, length: int) -> bytes:
        """A secret of ``length`` bytes for ``exporter_context`` (section 5.3)."""
        return self.suite.labeled_expand(self._exporter_secret, b"sec", exporter_context, length)

    def _messages(self) -> aead.SequencedAead:
        if self._aead is None:
            raise HpkeError("export_only", "this suite exports secrets and seals nothing")
        return self._aead


class SenderContext(Context):
    """The sender's end; ``enc`` goes to the recipient first."""

    __slots__ = ("enc",)

    enc: bytes

    def seal(self, plaintext: bytes, aad: bytes = b"") -> bytes:
        """The next ciphertext. Raises HpkeError ``sequence_exhausted``, before anything is sealed."""
        return self._messages().seal(plaintext, aad)


class RecipientContext(Context):
    """The recipient's end."""

    __slots__ = ()

    def open(self, ciphertext: bytes, aad: bytes = b"") -> bytes:
        """The next plaintext. Raises HpkeError ``decrypt`` and stays at the same message."""
        return self._messages().open(ciphertext, aad)


class Suite:
    """One combination of KEM, KDF and AEAD. Get it from ``suite``, which keeps one object for each."""

    __slots__ = ("_default_psk_id_hash", "_hash_name", "_id", "aead_id", "kdf_id", "kem", "kem_id")

    def __init__(self, kem_id: int, kdf_id: int, aead_id: int) -> None:
        self.kem: Kem = kem(kem_id)
        if kdf_id not in _KDF_HASH or (aead_id not in aead.KEY_SIZE and aead_id != aead.EXPORT_ONLY):
            raise HpkeError("unsupported_suite", "no suite with these identifiers here")
        self.kem_id = kem_id
        self.kdf_id = kdf_id
        self.aead_id = aead_id
        self._hash_name = _KDF_HASH[kdf_id]
        self._id = b"HPKE" + kem_id.to_bytes(2) + kdf_id.to_bytes(2) + aead_id.to_bytes(2)
        self._default_psk_id_hash = self.labeled_extract(b"", b"psk_id_hash", b"")

    def __repr__(self) -> str:
        return f"Suite(0x{self.kem_id:04x}, 0x{self.kdf_id:04x}, 0x{self.aead_id:04x})"

    @property
    def hash_name(self) -> str:
        """The KDF's hash, as hashlib names it."""
        return self._hash_name

    def setup_sender(
        self, public_key: bytes, info: bytes, *, psk: Psk | None = None, ephemeral: Ephemeral | None = None
    ) -> SenderContext:
        """A context towards the holder of ``public_key`` (serialised), bound to ``info``.

        Raises HpkeError: ``invalid_public_key``, or what ``Kem.encapsulate`` says of ``ephemeral``.
        """
        shared_secret, enc = self.kem.encapsulate(public_key, ephemeral)
        context = SenderContext(self, *self._schedule(shared_secret, info, psk))
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
        return RecipientContext(self, *self._schedule(private_key.decapsulate(enc), info, psk))

    def labeled_extract(self, salt: bytes, label: bytes, ikm: bytes) -> bytes:
        """LabeledExtract of section 4."""
        return hkdf.extract(self._hash_name, salt, VERSION_LABEL + self._id + label + ikm)

    def labeled_expand(self, prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
        """LabeledExpand of section 4; raises HpkeError ``invalid_length``."""
        if not 0 <= length <= 0xFFFF:
            raise HpkeError("invalid_length", "a derived secret is limited to 65,535 bytes")
        return hkdf.expand(
            self._hash_name, prk, length.to_bytes(2) + VERSION_LABEL + self._id + label + info, length
        )

    def _schedule(
        self, shared_secret: bytes, info: bytes, psk: Psk | None
    ) -> tuple[aead.SequencedAead | None, bytes]:
        """KeySchedule of section 5.1: the message key with its base nonce, and the exporter secret."""
        if psk is None:
            cached = len(info) <= _CACHED_INFO_SIZE
            context = _base_context(self, info) if cached else self._base_context(info)
            secret = self.labeled_extract(shared_secret, b"secret", b"")
        else:
            context = (
                bytes((_MODE_PSK,))
                + self.labeled_extract(b"", b"psk_id_hash", psk.identity)
                + self.labeled_extract(b"", b"info_hash", info)
            )
            secret = self.labeled_extract(shared_secret, b"secret", psk.secret)
        exporter_secret = self.labeled_expand(secret, b"exp", context, hkdf.HASH_SIZE[self._hash_name])
        if self.aead_id == aead.EXPORT_ONLY:
            return None, exporter_secret
        key = self.labeled_expand(secret, b"key", context, aead.KEY_SIZE[self.aead_id])
        base_nonce = self.labeled_expand(secret, b"base_nonce", context, aead.NONCE_SIZE)
        return aead.SequencedAead(self.aead_id, key, base_nonce), exporter_secret

    def _base_context(self, info: bytes) -> bytes:
        info_hash = self.labeled_extract(b"", b"info_hash", info)
        return bytes((_MODE_BASE,)) + self._default_psk_id_hash + info_hash


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


# In OHTTP ``info`` is a label and a public header: the same few for every request to one key, and no secret.
@lru_cache(maxsize=256)
def _base_context(of: Suite, info: bytes) -> bytes:
    return of._base_context(info)
