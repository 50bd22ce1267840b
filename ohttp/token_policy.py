"""Which tokens a node asks for: whose, for which origin, under which keys, on which paths.

The policy is part of a node's measured configuration, so everybody who verifies the node sees the same few keys. An
issuer that gave a user a key of their own, to know their tokens again, would have to get it into a published release.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import TokenError
from .private_token import Token, TokenChallenge
from .token_header import OfferedChallenge, from_base64url, to_base64url
from .token_key import TokenKey

MAX_KEYS = 32
MAX_AT_ONCE = 2
"""Keys accepted at a time: the one that signs now, and the one before it. Each divides the crowd of users."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_PATH = re.compile(r"/[A-Za-z0-9._/-]{0,127}")
_MEMBERS = {"issuer", "origin", "paths", "keys"}
_KEY_MEMBERS = {"key", "not_before", "not_after"}


@dataclass(frozen=True, slots=True)
class AcceptedKey:
    """A key whose tokens are taken from ``not_before`` until ``not_after`` (POSIX seconds)."""

    key: TokenKey
    not_before: int
    not_after: int

    def holds(self, at: float) -> bool:
        """Whether tokens under this key are taken at ``at``."""
        return self.not_before <= at < self.not_after


@dataclass(frozen=True, slots=True)
class TokenPolicy:
    """``issuer`` and ``origin``: names as in the challenge. ``paths``: where a POST costs a token.

    Raises TokenError (``configuration``) where keys are too many, none, or more than two at a time.
    """

    issuer: str
    origin: str
    paths: tuple[str, ...]
    keys: tuple[AcceptedKey, ...]

    def __post_init__(self) -> None:
        if not (_NAME.fullmatch(self.issuer) and _NAME.fullmatch(self.origin)):
            raise _refused("issuer and origin are host names in lower case")
        if not 1 <= len(self.paths) <= 16 or not all(_PATH.fullmatch(path) for path in self.paths):
            raise _refused("1 to 16 plain paths cost a token")
        if not 1 <= len(self.keys) <= MAX_KEYS or len({k.key.key_id for k in self.keys}) < len(self.keys):
            raise _refused(f"1 to {MAX_KEYS} different keys sign tokens")
        if any(not 0 <= key.not_before < key.not_after < 1 << 53 for key in self.keys):
            raise _refused("a key's time ends after it begins")
        if any(len(self.accepted(key.not_before)) > MAX_AT_ONCE for key in self.keys):
            raise _refused(f"at most {MAX_AT_ONCE} keys hold at a time")

    @property
    def challenge(self) -> TokenChallenge:
        """What every token must have been made for. No redemption context, so that tokens can be stocked."""
        return TokenChallenge(self.issuer, self.origin)

    def costs(self, method: str, path: str) -> bool:
        """Whether this request has to bring a token."""
        return method == "POST" and path in self.paths

    def accepted(self, at: float) -> list[AcceptedKey]:
        """The keys whose tokens are taken at ``at``, the newest first."""
        return sorted((key for key in self.keys if key.holds(at)), key=lambda key: -key.not_before)

    def takes(self, token: Token, at: float) -> bool:
        """Whether ``token`` says that it was made for this policy, under a key that holds at ``at``.

        For choosing among one's own tokens: no signature is looked at.
        """
        return token.challenge_digest == self.challenge.digest and any(
            accepted.key.key_id == token.key_id for accepted in self.accepted(at)
        )

    def offer(self, at: float) -> OfferedChallenge:
        """The challenge for ``WWW-Authenticate`` at ``at``."""
        keys = self.accepted(at)
        return OfferedChallenge(self.challenge.encode(), keys[0].key.spki if keys else None)

    def manifest(self) -> dict[str, Any]:
        """The policy as a manifest or a configuration says it; ``parse`` reads it."""
        return {
            "issuer": self.issuer,
            "origin": self.origin,
            "paths": list(self.paths),
            "keys": [
                {"key": to_base64url(k.key.spki), "not_before": k.not_before, "not_after": k.not_after}
                for k in self.keys
            ],
        }

    @classmethod
    def parse(cls, table: Mapping[str, Any]) -> "TokenPolicy":
        """Raises TokenError (``configuration``, or a key's own) for what is not exactly such a table."""
        if set(table) != _MEMBERS or not isinstance(table["keys"], list) or len(table["keys"]) > MAX_KEYS:
            raise _refused("members are missing or unknown")
        paths = table["paths"]
        if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
            raise _refused("'paths' is no list of paths")
        if not all(isinstance(table[name], str) for name in ("issuer", "origin")):
            raise _refused("a name is no text")
        return cls(table["issuer"], table["origin"], tuple(paths), tuple(map(_accepted, table["keys"])))


def _accepted(entry: object) -> AcceptedKey:
    if not isinstance(entry, dict) or set(entry) != _KEY_MEMBERS:
        raise _refused("members of a key are missing or unknown")
    times = [entry[name] for name in ("not_before", "not_after")]
    if not isinstance(entry["key"], str) or any(type(time) is not int for time in times):
        raise _refused("a key is text, its times are whole seconds")
    return AcceptedKey(TokenKey.parse(from_base64url(entry["key"])), *times)


def _refused(detail: str) -> TokenError:
    return TokenError("configuration", detail)
