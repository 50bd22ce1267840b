"""Key encapsulation for HPKE: DHKEM over X25519 and the NIST curves, and the hybrid X-Wing.

Sources: RFC 9180 sections 4.1 and 7.1 (DHKEM), draft-connolly-cfrg-xwing-kem and draft-ietf-hpke-pq
(MLKEM768-X25519, identifier 0x647A). Private keys live in OpenSSL objects; nothing here gives them out again.
"""

import hashlib
from abc import ABC, abstractmethod
from typing import NoReturn

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from . import hkdf
from .errors import HpkeError

P256 = 0x0010
P384 = 0x0011
P521 = 0x0012
X25519 = 0x0020
MLKEM768_X25519 = 0x647A
"""X-Wing: safe as long as either of ML-KEM-768 and X25519 is."""

VERSION_LABEL = b"HPKE-v1"


class PrivateKey(ABC):
    """A KEM's private key: ``kem_id`` and the serialised ``public_key`` are all that can be read from it."""

    __slots__ = ("kem_id", "public_key")

    kem_id: int
    public_key: bytes

    @abstractmethod
    def decapsulate(self, enc: bytes) -> bytes:
        """The shared secret behind ``enc``; raises HpkeError ``invalid_encapsulation``.

        ML-KEM rejects implicitly: an altered ``enc`` may give another secret, and then nothing opens.
        """

    def __repr__(self) -> str:
        return f"<{type(self).__name__} kem=0x{self.kem_id:04x}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a private key does not leave its process")


class Ephemeral:
    """A sender's ephemeral key made beforehand, handed in instead of a fresh one; good for one encapsulation.

    Two messages under one ephemeral key would share key and nonce, so ``take`` gives it out once.
    """

    __slots__ = ("_key",)

    def __init__(self, key: PrivateKey) -> None:
        self._key: PrivateKey | None = key

    def take(self) -> PrivateKey:
        """The key, once; raises HpkeError ``ephemeral_reused`` afterwards."""
        key, self._key = self._key, None
        if key is None:
            raise HpkeError("ephemeral_reused", "an ephemeral key serves one encapsulation")
        return key


class Kem(ABC):
    """One key encapsulation mechanism; sizes in bytes, named as in RFC 9180 (Nenc, Npk, Nsk, Nsecret)."""

    kem_id: int
    enc_size: int
    public_key_size: int
    private_key_size: int
    secret_size: int

    @abstractmethod
    def generate(self) -> PrivateKey:
        """A fresh private key from OpenSSL's generator."""

    @abstractmethod
    def load(self, private_key: bytes) -> PrivateKey:
        """The private key with this serialisation (for X-Wing the 32-byte seed).

        Raises HpkeError ``invalid_private_key``.
        """

    @abstractmethod
    def encapsulate(self, public_key: bytes, ephemeral: Ephemeral | None = None) -> tuple[bytes, bytes]:
        """A shared secret for the holder of ``public_key``, and the ``enc`` that conveys it.

        Raises HpkeError ``invalid_public_key``, ``wrong_kem``, ``ephemeral_reused``,
        ``ephemeral_unsupported``.
        """


def kem(kem_id: int) -> Kem:
    """The mechanism with this identifier; raises HpkeError ``unsupported_kem``."""
    try:
        return _KEMS[kem_id]
    except KeyError:
        raise HpkeError(
            "unsupported_kem", "no key encapsulation mechanism with this identifier here"
        ) from None


def supports(kem_id: int) -> bool:
    """Whether ``kem`` knows this identifier."""
    return kem_id in _KEMS


class _DhPrivateKey(PrivateKey):
    """A key of a Diffie-Hellman group; ``exchange`` refuses points and results that the group forbids."""

    __slots__ = ("_kem",)

    def __init__(self, owner: "_DhKem", public_key: bytes) -> None:
        self.kem_id = owner.kem_id
        self.public_key = public_key
        self._kem = owner

    @abstractmethod
    def exchange(self, peer: bytes) -> bytes:
        """The shared group element; raises ValueError for a peer that is no proper element."""

    def decapsulate(self, enc: bytes) -> bytes:
        try:
            shared = self.exchange(enc)
        except ValueError:
            raise HpkeError("invalid_encapsulation", "the encapsulated key is not usable") from None
        return self._kem.derive(shared, enc + self.public_key)


class _X25519Key(_DhPrivateKey):
    __slots__ = ("_handle",)

    def __init__(self, owner: "_DhKem", handle: X25519PrivateKey) -> None:
        super().__init__(owner, handle.public_key().public_bytes_raw())
        self._handle = handle

    def exchange(self, peer: bytes) -> bytes:
        # OpenSSL refuses an all-zero result, which RFC 9180 section 7.1.4 demands.
        return self._handle.exchange(X25519PublicKey.from_public_bytes(peer))


class _NistKey(_DhPrivateKey):
    __slots__ = ("_handle",)

    def __init__(self, owner: "_DhKem", handle: ec.EllipticCurvePrivateKey) -> None:
        point = handle.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        super().__init__(owner, point)
        self._handle = handle

    def exchange(self, peer: bytes) -> bytes:
        if len(peer) != len(self.public_key) or peer[0] != 4:
            raise ValueError("only the uncompressed form is a serialised key")
        return self._handle.exchange(
            ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(self._handle.curve, peer)
        )


class _DhKem(Kem):
    """DHKEM(group, HKDF); no ``curve`` means X25519."""

    def __init__(
        self,
        kem_id: int,
        hash_name: str,
        public_key_size: int,
        private_key_size: int,
        curve: ec.EllipticCurve | None = None,
    ) -> None:
        self.kem_id = kem_id
        self.enc_size = self.public_key_size = public_key_size
        self.private_key_size = private_key_size
        # For every group in use Nsecret is the size of its hash.
        self.secret_size = hkdf.HASH_SIZE[hash_name]
        self._hash_name = hash_name
        self._curve = curve

    def generate(self) -> _DhPrivateKey:
        if self._curve is None:
            return _X25519Key(self, X25519PrivateKey.generate())
        return _NistKey(self, ec.generate_private_key(self._curve))

    def load(self, private_key: bytes) -> _DhPrivateKey:
        if len(private_key) != self.private_key_size:
            raise HpkeError("invalid_private_key", "a private key of this mechanism has another size")
        try:
            if self._curve is None:
                return _X25519Key(self, X25519PrivateKey.from_private_bytes(private_key))
            return _NistKey(self, ec.derive_private_key(int.from_bytes(private_key), self._curve))
        except ValueError:
            raise HpkeError("invalid_private_key", "the scalar is outside the group's range") from None

    def encapsulate(self, public_key: bytes, ephemeral: Ephemeral | None = None) -> tuple[bytes, bytes]:
        own = self.generate() if ephemeral is None else ephemeral.take()
        if not isinstance(own, _DhPrivateKey) or own.kem_id != self.kem_id:
            raise HpkeError("wrong_kem", "the ephemeral key belongs to another mechanism")
        try:
            shared = own.exchange(public_key)
        except ValueError:
            raise HpkeError("invalid_public_key", "the public key is not usable") from None
        enc = own.public_key
        return self.derive(shared, enc + public_key), enc

    def derive(self, shared: bytes, kem_context: bytes) -> bytes:
        """ExtractAndExpand of RFC 9180 section 4.1."""
        suite_id = b"KEM" + self.kem_id.to_bytes(2)
        prk = hkdf.extract(self._hash_name, b"", VERSION_LABEL + suite_id + b"eae_prk" + shared)
        size = self.secret_size
        info = size.to_bytes(2) + VERSION_LABEL + suite_id + b"shared_secret" + kem_context
        return hkdf.expand(self._hash_name, prk, info, size)


_MLKEM_PUBLIC_SIZE = 1184
_MLKEM_CIPHERTEXT_SIZE = 1088
_XWING_LABEL = b"\\.//^\\"


def _xwing_combine(
    mlkem_secret: bytes, x25519_secret: bytes, x25519_enc: bytes, x25519_public: bytes
) -> bytes:
    return hashlib.sha3_256(mlkem_secret + x25519_secret + x25519_enc + x25519_public + _XWING_LABEL).digest()


class _XWingKey(PrivateKey):
    __slots__ = ("_mlkem", "_x25519")

    def __init__(self, mlkem: MLKEM768PrivateKey, x25519: X25519PrivateKey) -> None:
        self.kem_id = MLKEM768_X25519
        self.public_key = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
        self._mlkem = mlkem
        self._x25519 = x25519

    def decapsulate(self, enc: bytes) -> bytes:
        x25519_enc = enc[_MLKEM_CIPHERTEXT_SIZE:]
        try:
            mlkem_secret = self._mlkem.decapsulate(enc[:_MLKEM_CIPHERTEXT_SIZE])
            x25519_secret = self._x25519.exchange(X25519PublicKey.from_public_bytes(x25519_enc))
        except ValueError:
            raise HpkeError("invalid_encapsulation", "the encapsulated key is not usable") from None
        return _xwing_combine(mlkem_secret, x25519_secret, x25519_enc, self.public_key[_MLKEM_PUBLIC_SIZE:])


class _XWing(Kem):
    kem_id = MLKEM768_X25519
    enc_size = _MLKEM_CIPHERTEXT_SIZE + 32
    public_key_size = _MLKEM_PUBLIC_SIZE + 32
    private_key_size = 32
    secret_size = 32

    def generate(self) -> PrivateKey:
        # Two fresh keys are distributed as the two that a seed expands to, and no seed passes through Python.
        return _XWingKey(MLKEM768PrivateKey.generate(), X25519PrivateKey.generate())

    def load(self, private_key: bytes) -> PrivateKey:
        if len(private_key) != self.private_key_size:
            raise HpkeError("invalid_private_key", "an X-Wing private key is a 32-byte seed")
        expanded = hashlib.shake_256(private_key).digest(96)
        return _XWingKey(
            MLKEM768PrivateKey.from_seed_bytes(expanded[:64]),
            X25519PrivateKey.from_private_bytes(expanded[64:]),
        )

    def encapsulate(self, public_key: bytes, ephemeral: Ephemeral | None = None) -> tuple[bytes, bytes]:
        if ephemeral is not None:
            raise HpkeError("ephemeral_unsupported", "ML-KEM encapsulation draws its own randomness")
        x25519_public = public_key[_MLKEM_PUBLIC_SIZE:]
        try:
            peer = X25519PublicKey.from_public_bytes(x25519_public)
            mlkem_secret, mlkem_enc = MLKEM768PublicKey.from_public_bytes(
                public_key[:_MLKEM_PUBLIC_SIZE]
            ).encapsulate()
            own = X25519PrivateKey.generate()
            x25519_secret = own.exchange(peer)
        except ValueError:
            raise HpkeError("invalid_public_key", "the public key is not usable") from None
        x25519_enc = own.public_key().public_bytes_raw()
        return _xwing_combine(mlkem_secret, x25519_secret, x25519_enc, x25519_public), mlkem_enc + x25519_enc


_KEMS: dict[int, Kem] = {
    mechanism.kem_id: mechanism
    for mechanism in (
        _DhKem(X25519, "sha256", 32, 32),
        _DhKem(P256, "sha256", 65, 32, ec.SECP256R1()),
        _DhKem(P384, "sha384", 97, 48, ec.SECP384R1()),
        _DhKem(P521, "sha512", 133, 66, ec.SECP521R1()),
        _XWing(),
    )
}
