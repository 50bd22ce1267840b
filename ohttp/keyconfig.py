"""Key configurations: which keys a gateway has and for which algorithms (RFC 9458 section 3).

The client's side reads ``application/ohttp-keys``; the gateway's keeps private keys and writes that list.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from . import hpke, kem
from .aead import AES_256_GCM, CHACHA20_POLY1305
from .errors import KeyConfigError, UnknownKey, UnsupportedSuite

MEDIA_TYPE = "application/ohttp-keys"
MAX_LIST_SIZE = 64 * 1024
"""Bytes of a list that ``parse_key_configs`` looks at; a post-quantum configuration takes some 1.2 KB."""

DEFAULT_SUITES = ((hpke.HKDF_SHA256, AES_256_GCM), (hpke.HKDF_SHA256, CHACHA20_POLY1305))

# Hybrids first. Every client has the same order, so that the choice tells none from another.
_PREFERENCE = (
    kem.MLKEM768_X25519,
    kem.MLKEM1024_P384,
    kem.MLKEM768_P256,
    kem.MLKEM1024,
    kem.MLKEM768,
    kem.X25519,
    kem.P256,
    kem.P384,
    kem.P521,
)
_MAX_SUITES_SIZE = 65532


@dataclass(frozen=True, slots=True)
class KeyConfig:
    """One public key of a gateway.

    ``key_id``: 0-255. ``kem_id``: a KEM known to kem.py. ``public_key``: serialised, of that KEM's size.
    ``suites``: (KDF, AEAD) pairs in the gateway's order, at least one; unknown ones are kept, never chosen.
    Raises KeyConfigError ``malformed`` or ``invalid_key_id``, HpkeError ``unsupported_kem``.
    """

    key_id: int
    kem_id: int
    public_key: bytes
    suites: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        if not 0 <= self.key_id <= 0xFF:
            raise KeyConfigError("invalid_key_id", "a key identifier is one byte")
        if len(self.public_key) != kem.kem(self.kem_id).public_key_size:
            raise KeyConfigError("malformed", "the public key has the wrong size for its KEM")
        if not self.suites or 4 * len(self.suites) > _MAX_SUITES_SIZE:
            raise KeyConfigError("malformed", "a key configuration lists 1 to 16,383 symmetric suites")
        if any(not (0 <= kdf <= 0xFFFF and 0 <= aead <= 0xFFFF) for kdf, aead in self.suites):
            raise KeyConfigError("malformed", "an algorithm identifier is two bytes")

    def encode(self) -> bytes:
        """The configuration alone, without the length that precedes it in a list."""
        suites = b"".join(kdf.to_bytes(2) + aead.to_bytes(2) for kdf, aead in self.suites)
        return (
            self.key_id.to_bytes(1)
            + self.kem_id.to_bytes(2)
            + self.public_key
            + len(suites).to_bytes(2)
            + suites
        )

    def request_header(self, suite: tuple[int, int]) -> bytes:
        """The seven bytes that a request to this key begins with: ids of key, KEM, KDF and AEAD (section 4.1)."""
        return encode_request_header(self.key_id, self.kem_id, *suite)

    def choose(self, wanted: tuple[int, int] | None = None) -> hpke.Suite:
        """The suite to use: ``wanted`` where it is listed, else the first listed one that we have.

        Raises KeyConfigError ``unsupported_suite``.
        """
        for kdf_id, aead_id in self.suites:
            if wanted in (None, (kdf_id, aead_id)) and supports(self.kem_id, kdf_id, aead_id):
                return hpke.suite(self.kem_id, kdf_id, aead_id)
        raise KeyConfigError(
            "unsupported_suite", "the key configuration offers no algorithms that can be used"
        )


def supports(kem_id: int, kdf_id: int, aead_id: int) -> bool:
    """Whether Oblivious HTTP can use this suite here.

    It has to seal, and its KDF has to extract and to expand: that is how RFC 9458 section 4.4 makes the key of a
    response, so the one-stage KDFs of HPKE are no use to it.
    """
    return kdf_id in hpke.HKDF_HASH and hpke.supports(kem_id, kdf_id, aead_id)


def encode_request_header(key_id: int, kem_id: int, kdf_id: int, aead_id: int) -> bytes:
    """The clear start of a request (section 4.1): seven bytes."""
    return key_id.to_bytes(1) + kem_id.to_bytes(2) + kdf_id.to_bytes(2) + aead_id.to_bytes(2)


def encode_key_configs(configs: Iterable[KeyConfig]) -> bytes:
    """The ``application/ohttp-keys`` list; raises KeyConfigError ``too_large``."""
    parts: list[bytes] = []
    for config in configs:
        encoded = config.encode()
        if len(encoded) > 0xFFFF:
            raise KeyConfigError("too_large", "a key configuration in a list has at most 65,535 bytes")
        parts += (len(encoded).to_bytes(2), encoded)
    return b"".join(parts)


def parse_key_config(data: bytes) -> KeyConfig:
    """One configuration as ``KeyConfig.encode`` writes it.

    Raises KeyConfigError ``malformed``, or HpkeError ``unsupported_kem`` where the key's size is unknown.
    """
    if len(data) < 3:
        raise KeyConfigError("malformed", "the key configuration is cut short")
    kem_id = int.from_bytes(data[1:3])
    key_end = 3 + kem.kem(kem_id).public_key_size
    if len(data) < key_end + 2:
        raise KeyConfigError("malformed", "the key configuration is cut short")
    size = int.from_bytes(data[key_end : key_end + 2])
    suites = data[key_end + 2 :]
    if size != len(suites) or size % 4 or not size:
        raise KeyConfigError("malformed", "the list of symmetric suites has a wrong size")
    return KeyConfig(
        key_id=data[0],
        kem_id=kem_id,
        public_key=data[3:key_end],
        suites=tuple(
            (int.from_bytes(suites[at : at + 2]), int.from_bytes(suites[at + 2 : at + 4]))
            for at in range(0, size, 4)
        ),
    )


def parse_key_configs(data: bytes) -> tuple[KeyConfig, ...]:
    """The configurations of an ``application/ohttp-keys`` list, in its order.

    A list with one badly encoded configuration is discarded whole (RFC 9458 section 3.2). A KEM that we do
    not have is no bad encoding: it is skipped by its length. Raises KeyConfigError ``malformed``,
    ``too_large`` or ``duplicate_key_id``; an empty result is possible, and ``preferred`` refuses it.
    """
    if len(data) > MAX_LIST_SIZE:
        raise KeyConfigError("too_large", "the list of key configurations is too long")
    configs: list[KeyConfig] = []
    at = 0
    while at < len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2])
        entry = data[at + 2 : end]
        if end > len(data) or len(entry) < 3:
            raise KeyConfigError("malformed", "the list of key configurations is cut short")
        if kem.supports(int.from_bytes(entry[1:3])):
            configs.append(parse_key_config(entry))
        at = end
    _refuse_duplicates(configs)
    return tuple(configs)


def parse_pinned_key_configs(data: bytes, digest: bytes) -> tuple[KeyConfig, ...]:
    """``parse_key_configs`` for a list that something trustworthy vouched for by its SHA-256 ``digest``.

    Another list is no refresh but a substitution: raises KeyConfigError ``key_mismatch`` before it is read.
    """
    if hashlib.sha256(data).digest() != digest:
        raise KeyConfigError("key_mismatch", "the list of key configurations is not the one vouched for")
    return parse_key_configs(data)


def preferred(configs: Sequence[KeyConfig]) -> KeyConfig:
    """The configuration to encrypt to: X-Wing, other hybrids, ML-KEM, X25519, the rest; then the list's order.

    Raises KeyConfigError ``no_keys`` where none has algorithms that we have.
    """
    usable = [c for c in configs if any(supports(c.kem_id, *pair) for pair in c.suites)]
    if not usable:
        raise KeyConfigError("no_keys", "no key configuration can be used")
    return min(usable, key=lambda config: _PREFERENCE.index(config.kem_id))


@dataclass(frozen=True, slots=True)
class GatewayKey:
    """A key pair of a gateway. Raises KeyConfigError ``key_mismatch`` where the halves are of two pairs."""

    config: KeyConfig
    private_key: kem.PrivateKey = field(repr=False)

    def __post_init__(self) -> None:
        if (self.config.kem_id, self.config.public_key) != (
            self.private_key.kem_id,
            self.private_key.public_key,
        ):
            raise KeyConfigError("key_mismatch", "the private key is not the published key's")

    @classmethod
    def generate(
        cls, key_id: int, kem_id: int, suites: tuple[tuple[int, int], ...] = DEFAULT_SUITES
    ) -> "GatewayKey":
        """A fresh key pair. Raises HpkeError ``unsupported_kem``, KeyConfigError ``invalid_key_id``."""
        return cls.of(key_id, kem.kem(kem_id).generate(), suites)

    @classmethod
    def of(
        cls, key_id: int, private_key: kem.PrivateKey, suites: tuple[tuple[int, int], ...] = DEFAULT_SUITES
    ) -> "GatewayKey":
        """The key pair around an existing private key."""
        return cls(KeyConfig(key_id, private_key.kem_id, private_key.public_key, suites), private_key)


class KeyRing:
    """The keys that a gateway accepts, in the order of publication: at least one, ids distinct."""

    __slots__ = ("_by_header", "_by_id", "_encoded")

    def __init__(self, keys: Sequence[GatewayKey]) -> None:
        if not keys:
            raise KeyConfigError("no_keys", "a gateway has at least one key")
        self._fill(keys)

    @classmethod
    def empty(cls) -> "KeyRing":
        """A ring that opens nothing and publishes an empty list, for a gateway whose keys have all ended."""
        ring = cls.__new__(cls)
        ring._fill(())
        return ring

    def _fill(self, keys: Sequence[GatewayKey]) -> None:
        _refuse_duplicates([key.config for key in keys])
        self._by_id = {key.config.key_id: key for key in keys}
        self._by_header = {
            key.config.request_header(pair): (key, hpke.suite(key.config.kem_id, *pair))
            for key in keys
            for pair in key.config.suites
            if supports(key.config.kem_id, *pair)
        }
        self._encoded = encode_key_configs(key.config for key in keys)

    @property
    def configs(self) -> tuple[KeyConfig, ...]:
        """The public halves."""
        return tuple(key.config for key in self._by_id.values())

    def encoded(self) -> bytes:
        """The ``application/ohttp-keys`` bytes to serve; always the same for one ring."""
        return self._encoded

    def find(self, key_id: int) -> GatewayKey:
        """The key with this identifier; raises UnknownKey."""
        try:
            return self._by_id[key_id]
        except KeyError:
            raise UnknownKey("unknown_key", "no key with this identifier is accepted") from None

    def select(self, header: bytes) -> tuple[GatewayKey, hpke.Suite]:
        """The key that a request's header names, and the suite, which was published for that key.

        Raises UnknownKey, or its subclass UnsupportedSuite where key and algorithms do not fit.
        """
        found = self._by_header.get(header)
        if found is None:
            self.find(header[0])
            raise UnsupportedSuite("unsupported_suite", "the key is not published for these algorithms")
        return found


def _refuse_duplicates(configs: Sequence[KeyConfig]) -> None:
    # A request names its key by the identifier alone, so one that stands for two keys stands for none.
    if len({config.key_id for config in configs}) != len(configs):
        raise KeyConfigError("duplicate_key_id", "two key configurations share an identifier")
