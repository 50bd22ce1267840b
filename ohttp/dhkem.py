"""Key encapsulation from Diffie-Hellman groups: X25519 and the NIST curves (RFC 9180 sections 4.1 and 7.1)."""

from abc import abstractmethod

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from . import hkdf
from .errors import HpkeError
from .kem_interface import VERSION_LABEL, Ephemeral, Kem, PrivateKey

P256 = 0x0010
P384 = 0x0011
P521 = 0x0012
X25519 = 0x0020


class DhPrivateKey(PrivateKey):
    """A key of a Diffie-Hellman group; ``exchange`` refuses points and results that the group forbids."""

    __slots__ = ("_kem",)

    def __init__(self, owner: "DhKem", public_key: bytes) -> None:
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


class _X25519Key(DhPrivateKey):
    __slots__ = ("_handle",)

    def __init__(self, owner: "DhKem", handle: X25519PrivateKey) -> None:
        super().__init__(owner, handle.public_key().public_bytes_raw())
        self._handle = handle

    def exchange(self, peer: bytes) -> bytes:
        # OpenSSL refuses an all-zero result, which RFC 9180 section 7.1.4 demands.
        return self._handle.exchange(X25519PublicKey.from_public_bytes(peer))


class _NistKey(DhPrivateKey):
    __slots__ = ("_handle",)

    def __init__(self, owner: "DhKem", handle: ec.EllipticCurvePrivateKey) -> None:
        point = handle.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        super().__init__(owner, point)
        self._handle = handle

    def exchange(self, peer: bytes) -> bytes:
        if len(peer) != len(self.public_key) or peer[0] != 4:
            raise ValueError("only the uncompressed form is a serialised key")
        return self._handle.exchange(
            ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(self._handle.curve, peer)
        )


class DhKem(Kem):
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
        # What LabeledExtract and LabeledExpand put before the secret and before the context.
        labelled = VERSION_LABEL + b"KEM" + kem_id.to_bytes(2)
        self._extract = hkdf.keyed(hash_name, b"", labelled + b"eae_prk")
        self._expand = self.secret_size.to_bytes(2) + labelled + b"shared_secret"

    def generate(self) -> DhPrivateKey:
        if self._curve is None:
            return _X25519Key(self, X25519PrivateKey.generate())
        return _NistKey(self, ec.generate_private_key(self._curve))

    def load(self, private_key: bytes) -> DhPrivateKey:
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
        if not isinstance(own, DhPrivateKey) or own.kem_id != self.kem_id:
            raise HpkeError("wrong_kem", "the ephemeral key belongs to another mechanism")
        try:
            shared = own.exchange(public_key)
        except ValueError:
            raise HpkeError("invalid_public_key", "the public key is not usable") from None
        enc = own.public_key
        return self.derive(shared, enc + public_key), enc

    def derive(self, shared: bytes, kem_context: bytes) -> bytes:
        """ExtractAndExpand of RFC 9180 section 4.1."""
        prk = hkdf.digest(self._extract, shared)
        return hkdf.expand(self._hash_name, prk, self._expand + kem_context, self.secret_size)


DH_KEMS = {
    mechanism.kem_id: mechanism
    for mechanism in (
        DhKem(X25519, "sha256", 32, 32),
        DhKem(P256, "sha256", 65, 32, ec.SECP256R1()),
        DhKem(P384, "sha384", 97, 48, ec.SECP384R1()),
        DhKem(P521, "sha512", 133, 66, ec.SECP521R1()),
    )
}
"""One mechanism for each identifier."""
