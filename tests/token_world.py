"""An issuer's keys and a few tokens, made once for all tests."""

import os
from functools import cache

from ohttp.blind_rsa import SigningKey, generate_pkcs8
from ohttp.private_token import Token, TokenChallenge
from ohttp.token_issuance import PendingToken, issue
from ohttp.token_key import TokenKey
from ohttp.token_policy import AcceptedKey, TokenPolicy

CHALLENGE = TokenChallenge("issuer.test", "node.test")


def signer(number: int = 0) -> SigningKey:
    """A key of 2048 bits; another for each number, each with its own truncated key id."""
    return _signer(number)


@cache
def _signer(number: int) -> SigningKey:
    taken = {token_key(earlier).truncated_key_id for earlier in range(number)}
    while True:
        key = SigningKey(generate_pkcs8())
        if TokenKey.of(key.public).truncated_key_id not in taken:
            return key


def token_key(number: int = 0) -> TokenKey:
    return TokenKey.of(signer(number).public)


def new_token(number: int = 0, challenge: TokenChallenge = CHALLENGE) -> Token:
    """A token that the issuer has just signed."""
    key = token_key(number)
    pending = PendingToken.begin(challenge, key, os.urandom)
    return pending.finish(issue(pending.request, {key.truncated_key_id: signer(number)}))


NOW = 1_800_000_000
WEEK = 7 * 86_400
PATHS = ("/v1/chat/completions", "/v1/completions")


def token_policy(*, not_before: int = NOW - WEEK // 2, number: int = 0) -> TokenPolicy:
    """A node's policy with one key, which holds for two weeks from ``not_before``."""
    accepted = AcceptedKey(token_key(number), not_before, not_before + 2 * WEEK)
    return TokenPolicy(CHALLENGE.issuer_name, CHALLENGE.origin_info, PATHS, (accepted,))
