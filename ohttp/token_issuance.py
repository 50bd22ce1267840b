"""Issuing tokens of type 2 (RFC 9578 section 6): what a client asks, what an issuer answers. No sockets here."""

from collections.abc import Mapping
from dataclasses import dataclass

from .blind_rsa import Blinding, Random, SigningKey
from .errors import TokenError
from .private_token import BLIND_RSA, NONCE_BYTES, VARIANT, Token, TokenChallenge, token_input
from .token_key import SIGNATURE_BYTES, TokenKey

REQUEST_MEDIA_TYPE = "application/private-token-request"
RESPONSE_MEDIA_TYPE = "application/private-token-response"
REQUEST_BYTES = 2 + 1 + SIGNATURE_BYTES


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What an issuer sees (section 6.1): one byte of its own key's id, and a number that says nothing."""

    truncated_key_id: int
    blinded: bytes

    def encode(self) -> bytes:
        """259 bytes."""
        return BLIND_RSA.to_bytes(2) + self.truncated_key_id.to_bytes(1) + self.blinded

    @classmethod
    def parse(cls, data: bytes) -> "TokenRequest":
        """Raises TokenError (``malformed``, ``unsupported`` for another type)."""
        if len(data) < 2 or int.from_bytes(data[:2]) != BLIND_RSA:
            raise TokenError("unsupported" if len(data) >= 2 else "malformed", "not a request of type 2")
        if len(data) != REQUEST_BYTES:
            raise TokenError("malformed", f"a token request has {REQUEST_BYTES} bytes")
        return cls(data[2], data[3:])


@dataclass(frozen=True, slots=True, repr=False)
class PendingToken:
    """A client's side of one token: ``request`` goes to the issuer, its answer makes the token. For one use."""

    request: TokenRequest
    _blinding: Blinding
    _nonce: bytes
    _challenge_digest: bytes
    _key: TokenKey

    @classmethod
    def begin(cls, challenge: TokenChallenge, key: TokenKey, random: Random) -> "PendingToken":
        """Draws the nonce, then what the blinding needs. Raises TokenError."""
        if challenge.token_type != BLIND_RSA:
            raise TokenError("unsupported", "the challenge asks for another type of token")
        nonce = random(NONCE_BYTES)
        signed = token_input(nonce, challenge.digest, key.key_id)
        blinding = Blinding.of(key.public, VARIANT, signed, random)
        request = TokenRequest(key.truncated_key_id, blinding.request)
        return cls(request, blinding, nonce, challenge.digest, key)

    def finish(self, response: bytes) -> Token:
        """The token. Raises TokenError (``invalid_signature``) where the issuer did not sign, or with another key."""
        authenticator = self._blinding.finalize(response)
        return Token(self._nonce, self._challenge_digest, self._key.key_id, authenticator)


def issue(request: TokenRequest, keys: Mapping[int, SigningKey]) -> bytes:
    """The token response (section 6.2). ``keys``: the signing keys now, by truncated key id.

    Raises TokenError ``unknown_key``, ``invalid_input``, ``signing_fault``.
    """
    key = keys.get(request.truncated_key_id)
    if key is None:
        raise TokenError("unknown_key", "no key signs under this identifier now")
    return key.blind_sign(request.blinded)
