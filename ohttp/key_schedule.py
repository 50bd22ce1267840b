"""HPKE's key schedules: HKDF in two stages (RFC 9180 section 5.1), SHAKE in one (draft-ietf-hpke-hpke section 5.1).

Both turn a shared secret, the application's ``info`` and an optional pre-shared key into a message key with its
base nonce and a secret to export from. What depends on neither secret is computed once and kept.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

from . import hkdf
from .errors import HpkeError
from .kem_interface import VERSION_LABEL

HKDF_SHA256 = 0x0001
HKDF_SHA384 = 0x0002
HKDF_SHA512 = 0x0003
SHAKE128 = 0x0010
SHAKE256 = 0x0011

HKDF_HASH = {HKDF_SHA256: "sha256", HKDF_SHA384: "sha384", HKDF_SHA512: "sha512"}
"""hashlib's name of the hash, for the KDFs of two stages."""

_MODE_BASE = b"\x00"
_MODE_PSK = b"\x01"
_MIN_PSK_SIZE = 32
_MAX_LENGTH = 0xFFFF
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


class KeySchedule(ABC):
    """One KDF under one suite identifier, for a message key of ``key_size`` and a nonce of ``nonce_size`` bytes."""

    @abstractmethod
    def secrets(self, shared_secret: bytes, info: bytes, psk: Psk | None) -> tuple[bytes, bytes, bytes]:
        """Message key, base nonce and exporter secret. Raises HpkeError ``invalid_length``."""

    @abstractmethod
    def export(self, exporter_secret: bytes, context: bytes, length: int) -> bytes:
        """A secret of ``length`` bytes for ``context`` (section 5.3). Raises HpkeError ``invalid_length``."""


class TwoStage(KeySchedule):
    """The schedule of RFC 9180: extract, then expand."""

    def __init__(self, kdf_id: int, suite_id: bytes, key_size: int, nonce_size: int) -> None:
        self.hash_name = HKDF_HASH[kdf_id]
        size = hkdf.HASH_SIZE[self.hash_name]
        self._labelled = VERSION_LABEL + suite_id
        # What LabeledExpand puts before the context, for each of the three secrets.
        self._key_size, self._nonce_size = key_size, nonce_size
        self._exporter = size.to_bytes(2) + self._labelled + b"exp"
        self._key = key_size.to_bytes(2) + self._labelled + b"key"
        self._nonce = nonce_size.to_bytes(2) + self._labelled + b"base_nonce"
        self._secret = self._labelled + b"secret"
        self._no_psk = self._extract(b"psk_id_hash", b"")

    def secrets(self, shared_secret: bytes, info: bytes, psk: Psk | None) -> tuple[bytes, bytes, bytes]:
        name = self.hash_name
        if psk is None:
            cached = len(info) <= _CACHED_INFO_SIZE
            context = _base_context(self, info) if cached else self.base_context(info)
            secret = hkdf.extract(name, shared_secret, self._secret)
        else:
            context = (
                _MODE_PSK
                + self._extract(b"psk_id_hash", psk.identity)
                + self._extract(b"info_hash", info)
                + b"\x01"
            )
            secret = hkdf.extract(name, shared_secret, self._secret + psk.secret)
        # No key, nonce or exporter secret is longer than its hash: one block of HKDF-Expand each.
        expand = hkdf.keyed(name, secret)
        return (
            hkdf.digest(expand, self._key + context)[: self._key_size],
            hkdf.digest(expand, self._nonce + context)[: self._nonce_size],
            hkdf.digest(expand, self._exporter + context),
        )

    def export(self, exporter_secret: bytes, context: bytes, length: int) -> bytes:
        if not 0 <= length <= _MAX_LENGTH:
            raise HpkeError("invalid_length", "a derived secret is limited to 65,535 bytes")
        info = length.to_bytes(2) + self._labelled + b"sec" + context
        return hkdf.expand(self.hash_name, exporter_secret, info, length)

    def base_context(self, info: bytes) -> bytes:
        """The key schedule context of base mode, with the counter of the only block that is expanded from it."""
        return _MODE_BASE + self._no_psk + self._extract(b"info_hash", info) + b"\x01"

    def _extract(self, label: bytes, ikm: bytes) -> bytes:
        return hkdf.extract(self.hash_name, b"", self._labelled + label + ikm)


# In OHTTP ``info`` is a label and a public header: the same few for every request to one key, and no secret.
@lru_cache(maxsize=256)
def _base_context(of: TwoStage, info: bytes) -> bytes:
    return of.base_context(info)


def _shake128(data: bytes, length: int) -> bytes:
    return hashlib.shake_128(data).digest(length)


def _shake256(data: bytes, length: int) -> bytes:
    return hashlib.shake_256(data).digest(length)


# The function, and Nh.
_SHAKES: dict[int, tuple[Callable[[bytes, int], bytes], int]] = {
    SHAKE128: (_shake128, 32),
    SHAKE256: (_shake256, 64),
}


class OneStage(KeySchedule):
    """The schedule for an extendable-output function: everything in, everything out."""

    def __init__(self, kdf_id: int, suite_id: bytes, key_size: int, nonce_size: int) -> None:
        self._shake, self._exporter_size = _SHAKES[kdf_id]
        self._labelled = VERSION_LABEL + suite_id
        self._key_size, self._nonce_end = key_size, key_size + nonce_size

    def secrets(self, shared_secret: bytes, info: bytes, psk: Psk | None) -> tuple[bytes, bytes, bytes]:
        mode, secret, identity = (
            (_MODE_BASE, b"", b"") if psk is None else (_MODE_PSK, psk.secret, psk.identity)
        )
        drawn = self._derive(
            _prefixed(secret) + _prefixed(shared_secret),
            b"secret",
            mode + _prefixed(identity) + _prefixed(info),
            self._nonce_end + self._exporter_size,
        )
        return drawn[: self._key_size], drawn[self._key_size : self._nonce_end], drawn[self._nonce_end :]

    def export(self, exporter_secret: bytes, context: bytes, length: int) -> bytes:
        if not 0 <= length <= _MAX_LENGTH:
            raise HpkeError("invalid_length", "a derived secret is limited to 65,535 bytes")
        return self._derive(exporter_secret, b"sec", context, length)

    def _derive(self, ikm: bytes, label: bytes, context: bytes, length: int) -> bytes:
        """LabeledDerive."""
        labelled = ikm + self._labelled + _prefixed(label) + length.to_bytes(2) + context
        return self._shake(labelled, length)


def key_schedule(kdf_id: int, suite_id: bytes, key_size: int, nonce_size: int) -> KeySchedule:
    """The schedule of this KDF. Raises HpkeError ``unsupported_suite``."""
    if kdf_id in HKDF_HASH:
        return TwoStage(kdf_id, suite_id, key_size, nonce_size)
    if kdf_id in _SHAKES:
        return OneStage(kdf_id, suite_id, key_size, nonce_size)
    raise HpkeError("unsupported_suite", "no key derivation function with this identifier here")


def _prefixed(data: bytes) -> bytes:
    if len(data) > _MAX_LENGTH:
        raise HpkeError("invalid_length", "an input of the key schedule has at most 65,535 bytes")
    return len(data).to_bytes(2) + data
