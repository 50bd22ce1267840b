"""The few functions of OpenSSL's libcrypto that the cryptography library does not offer: RSA without padding.

A blind signer applies the bare private operation. ``pow(m, d, n)`` would take forty times as long and tell ``d`` by
the time it takes; libcrypto works by the Chinese remainder theorem, blinds its input and keeps the key to itself.
Interface: OpenSSL 3 manual pages EVP_PKEY_sign(3), EVP_PKEY_CTX_set_rsa_padding(3), d2i_AutoPrivateKey(3).
"""

import ctypes
from ctypes import POINTER, byref, c_char_p, c_int, c_long, c_size_t, c_ubyte, c_void_p, create_string_buffer
from functools import cache
from typing import Any

from .errors import TokenError

_LIBRARIES = ("libcrypto.so.4", "libcrypto.so.3", "libcrypto.so", "libcrypto.4.dylib", "libcrypto.3.dylib")
_NO_PADDING = 3
_RSA = 6

_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "d2i_AutoPrivateKey": (c_void_p, (c_void_p, POINTER(c_void_p), c_long)),
    "EVP_PKEY_free": (None, (c_void_p,)),
    "EVP_PKEY_get_base_id": (c_int, (c_void_p,)),
    "EVP_PKEY_CTX_new": (c_void_p, (c_void_p, c_void_p)),
    "EVP_PKEY_CTX_free": (None, (c_void_p,)),
    "EVP_PKEY_CTX_set_rsa_padding": (c_int, (c_void_p, c_int)),
    "EVP_PKEY_sign_init": (c_int, (c_void_p,)),
    "EVP_PKEY_sign": (c_int, (c_void_p, POINTER(c_ubyte), POINTER(c_size_t), c_char_p, c_size_t)),
    "OPENSSL_cleanse": (None, (c_void_p, c_size_t)),
    "ERR_clear_error": (None, ()),
}


class RsaPrivateKey:
    """An RSA private key inside libcrypto. It cannot be read back, printed or pickled. Safe to use in threads.

    ``der``: PKCS #8 or PKCS #1, unencrypted; ``size``: bytes of the modulus. Raises TokenError ``no_libcrypto``
    where OpenSSL 3 or later cannot be loaded, ``invalid_key`` for what is no RSA key.
    """

    __slots__ = ("_key", "_library", "_size")

    def __init__(self, der: bytes, size: int) -> None:
        self._key: int | None = None
        self._library = _loaded()
        self._size = size
        copy = create_string_buffer(der, len(der))
        cursor = c_void_p(ctypes.addressof(copy))
        self._key = self._library.d2i_AutoPrivateKey(None, byref(cursor), len(der))
        self._library.OPENSSL_cleanse(copy, len(der))
        if not self._key or self._library.EVP_PKEY_get_base_id(self._key) != _RSA:
            self._library.ERR_clear_error()
            raise TokenError("invalid_key", "not an RSA private key")

    def __del__(self) -> None:
        if self._key:
            self._library.EVP_PKEY_free(self._key)
            self._key = None

    def __reduce__(self) -> str:
        raise TypeError("a private key stays where it is")

    def apply(self, block: bytes) -> bytes:
        """``block`` (exactly the modulus' size, below the modulus) to the private exponent, of the same size.

        The result is unchecked: see ``blind_rsa.SigningKey``. Raises TokenError (``signing_failed``).
        """
        library = self._library
        context = library.EVP_PKEY_CTX_new(self._key, None)
        out, length = (c_ubyte * self._size)(), c_size_t(self._size)
        try:
            done = (
                context
                and library.EVP_PKEY_sign_init(context) == 1
                and library.EVP_PKEY_CTX_set_rsa_padding(context, _NO_PADDING) == 1
                and library.EVP_PKEY_sign(context, out, byref(length), block, len(block)) == 1
                and length.value == self._size
            )
        finally:
            library.EVP_PKEY_CTX_free(context)
        if not done:
            library.ERR_clear_error()
            raise TokenError("signing_failed", "libcrypto refused the private operation")
        return bytes(out)


@cache
def _loaded() -> Any:
    for name in _LIBRARIES:
        try:
            library = ctypes.CDLL(name)
            for function, (result, arguments) in _SIGNATURES.items():
                found = getattr(library, function)
                found.restype, found.argtypes = result, arguments
        except (OSError, AttributeError):  # not there, or older than OpenSSL 3
            continue
        return library
    raise TokenError("no_libcrypto", "issuing tokens needs OpenSSL 3 or later (libcrypto)")
