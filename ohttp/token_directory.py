"""An issuer's directory (RFC 9578 section 4): where it takes requests, and under which keys it signs, from when on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import TokenError
from .private_token import BLIND_RSA
from .token_header import from_base64url, to_base64url
from .token_key import TokenKey

WELL_KNOWN = "/.well-known/private-token-issuer-directory"
MEDIA_TYPE = "application/private-token-issuer-directory"
MAX_DIRECTORY = 64 * 1024
MAX_KEYS = 64


@dataclass(frozen=True, slots=True)
class ListedKey:
    """A key and the POSIX second from which on it is used."""

    key: TokenKey
    not_before: int = 0


@dataclass(frozen=True, slots=True)
class IssuerDirectory:
    """``request_uri``: absolute, or relative to the directory's own URL. ``keys``: of type 2, in preference order."""

    request_uri: str
    keys: tuple[ListedKey, ...]

    def encode(self) -> bytes:
        """The JSON document."""
        keys = [
            {
                "token-type": BLIND_RSA,
                "token-key": to_base64url(listed.key.spki),
                "not-before": listed.not_before,
            }
            for listed in self.keys
        ]
        return json.dumps({"issuer-request-uri": self.request_uri, "token-keys": keys}).encode()

    @classmethod
    def parse(cls, data: bytes) -> "IssuerDirectory":
        """Keys of other types are passed over. Raises TokenError (``malformed``, ``too_large``)."""
        if len(data) > MAX_DIRECTORY:
            raise TokenError("too_large", f"an issuer's directory has at most {MAX_DIRECTORY} bytes")
        try:
            document = json.loads(data.decode("utf-8"))
        except (ValueError, RecursionError):
            raise _malformed() from None
        if not isinstance(document, dict):
            raise _malformed()
        uri, keys = document.get("issuer-request-uri"), document.get("token-keys")
        if not isinstance(uri, str) or not isinstance(keys, list) or len(keys) > MAX_KEYS:
            raise _malformed()
        if not (uri.isascii() and uri.isprintable() and 1 <= len(uri) <= 2048):
            raise _malformed()
        listed = [_listed(entry) for entry in keys if not _of_another_type(entry)]
        return cls(uri, tuple(listed))

    def current(self, at: float) -> TokenKey:
        """The first key in use at ``at`` (POSIX seconds). Raises TokenError (``unknown_key``)."""
        for listed in self.keys:
            if listed.not_before <= at:
                return listed.key
        raise TokenError("unknown_key", "the issuer has no key of type 2 in use")


def choose(directory: IssuerDirectory, accepted: Sequence[bytes], at: float) -> TokenKey:
    """The first key in use that is among ``accepted`` (key ids): others would mark whoever used them.

    Raises TokenError (``key_mismatch``).
    """
    for listed in directory.keys:
        if listed.not_before <= at and listed.key.key_id in accepted:
            return listed.key
    raise TokenError("key_mismatch", "no key of the issuer's is one that the node takes")


def _listed(entry: object) -> ListedKey:
    if not isinstance(entry, dict):
        raise _malformed()
    key, since = entry.get("token-key"), entry.get("not-before", 0)
    if not isinstance(key, str) or type(since) is not int or not 0 <= since < 1 << 62:
        raise _malformed()
    return ListedKey(TokenKey.parse(from_base64url(key)), since)


def _of_another_type(entry: object) -> bool:
    return isinstance(entry, dict) and entry.get("token-type") != BLIND_RSA


def _malformed() -> TokenError:
    return TokenError("malformed", "not an issuer's directory")
