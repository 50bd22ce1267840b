"""Tokens, challenges, headers and directories: whatever bytes come, the errors stay in the family."""

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from token_world import CHALLENGE, new_token, token_key

from ohttp.errors import OhttpError, TokenError
from ohttp.private_token import Token, TokenChallenge
from ohttp.token_directory import IssuerDirectory, ListedKey, choose
from ohttp.token_header import (
    OfferedChallenge,
    authorization,
    from_base64url,
    parse_authorization,
    parse_www_authenticate,
    to_base64url,
    www_authenticate,
)
from ohttp.token_issuance import TokenRequest
from ohttp.token_key import TokenKey

Parser = Callable[[bytes], object]


def header(data: bytes) -> object:
    return parse_www_authenticate(data.decode("latin-1"))


def credentials(data: bytes) -> object:
    return parse_authorization(data.decode("latin-1"))


DIRECTORY = IssuerDirectory("/token-request", (ListedKey(token_key(), 5), ListedKey(token_key(1), 50)))
OFFER = OfferedChallenge(CHALLENGE.encode(), token_key().spki, 10)
PARSERS: dict[str, tuple[Parser, bytes]] = {
    "challenge": (TokenChallenge.parse, TokenChallenge("issuer.test", "a.test,b.test", b"r" * 32).encode()),
    "token": (Token.parse, new_token().encode()),
    "request": (TokenRequest.parse, b"\0\x02" + bytes(257)),
    "key": (TokenKey.parse, token_key().spki),
    "directory": (IssuerDirectory.parse, DIRECTORY.encode()),
    "www-authenticate": (header, www_authenticate([OFFER, OFFER]).encode()),
    "authorization": (credentials, authorization(new_token()).encode()),
}


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.data())
def test_anything_stays_in_the_family(name: str, data: st.DataObject) -> None:
    parse, good = PARSERS[name]
    cut = data.draw(st.integers(0, len(good)))
    for attempt in (data.draw(st.binary(max_size=600)), good[:cut] + data.draw(st.binary(max_size=40))):
        with contextlib.suppress(OhttpError):
            parse(attempt)


@pytest.mark.parametrize("name", PARSERS)
def test_every_truncation_and_every_changed_byte(name: str) -> None:
    parse, good = PARSERS[name]
    parse(good)
    for length in range(len(good)):
        if name in ("www-authenticate", "authorization"):
            with contextlib.suppress(OhttpError):
                parse(good[:length])  # a header may well end earlier
        else:
            with pytest.raises(OhttpError):
                parse(good[:length])
    for position in range(len(good)):
        for mask in (0x01, 0x80, 0xFF):
            changed = bytearray(good)
            changed[position] ^= mask
            with contextlib.suppress(OhttpError):
                assert parse(bytes(changed)) != parse(good) or name in ("directory", "authorization")


def test_a_key_has_one_form() -> None:
    key = token_key()
    assert TokenKey.parse(key.spki) == key
    plain = key.public._verifier
    from cryptography.hazmat.primitives import serialization

    encoded = plain.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(TokenError, match="unsupported"):
        TokenKey.parse(encoded)  # the same key, named as plain RSA


@pytest.mark.parametrize(
    ("value", "schemes"),
    [
        ("", 0),
        ("Basic realm=x", 0),
        ("Basic YWJj==", 0),
        ('Negotiate, Basic realm="a,b PrivateToken"', 0),
        (f'Basic realm="x", {www_authenticate([OFFER])}, Negotiate YWJj', 1),
        (f'privatetoken challenge = {to_base64url(OFFER.challenge)} , future="a\\"b"', 1),
        (", ,", 0),
    ],
)
def test_other_schemes_are_passed_over(value: str, schemes: int) -> None:
    assert len(parse_www_authenticate(value)) == schemes


@pytest.mark.parametrize(
    "value",
    [
        "realm=x",
        'PrivateToken challenge="AAI"x',
        "PrivateToken challenge=AAI, challenge=AAI",
        "PrivateToken token-key=AAI",
        "PrivateToken challenge=A",
        "PrivateToken challenge=AB",
        "PrivateToken challenge=AAI=, max-age=-1",
        'PrivateToken challenge="AAI',
        "PrivateToken " + ", ".join(["x"] * 40),
        "x" * 20_000,
    ],
)
def test_malformed_headers(value: str) -> None:
    with pytest.raises(TokenError, match=r"malformed|too_large"):
        parse_www_authenticate(value)


def test_credentials_are_one_token() -> None:
    one = authorization(new_token())
    assert parse_authorization(one.replace('"', "")) == parse_authorization(one)
    for value in ("", "Bearer abc", f"{one}, {one}"):
        with pytest.raises(TokenError, match="required"):
            parse_authorization(value)
    with pytest.raises(TokenError, match="malformed"):
        parse_authorization("PrivateToken tokens=AAI=")


@given(st.binary(max_size=50))
def test_base64url(data: bytes) -> None:
    text = to_base64url(data)
    assert from_base64url(text) == from_base64url(text.rstrip("=")) == data
    for wrong in (text + "=", text + "A===", "=" + text, text + " ", text + "+"):
        with pytest.raises(TokenError):
            from_base64url(wrong)


def test_a_directory_tells_the_key_of_the_time() -> None:
    assert IssuerDirectory.parse(DIRECTORY.encode()) == DIRECTORY
    assert DIRECTORY.current(5) == token_key()
    with pytest.raises(TokenError, match="unknown_key"):
        DIRECTORY.current(4)
    assert choose(DIRECTORY, [token_key(1).key_id], 50) == token_key(1)
    with pytest.raises(TokenError, match="key_mismatch"):
        choose(DIRECTORY, [token_key(1).key_id], 49)


def test_a_directory_may_list_keys_of_other_types() -> None:
    document = DIRECTORY.encode().replace(
        b'"token-keys": [', b'"token-keys": [{"token-type": 1, "token-key": 7}, '
    )
    assert IssuerDirectory.parse(document) == DIRECTORY


@pytest.mark.parametrize("names", [("", "x"), ("x" * 70_000, ""), ("x\n", ""), ("ü", ""), ("x", "a\0b")])
def test_names_are_plain(names: tuple[str, str]) -> None:
    with pytest.raises(TokenError, match="malformed"):
        TokenChallenge(*names)
