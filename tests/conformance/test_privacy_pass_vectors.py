"""Privacy Pass against the vectors of RFC 9577 and RFC 9578."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ohttp.blind_rsa import SigningKey
from ohttp.private_token import Token, TokenChallenge, token_input
from ohttp.token_header import (
    OfferedChallenge,
    authorization,
    parse_authorization,
    parse_www_authenticate,
    www_authenticate,
)
from ohttp.token_issuance import PendingToken, TokenRequest, issue
from ohttp.token_key import TokenKey


class Scripted:
    def __init__(self, *first: bytes) -> None:
        self._first = list(first)

    def __call__(self, count: int) -> bytes:
        part = self._first.pop(0) if self._first else os.urandom(count)
        assert len(part) == count
        return part


def sets(vectors: Path, name: str) -> list[tuple[str, Any]]:
    document = json.loads((vectors / "ohttp" / name).read_text())
    found = [
        (f"{member} {position}", case)
        for member, cases in document.items()
        if isinstance(cases, list)
        for position, case in enumerate(cases)
    ]
    assert found
    return found


def test_rfc_9578_issuance(vectors: Path, subtests: pytest.Subtests) -> None:
    for name, case in sets(vectors, "rfc9578_type2_blind_rsa.json"):
        with subtests.test(name):
            value = {member: bytes.fromhex(text) for member, text in case.items()}
            key, signer = TokenKey.parse(value["pkS"]), SigningKey.from_pem(value["skS"])
            assert TokenKey.of(signer.public) == key
            challenge = TokenChallenge.parse(value["token_challenge"])
            assert challenge.encode() == value["token_challenge"]
            drawn = Scripted(value["nonce"], value["salt"], value["blind"])
            pending = PendingToken.begin(challenge, key, drawn)
            assert pending.request.encode() == value["token_request"]
            request = TokenRequest.parse(value["token_request"])
            response = issue(request, {key.truncated_key_id: signer})
            assert response == value["token_response"]
            token = pending.finish(response)
            assert token.encode() == value["token"]
            Token.parse(value["token"]).check(challenge, key)
            assert parse_authorization(authorization(token)) == token


def test_rfc_9577_headers(vectors: Path, subtests: pytest.Subtests) -> None:
    for name, case in sets(vectors, "rfc9577_auth_scheme.json"):
        if "WWW-Authenticate" not in case:
            continue
        with subtests.test(name):
            offered = parse_www_authenticate(case["WWW-Authenticate"])
            count = sum(member.startswith("token-type-") for member in case)
            assert len(offered) == count
            for position, found in enumerate(offered):
                assert found.token_type == case[f"token-type-{position}"]
                assert (found.token_key or b"").hex() == case.get(f"token-key-{position}", "")
                assert found.max_age == case.get(f"max-age-{position}")
                assert found.challenge.hex() == case[f"token-challenge-{position}"]
                assert found.parsed().encode() == found.challenge
            assert parse_www_authenticate(www_authenticate(offered)) == offered


def test_rfc_9577_token_inputs(vectors: Path, subtests: pytest.Subtests) -> None:
    for name, case in sets(vectors, "rfc9577_auth_scheme.json"):
        if "token_authenticator_input" not in case:
            continue
        with subtests.test(name):
            value = {m: bytes.fromhex(t) for m, t in case.items() if m != "comment"}
            challenge = TokenChallenge(
                value["issuer_name"].decode(),
                value["origin_info"].decode(),
                value["redemption_context"],
                int.from_bytes(value["token_type"]),
            )
            found = token_input(value["nonce"], challenge.digest, value["token_key_id"])
            assert found == value["token_authenticator_input"]
            assert OfferedChallenge(challenge.encode()).parsed() == challenge
