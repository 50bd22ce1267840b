"""Key encapsulation that a quantum computer does not undo: ML-KEM, alone and joined with a Diffie-Hellman group.

Sources: FIPS 203; draft-ietf-hpke-pq (identifiers, serialisation); draft-irtf-cfrg-concrete-hybrid-kems and
draft-connolly-cfrg-xwing-kem (the hybrids: secret as long as either of their two halves is).

ML-KEM rejects implicitly: an altered encapsulation gives another secret, and then nothing opens.
"""

import hashlib
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import mlkem
from cryptography.hazmat.primitives.hashes import SHA3_256, Hash

from .dhkem import DH_KEMS, P256, P384, X25519, DhKem, DhPrivateKey
from .errors import HpkeError
from .kem_interface import Ephemeral, Kem, PrivateKey

MLKEM768 = 0x0041
MLKEM1024 = 0x0042
MLKEM768_P256 = 0x0050
MLKEM1024_P384 = 0x0051
MLKEM768_X25519 = 0x647A
"""X-Wing."""

_SEED_SIZE = 64
_HYBRID_SEED_SIZE = 32
_SCALAR_DRAWS = 4

# Copied each time: a digest from the libcrypto that does the rest, not from hashlib's.
_NOTHING_YET = Hash(SHA3_256())

MlKemPrivateKey = mlkem.MLKEM768PrivateKey | mlkem.MLKEM1024PrivateKey


@dataclass(frozen=True, slots=True)
class _Parameters:
    """One parameter set of FIPS 203; sizes in bytes."""

    private_key: type[mlkem.MLKEM768PrivateKey] | type[mlkem.MLKEM1024PrivateKey]
    public_key: type[mlkem.MLKEM768PublicKey] | type[mlkem.MLKEM1024PublicKey]
    public_key_size: int
    ciphertext_size: int


_768 = _Parameters(mlkem.MLKEM768PrivateKey, mlkem.MLKEM768PublicKey, 1184, 1088)
_1024 = _Parameters(mlkem.MLKEM1024PrivateKey, mlkem.MLKEM1024PublicKey, 1568, 1568)


class _MlKemKey(PrivateKey):
    __slots__ = ("_handle",)

    def __init__(self, kem_id: int, handle: MlKemPrivateKey) -> None:
        self.kem_id = kem_id
        self.public_key = handle.public_key().public_bytes_raw()
        self._handle = handle

    def decapsulate(self, enc: bytes) -> bytes:
        try:
            return self._handle.decapsulate(enc)
        except ValueError:
            raise HpkeError("invalid_encapsulation", "the encapsulated key is not usable") from None


class _MlKem(Kem):
    """ML-KEM by itself; a serialised private key is the 64-byte seed of FIPS 203."""

    private_key_size = _SEED_SIZE
    secret_size = 32

    def __init__(self, kem_id: int, parameters: _Parameters) -> None:
        self.kem_id = kem_id
        self.enc_size = parameters.ciphertext_size
        self.public_key_size = parameters.public_key_size
        self._parameters = parameters

    def generate(self) -> PrivateKey:
        return _MlKemKey(self.kem_id, self._parameters.private_key.generate())

    def load(self, private_key: bytes) -> PrivateKey:
        if len(private_key) != _SEED_SIZE:
            raise HpkeError("invalid_private_key", "an ML-KEM private key is a 64-byte seed")
        return _MlKemKey(self.kem_id, self._parameters.private_key.from_seed_bytes(private_key))

    def encapsulate(self, public_key: bytes, ephemeral: Ephemeral | None = None) -> tuple[bytes, bytes]:
        _refuse(ephemeral)
        try:
            return self._parameters.public_key.from_public_bytes(public_key).encapsulate()
        except ValueError:
            raise HpkeError("invalid_public_key", "the public key is not usable") from None


class _HybridKey(PrivateKey):
    __slots__ = ("_dh", "_dh_public", "_label", "_mlkem", "_split")

    def __init__(self, owner: "_Hybrid", pq: MlKemPrivateKey, dh: DhPrivateKey) -> None:
        self.kem_id = owner.kem_id
        self.public_key = pq.public_key().public_bytes_raw() + dh.public_key
        self._mlkem = pq
        self._dh = dh
        self._dh_public = dh.public_key
        self._label = owner.label
        self._split = owner.parameters.ciphertext_size

    def decapsulate(self, enc: bytes) -> bytes:
        dh_enc = enc[self._split :]
        try:
            secret = self._mlkem.decapsulate(enc[: self._split])
            shared = self._dh.exchange(dh_enc)
        except ValueError:
            raise HpkeError("invalid_encapsulation", "the encapsulated key is not usable") from None
        return _combine(secret, shared, dh_enc + self._dh_public + self._label)


class _Hybrid(Kem):
    """ML-KEM beside a Diffie-Hellman group; a serialised private key is a 32-byte seed for both."""

    private_key_size = _HYBRID_SEED_SIZE
    secret_size = 32

    def __init__(self, kem_id: int, parameters: _Parameters, group: DhKem, label: bytes) -> None:
        self.kem_id = kem_id
        self.enc_size = parameters.ciphertext_size + group.enc_size
        self.public_key_size = parameters.public_key_size + group.public_key_size
        self.parameters = parameters
        self.label = label
        self._group = group

    def generate(self) -> PrivateKey:
        # Two fresh keys are distributed as the two that a seed expands to, and no seed passes through Python.
        return _HybridKey(self, self.parameters.private_key.generate(), self._group.generate())

    def load(self, private_key: bytes) -> PrivateKey:
        if len(private_key) != _HYBRID_SEED_SIZE:
            raise HpkeError("invalid_private_key", "a hybrid private key is a 32-byte seed")
        size = self._group.private_key_size
        expanded = hashlib.shake_256(private_key).digest(_SEED_SIZE + _SCALAR_DRAWS * size)
        pq = self.parameters.private_key.from_seed_bytes(expanded[:_SEED_SIZE])
        return _HybridKey(self, pq, self._scalar(expanded[_SEED_SIZE:], size))

    def encapsulate(self, public_key: bytes, ephemeral: Ephemeral | None = None) -> tuple[bytes, bytes]:
        _refuse(ephemeral)
        split = self.parameters.public_key_size
        dh_public = public_key[split:]
        own = self._group.generate()
        try:
            shared = own.exchange(dh_public)
            secret, enc = self.parameters.public_key.from_public_bytes(public_key[:split]).encapsulate()
        except ValueError:
            raise HpkeError("invalid_public_key", "the public key is not usable") from None
        dh_enc = own.public_key
        return _combine(secret, shared, dh_enc + dh_public + self.label), enc + dh_enc

    def _scalar(self, candidates: bytes, size: int) -> DhPrivateKey:
        """The first candidate in the group's range: every string is one for X25519, almost every for a curve."""
        for at in range(0, len(candidates), size):
            try:
                return self._group.load(candidates[at : at + size])
            except HpkeError:
                continue
        raise HpkeError("invalid_private_key", "the seed gives no scalar in the group's range")


def _combine(secret: bytes, shared: bytes, context: bytes) -> bytes:
    """The hybrid's secret from ML-KEM's, the group's, and what both sides saw of the group, with the label."""
    combined = _NOTHING_YET.copy()
    combined.update(secret + shared + context)
    return combined.finalize()


def _refuse(ephemeral: Ephemeral | None) -> None:
    if ephemeral is not None:
        raise HpkeError("ephemeral_unsupported", "ML-KEM encapsulation draws its own randomness")


MLKEM_KEMS: dict[int, Kem] = {
    MLKEM768: _MlKem(MLKEM768, _768),
    MLKEM1024: _MlKem(MLKEM1024, _1024),
    MLKEM768_P256: _Hybrid(MLKEM768_P256, _768, DH_KEMS[P256], b"MLKEM768-P256"),
    MLKEM1024_P384: _Hybrid(MLKEM1024_P384, _1024, DH_KEMS[P384], b"MLKEM1024-P384"),
    MLKEM768_X25519: _Hybrid(MLKEM768_X25519, _768, DH_KEMS[X25519], b"\\.//^\\"),
}
"""One mechanism for each identifier. ML-KEM-512 (0x0040) is not in OpenSSL's door that we use."""
