"""The HTTP authentication scheme ``PrivateToken`` (RFC 9577 section 2): header values, written and read."""

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from .errors import TokenError
from .private_token import Token, TokenChallenge

SCHEME = "PrivateToken"
MAX_HEADER = 16 * 1024
MAX_CHALLENGES = 32

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_EQUALS = re.compile(r"[ \t]*=[ \t]*(?=[^\s,=])")
_VALUE = re.compile(r'"(?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[\x20-\x7e\t])*"|[!#$%&\'*+./^_`|~0-9A-Za-z-]+=*')
_TOKEN68 = re.compile(r"[ ]+[A-Za-z0-9._~+/-]+=*(?=[ \t]*(?:,|$))")
_GAP = re.compile(r"[ \t]*(?:,[ \t]*)*")
_SPACE = re.compile(r"[ \t]+")


@dataclass(frozen=True, slots=True)
class OfferedChallenge:
    """One challenge of a ``WWW-Authenticate`` header.

    ``challenge``: the structure's bytes; they are hashed as they came, so they are kept. ``token_key``: the issuer's
    public key as it came, or None. ``max_age``: seconds that the challenge stands, or None.
    """

    challenge: bytes
    token_key: bytes | None = field(default=None, repr=False)
    max_age: int | None = None

    @property
    def token_type(self) -> int:
        """The first two bytes; any type, also those that nobody here can make."""
        return int.from_bytes(self.challenge[:2])

    def parsed(self) -> TokenChallenge:
        """Raises TokenError (``malformed``)."""
        return TokenChallenge.parse(self.challenge)


def www_authenticate(challenges: Iterable[OfferedChallenge]) -> str:
    """The value of ``WWW-Authenticate``."""
    return ", ".join(_written(challenge) for challenge in challenges)


def authorization(token: Token) -> str:
    """The value of ``Authorization``."""
    return f'{SCHEME} token="{to_base64url(token.encode())}"'


def parse_www_authenticate(value: str) -> list[OfferedChallenge]:
    """The PrivateToken challenges, in order; other schemes and unknown parameters are passed over.

    Raises TokenError (``malformed``, ``too_large``).
    """
    found = [parameters for scheme, parameters in _credentials(value) if scheme.lower() == SCHEME.lower()]
    return [_offered(parameters) for parameters in found]


def parse_authorization(value: str) -> Token:
    """The token. Raises TokenError (``malformed``, ``too_large``, ``unsupported``, ``required`` for another scheme)."""
    credentials = _credentials(value)
    if len(credentials) != 1 or credentials[0][0].lower() != SCHEME.lower():
        raise TokenError("required", "no PrivateToken credentials")
    token = credentials[0][1].get("token")
    if token is None:
        raise TokenError("malformed", "the credentials hold no token")
    return Token.parse(from_base64url(token))


def to_base64url(data: bytes) -> str:
    """With its padding, as RFC 9577 has it."""
    return base64.urlsafe_b64encode(data).decode("ascii")


def from_base64url(text: str) -> bytes:
    """Padding may be left out whole; nothing else is forgiven. Raises TokenError (``malformed``)."""
    try:
        data = base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), b"-_", validate=True)
    except (ValueError, binascii.Error):
        raise TokenError("malformed", "not base64url") from None
    if text not in (to_base64url(data), to_base64url(data).rstrip("=")):
        raise TokenError("malformed", "not base64url")
    return data


def _written(offered: OfferedChallenge) -> str:
    parts = [f'challenge="{to_base64url(offered.challenge)}"']
    if offered.token_key is not None:
        parts.append(f'token-key="{to_base64url(offered.token_key)}"')
    if offered.max_age is not None:
        parts.append(f'max-age="{offered.max_age}"')
    return f"{SCHEME} {', '.join(parts)}"


def _offered(parameters: dict[str, str]) -> OfferedChallenge:
    challenge = from_base64url(parameters.get("challenge", ""))
    if len(challenge) < 2:
        raise TokenError("malformed", "a challenge without its structure")
    key, age = parameters.get("token-key"), parameters.get("max-age")
    if age is not None and not re.fullmatch(r"[0-9]{1,10}", age):
        raise TokenError("malformed", "max-age is a number of seconds")
    return OfferedChallenge(
        challenge, None if key is None else from_base64url(key), None if age is None else int(age)
    )


def _credentials(value: str) -> list[tuple[str, dict[str, str]]]:
    """Schemes with their parameters (RFC 9110 section 11): ``Scheme name=value, name="value", Other token68``."""
    if len(value) > MAX_HEADER:
        raise TokenError("too_large", f"an authentication header has at most {MAX_HEADER} bytes")
    found: list[tuple[str, dict[str, str]]] = []
    at = _skip(_GAP, value, 0)
    while at < len(value):
        name = _NAME.match(value, at)
        if name is None:
            raise _malformed()
        equals = _EQUALS.match(value, name.end())
        if equals is None:
            at = _scheme(found, name[0], value, name.end())
            continue
        content = _VALUE.match(value, equals.end())
        if content is None or not found or name[0].lower() in found[-1][1]:
            raise _malformed()
        found[-1][1][name[0].lower()] = _unquoted(content[0])
        at = _separated(value, content.end())
    return found


def _scheme(found: list[tuple[str, dict[str, str]]], name: str, value: str, at: int) -> int:
    found.append((name, {}))
    if len(found) > MAX_CHALLENGES:
        raise TokenError("too_large", f"at most {MAX_CHALLENGES} challenges")
    token68 = _TOKEN68.match(value, at)
    if token68 is not None:
        return _separated(value, token68.end())
    space = _SPACE.match(value, at)
    return space.end() if space is not None and space.end() < len(value) else _separated(value, at)


def _separated(value: str, at: int) -> int:
    """The start of the next element; something must separate it from what ended at ``at``."""
    after = _skip(_GAP, value, at)
    if after < len(value) and "," not in value[at:after]:
        raise _malformed()
    return after


def _skip(pattern: re.Pattern[str], value: str, at: int) -> int:
    match = pattern.match(value, at)
    return at if match is None else match.end()


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text


def _malformed() -> TokenError:
    return TokenError("malformed", "not an authentication header")
