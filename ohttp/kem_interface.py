"""What every key encapsulation mechanism of HPKE offers, and the form that its private keys have here.

Private keys live in OpenSSL objects; nothing here gives them out again.
"""

from abc import ABC, abstractmethod
from typing import NoReturn

from .errors import HpkeError

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
