"""RSA blind signatures (RFC 9474): a signer signs what it cannot see, and cannot tell afterwards what it signed.

    prepared = prepare(variant, message, random)
    blinding = Blinding.of(public, variant, prepared, random)
    signed = signing_key.blind_sign(blinding.request)        # the signer, elsewhere
    signature = blinding.finalize(signed)

Randomness comes from the caller, as ``random(count) -> bytes``: ``os.urandom`` or ``secrets.token_bytes``.
"""

import hmac
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from . import pss
from .errors import TokenError
from .libcrypto import RsaPrivateKey

MIN_MODULUS_BITS, MAX_MODULUS_BITS = 2048, 8192
MAX_EXPONENT = (1 << 32) - 1
MAX_PRIVATE_KEY = 16 * 1024
PREFIX_BYTES = 32
_DRAWS = 128

Random = Callable[[int], bytes]


class Variant(Enum):
    """The named variants of RFC 9474 section 5: name, salt length, whether a random prefix is prepended."""

    PSS_RANDOMIZED = ("RSABSSA-SHA384-PSS-Randomized", 48, True)
    PSSZERO_RANDOMIZED = ("RSABSSA-SHA384-PSSZERO-Randomized", 0, True)
    PSS_DETERMINISTIC = ("RSABSSA-SHA384-PSS-Deterministic", 48, False)
    PSSZERO_DETERMINISTIC = ("RSABSSA-SHA384-PSSZERO-Deterministic", 0, False)

    def __init__(self, label: str, salt_bytes: int, randomized: bool) -> None:
        self.label = label
        self.salt_bytes = salt_bytes
        self.randomized = randomized


@dataclass(frozen=True, slots=True)
class PublicKey:
    """Modulus and exponent. Raises TokenError (``invalid_key``, ``key_too_small``) for what no signer should have."""

    n: int
    e: int
    _verifier: rsa.RSAPublicKey = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.n.bit_length() < MIN_MODULUS_BITS:
            raise TokenError("key_too_small", f"a modulus has at least {MIN_MODULUS_BITS} bits")
        if self.n.bit_length() > MAX_MODULUS_BITS or self.n % 2 == 0:
            raise TokenError("invalid_key", "not the modulus of an RSA key")
        if not 3 <= self.e <= MAX_EXPONENT or self.e % 2 == 0:
            raise TokenError("invalid_key", "not the exponent of an RSA key")
        try:
            object.__setattr__(self, "_verifier", rsa.RSAPublicNumbers(self.e, self.n).public_key())
        except (ValueError, UnsupportedAlgorithm):
            raise TokenError("invalid_key", "not an RSA public key") from None

    @property
    def size(self) -> int:
        """Bytes of the modulus, and of every blinded message and signature."""
        return -(-self.n.bit_length() // 8)

    def verify(self, variant: Variant, prepared: bytes, signature: bytes) -> None:
        """Raises TokenError (``invalid_signature``) unless ``signature`` is one over ``prepared``."""
        scheme = padding.PSS(padding.MGF1(hashes.SHA384()), variant.salt_bytes)
        try:
            self._verifier.verify(signature, prepared, scheme, hashes.SHA384())
        except (InvalidSignature, ValueError):
            raise _invalid_signature() from None


def prepare(variant: Variant, message: bytes, random: Random) -> bytes:
    """What is signed for ``message``: itself, or itself behind 32 random bytes (section 4.1)."""
    return random(PREFIX_BYTES) + message if variant.randomized else message


@dataclass(frozen=True, slots=True, repr=False)
class Blinding:
    """A client's side of one signature (sections 4.2 and 4.4): ``request`` goes to the signer. For one use.

    What it holds besides would link the request to the signature, so it is never shown.
    """

    public: PublicKey
    variant: Variant
    prepared: bytes
    request: bytes
    _inverse: int

    @classmethod
    def of(cls, public: PublicKey, variant: Variant, prepared: bytes, random: Random) -> "Blinding":
        """Encode and blind ``prepared``. Draws the salt, then the blinding factor.

        Raises TokenError ``invalid_input`` for a message that shares a factor with the modulus, ``blinding``
        where ``random`` gives no usable factor.
        """
        n = public.n
        encoded = pss.encode(prepared, n.bit_length() - 1, random(variant.salt_bytes))
        message, factor = int.from_bytes(encoded), _below(public, random)
        # Python's gcd and inverse take a time that depends on their input: they get secrets multiplied by noise.
        mask = _below(public, random)
        if math.gcd(message * mask % n, n) != 1:
            raise TokenError("invalid_input", "the message shares a factor with the modulus")
        try:
            inverse = pow(factor * mask % n, -1, n) * mask % n
        except ValueError:
            raise TokenError("blinding", "a random number shares a factor with the modulus") from None
        blinded = message * pow(factor, public.e, n) % n
        return cls(public, variant, prepared, blinded.to_bytes(public.size), inverse)

    def finalize(self, signed: bytes) -> bytes:
        """The signature, out of the signer's answer. Raises TokenError (``invalid_signature``)."""
        if len(signed) != self.public.size:
            raise _invalid_signature()
        signature = int.from_bytes(signed) * self._inverse % self.public.n
        result = signature.to_bytes(self.public.size)
        self.public.verify(self.variant, self.prepared, result)
        return result


class SigningKey:
    """A signer's key: the public half, and the private one inside libcrypto.

    Raises TokenError ``no_libcrypto``, ``invalid_key``, ``key_too_small``.
    """

    __slots__ = ("_private", "public")

    def __init__(self, der: bytes) -> None:
        """``der``: PKCS #8, unencrypted."""
        if len(der) > MAX_PRIVATE_KEY:
            raise TokenError("invalid_key", "longer than any private key")
        try:
            # Its primes are not tested: a wrong key gives wrong results, and none of those leaves ``blind_sign``.
            loaded = serialization.load_der_private_key(der, None, unsafe_skip_rsa_key_validation=True)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise TokenError("invalid_key", "not an unencrypted PKCS #8 private key") from None
        if not isinstance(loaded, rsa.RSAPrivateKey):
            raise TokenError("invalid_key", "not an RSA private key")
        numbers = loaded.public_key().public_numbers()
        self.public = PublicKey(numbers.n, numbers.e)
        self._private = RsaPrivateKey(der, self.public.size)

    @classmethod
    def from_pem(cls, pem: bytes) -> "SigningKey":
        """From the text form of PKCS #8."""
        try:
            key = serialization.load_pem_private_key(
                pem[: 2 * MAX_PRIVATE_KEY], None, unsafe_skip_rsa_key_validation=True
            )
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise TokenError("invalid_key", "not an unencrypted PKCS #8 private key") from None
        if not isinstance(key, rsa.RSAPrivateKey):
            raise TokenError("invalid_key", "not an RSA private key")
        return cls(_pkcs8(key))

    def blind_sign(self, request: bytes) -> bytes:
        """Sign a blinded message (section 4.3). Raises TokenError.

        ``invalid_input`` for what is no number below the modulus. ``signing_fault`` where the result does not lead
        back to the request: a computation that went wrong under the Chinese remainder theorem would give the
        factors of the modulus to whoever saw it, so nobody does.
        """
        n = self.public.n
        if len(request) != self.public.size or int.from_bytes(request) >= n:
            raise TokenError("invalid_input", "not a number below the modulus, in its size")
        signed = self._private.apply(request)
        again = pow(int.from_bytes(signed), self.public.e, n).to_bytes(self.public.size)
        if not hmac.compare_digest(again, request):
            raise TokenError("signing_fault", "the private operation went wrong; nothing was given out")
        return signed


def generate_pkcs8(bits: int = 2048) -> bytes:
    """A new private key as unencrypted PKCS #8 DER, for a file that only its owner reads."""
    return _pkcs8(rsa.generate_private_key(65537, bits))


def _pkcs8(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _below(public: PublicKey, random: Random) -> int:
    """Uniform in 1 … n - 1, by rejection."""
    surplus = 8 * public.size - public.n.bit_length()
    for _ in range(_DRAWS):
        drawn = int.from_bytes(random(public.size)) >> surplus
        if 0 < drawn < public.n:
            return drawn
    raise TokenError("blinding", "the source of randomness gives no number below the modulus")


def _invalid_signature() -> TokenError:
    return TokenError("invalid_signature", "not the signer's signature over this message")
