"""What a Privacy Pass token says and what it answers (RFC 9577 section 2, token type 2 of RFC 9578)."""

import hashlib
import hmac
from dataclasses import dataclass, field

from .blind_rsa import Variant
from .errors import TokenError
from .token_key import KEY_ID_BYTES, SIGNATURE_BYTES, TokenKey

BLIND_RSA = 0x0002
"""The token type: publicly verifiable, blind RSA with 2048 bits."""

VARIANT = Variant.PSS_DETERMINISTIC
NONCE_BYTES = 32
DIGEST_BYTES = 32
TOKEN_BYTES = 2 + NONCE_BYTES + DIGEST_BYTES + KEY_ID_BYTES + SIGNATURE_BYTES
MAX_NAME = 0xFFFF
MAX_CHALLENGE = 2 + 2 + MAX_NAME + 1 + 32 + 2 + MAX_NAME

_CONTEXT_SIZES = (0, 32)


@dataclass(frozen=True, slots=True)
class TokenChallenge:
    """What a token must have been made for (section 2.1.1).

    ``issuer_name``: whose token; ``redemption_context``: 32 bytes of the origin's choice, or none, which is what lets
    tokens be stocked; ``origin_info``: the names of the origins that take it, separated by commas, or empty for
    any. Raises TokenError (``malformed``).
    """

    issuer_name: str
    origin_info: str = ""
    redemption_context: bytes = b""
    token_type: int = BLIND_RSA

    def __post_init__(self) -> None:
        if not 0 <= self.token_type <= 0xFFFF:
            raise TokenError("malformed", "a token type has 16 bits")
        if not 1 <= len(self.issuer_name) <= MAX_NAME or len(self.origin_info) > MAX_NAME:
            raise TokenError("malformed", "an issuer's name is missing, or a name is too long")
        for name in (self.issuer_name, self.origin_info):
            if not (name.isascii() and name.replace(" ", "x").isprintable()):
                raise TokenError("malformed", "names in a challenge are printable ASCII")
        if len(self.redemption_context) not in _CONTEXT_SIZES:
            raise TokenError("malformed", "a redemption context has 32 bytes or none")

    def encode(self) -> bytes:
        """The structure as it travels and is hashed."""
        issuer, origin = self.issuer_name.encode("ascii"), self.origin_info.encode("ascii")
        return b"".join(
            (
                self.token_type.to_bytes(2),
                len(issuer).to_bytes(2) + issuer,
                len(self.redemption_context).to_bytes(1) + self.redemption_context,
                len(origin).to_bytes(2) + origin,
            )
        )

    @property
    def digest(self) -> bytes:
        """SHA-256 of the structure: it stands in the token."""
        return hashlib.sha256(self.encode()).digest()

    @classmethod
    def parse(cls, data: bytes) -> "TokenChallenge":
        """Raises TokenError (``malformed``, ``too_large``)."""
        if len(data) > MAX_CHALLENGE:
            raise TokenError("too_large", "longer than any challenge")
        reader = _Reader(data)
        token_type = reader.number(2)
        issuer = reader.take(reader.number(2))
        context = reader.take(reader.number(1))
        origin = reader.take(reader.number(2))
        reader.end()
        try:
            return cls(issuer.decode("ascii"), origin.decode("ascii"), context, token_type)
        except UnicodeDecodeError:
            raise TokenError("malformed", "names in a challenge are printable ASCII") from None


@dataclass(frozen=True, slots=True)
class Token:
    """A token of type 2 (section 2.2), shown once. ``nonce`` and ``authenticator`` tell it from every other."""

    nonce: bytes = field(repr=False)
    challenge_digest: bytes
    key_id: bytes
    authenticator: bytes = field(repr=False)

    def encode(self) -> bytes:
        """354 bytes."""
        return token_input(self.nonce, self.challenge_digest, self.key_id) + self.authenticator

    @classmethod
    def parse(cls, data: bytes) -> "Token":
        """Raises TokenError (``malformed``, ``unsupported`` for another type)."""
        if len(data) < 2 or int.from_bytes(data[:2]) != BLIND_RSA:
            raise TokenError("unsupported" if len(data) >= 2 else "malformed", "not a token of type 2")
        if len(data) != TOKEN_BYTES:
            raise TokenError("malformed", f"a token of type 2 has {TOKEN_BYTES} bytes")
        reader = _Reader(data[2:])
        return cls(
            reader.take(NONCE_BYTES),
            reader.take(DIGEST_BYTES),
            reader.take(KEY_ID_BYTES),
            reader.take(SIGNATURE_BYTES),
        )

    def check(self, challenge: TokenChallenge, key: TokenKey) -> None:
        """Raises TokenError unless ``key`` signed this token for ``challenge``.

        Codes: ``unsupported``, ``unknown_key``, ``other_challenge``, ``invalid_signature``. Whether it was spent
        before is not seen here.
        """
        if challenge.token_type != BLIND_RSA:
            raise TokenError("unsupported", "the challenge asks for another type of token")
        if not hmac.compare_digest(self.key_id, key.key_id):
            raise TokenError("unknown_key", "the token was signed by another key")
        if not hmac.compare_digest(self.challenge_digest, challenge.digest):
            raise TokenError("other_challenge", "the token was made for another issuer or origin")
        signed = token_input(self.nonce, self.challenge_digest, self.key_id)
        key.public.verify(VARIANT, signed, self.authenticator)


def token_input(nonce: bytes, challenge_digest: bytes, key_id: bytes) -> bytes:
    """What the issuer signs without seeing it: the token without its authenticator."""
    return BLIND_RSA.to_bytes(2) + nonce + challenge_digest + key_id


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, count: int) -> bytes:
        part = self._data[self._at : self._at + count]
        if len(part) != count:
            raise TokenError("malformed", "the structure ends early")
        self._at += count
        return part

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count))

    def end(self) -> None:
        if self._at != len(self._data):
            raise TokenError("malformed", "bytes follow the structure")
