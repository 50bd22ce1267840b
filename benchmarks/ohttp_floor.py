"""What no gateway over ``cryptography`` can go below: the operations that one exchange needs, and nothing else.

Opening a request and sealing its answer is one decapsulation, eight HMACs (four of the key schedule, one export,
three for the answer's key and nonce; two more where the KEM is X25519 alone) and two messages of AES-256-GCM. Here
they are written out one after the other for a request in one chunk that ends with 1 KB of content, with everything
precomputed that can be, and without a check, a clock, a memory of what was seen, or Binary HTTP. This is no gateway:
it measures the floor under one.
"""

import os

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA3_256, SHA256, Hash
from cryptography.hazmat.primitives.hmac import HMAC

from ohttp.bhttp import Response, encode_response
from ohttp.chunked import REQUEST_LABEL, RESPONSE_LABEL
from ohttp.kem import MLKEM768_X25519, X25519
from ohttp.keyconfig import KeyConfig

KDF, AEAD = 0x0001, 0x0002  # HKDF-SHA256, AES-256-GCM
BODY = 1024
"""Bytes of content of a request, and so of its echo."""

_HEADER = 7
_MLKEM_ENC = 1088
_SHA256 = SHA256()


class Floor:
    """One key, and what ``echo`` needs to answer those who encrypt to it. ``config`` is its public half."""

    def __init__(self, kem_id: int) -> None:
        self._dh = X25519PrivateKey.generate()
        self._dh_public = self._dh.public_key().public_bytes_raw()
        public_key, self._decapsulate, enc_size = self._dh_public, self._x25519, 32
        if kem_id == MLKEM768_X25519:
            self._mlkem = MLKEM768PrivateKey.generate()
            self._combined = Hash(SHA3_256())
            public_key = self._mlkem.public_key().public_bytes_raw() + self._dh_public
            self._decapsulate, enc_size = self._x_wing, _MLKEM_ENC + 32
        elif kem_id != X25519:
            raise ValueError("a floor is laid under X25519 and under X-Wing")
        self.config = KeyConfig(1, kem_id, public_key, ((KDF, AEAD),))
        self._enc_end = _HEADER + enc_size
        ids = kem_id.to_bytes(2) + KDF.to_bytes(2) + AEAD.to_bytes(2)
        suite = b"HPKE-v1HPKE" + ids
        info = REQUEST_LABEL + b"\0\x01" + ids
        context = b"\0" + _hmac(b"", suite + b"psk_id_hash")
        context += _hmac(b"", suite + b"info_hash" + info) + b"\x01"
        self._eae_prk = HMAC(b"", _SHA256)
        self._eae_prk.update(b"HPKE-v1KEM\0\x20eae_prk")
        self._secret = suite + b"secret"
        self._key = b"\0\x20" + suite + b"key" + context
        self._nonce = b"\0\x0c" + suite + b"base_nonce" + context
        self._exporter = b"\0\x20" + suite + b"exp" + context
        self._export = b"\0\x20" + suite + b"sec" + RESPONSE_LABEL + b"\x01"

        # A whole response up to its content; what follows, as in a request, is the content and no trailers.
        headers = ((b"content-type", b"application/octet-stream"),)
        self._head = encode_response(Response(200, headers, bytes(BODY)))[: -BODY - 1]

    def echo(self, request: bytes) -> bytes:
        """The encapsulated answer with the content of ``request``. Raises InvalidTag or ValueError."""
        enc = request[_HEADER : self._enc_end]
        secret = HMAC(_hmac(self._decapsulate(enc), self._secret), _SHA256)
        key = _copied(secret, self._key)
        nonce = _copied(secret, self._nonce)[:12]
        exporter = _copied(secret, self._exporter)
        plain = AESGCM(key).decrypt(nonce, request[self._enc_end + 1 :], b"final")
        start = os.urandom(32)
        prk = HMAC(_hmac(enc + start, _hmac(exporter, self._export)), _SHA256)
        key = _copied(prk, b"key\x01")
        nonce = _copied(prk, b"nonce\x01")[:12]
        return start + b"\0" + AESGCM(key).encrypt(nonce, self._head + plain[-BODY - 1 :], b"final")

    def _x25519(self, enc: bytes) -> bytes:
        shared = self._dh.exchange(X25519PublicKey.from_public_bytes(enc))
        info = b"\0\x20HPKE-v1KEM\0\x20shared_secret" + enc + self._dh_public + b"\x01"
        return _hmac(_copied(self._eae_prk, shared), info)

    def _x_wing(self, enc: bytes) -> bytes:
        dh_enc = enc[_MLKEM_ENC:]
        secret = self._mlkem.decapsulate(enc[:_MLKEM_ENC])
        shared = self._dh.exchange(X25519PublicKey.from_public_bytes(dh_enc))
        combined = self._combined.copy()
        combined.update(secret + shared + dh_enc + self._dh_public + b"\\.//^\\")
        return combined.finalize()


def _hmac(key: bytes, message: bytes) -> bytes:
    mac = HMAC(key, _SHA256)
    mac.update(message)
    return mac.finalize()


def _copied(mac: HMAC, message: bytes) -> bytes:
    """For a key that serves several messages: cheaper than its preparation again."""
    mac = mac.copy()
    mac.update(message)
    return mac.finalize()
