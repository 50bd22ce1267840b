"""What a user, an issuer and an operator may try with blind tokens, each beside a control in which it succeeds."""

import asyncio
import math
import os
import secrets
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from gateway_driver import drive
from token_world import CHALLENGE, NOW, PATHS, WEEK, new_token, signer, token_key, token_policy

from ohttp import blind_rsa
from ohttp.blind_rsa import Blinding, SigningKey, Variant, generate_pkcs8
from ohttp.errors import TokenError
from ohttp.private_token import VARIANT, Token, TokenChallenge, token_input
from ohttp.spent_tokens import MemorySpentTokens
from ohttp.token_gate import TokenGate
from ohttp.token_header import authorization
from ohttp.token_issuance import PendingToken, issue
from ohttp.token_policy import AcceptedKey, TokenPolicy
from ohttp.token_wallet import StoredToken, Wallet


async def answering(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


class Forgetful:
    """A memory of spent tokens that remembers nothing: what a gate without one would be."""

    async def spend(self, token: Token, until: int, now: float) -> None:
        pass


def gate(policy: TokenPolicy | None = None, spent: Any = None) -> TokenGate:
    memory = MemorySpentTokens() if spent is None else spent
    return TokenGate(answering, policy or token_policy(), memory, now=lambda: NOW)


def show(at: TokenGate, token: Token | bytes) -> int:
    value = authorization(token) if isinstance(token, Token) else token.decode("latin-1")
    headers = [(b"authorization", value.encode("latin-1"))]
    return asyncio.run(drive(at, b"", method="POST", path=PATHS[0], headers=headers)).status


def test_spend_one_token_twice() -> None:
    token, node = new_token(), gate()
    assert [show(node, token) for _ in range(3)] == [200, 401, 401]
    control = gate(spent=Forgetful())
    assert [show(control, token) for _ in range(3)] == [200, 200, 200]


def test_spend_a_token_at_another_node() -> None:
    elsewhere = TokenChallenge(CHALLENGE.issuer_name, "other.test")
    token = new_token(0, elsewhere)
    assert show(gate(), token) == 401
    keys = token_policy().keys
    assert show(gate(TokenPolicy(CHALLENGE.issuer_name, "other.test", PATHS, keys)), token) == 200


def test_spend_a_token_of_another_epoch_or_issuer() -> None:
    token = new_token(1)
    assert show(gate(), token) == 401
    assert show(gate(token_policy(number=1)), token) == 200
    over = AcceptedKey(token_key(), NOW - 2 * WEEK, NOW)
    policy = TokenPolicy(CHALLENGE.issuer_name, CHALLENGE.origin_info, PATHS, (over,))
    assert show(gate(policy), new_token()) == 401


def test_relabel_a_token_for_the_key_or_origin_that_is_wanted() -> None:
    token = new_token(1)
    relabelled = Token(token.nonce, token.challenge_digest, token_key().key_id, token.authenticator)
    assert show(gate(), relabelled) == 401
    elsewhere = new_token(0, TokenChallenge(CHALLENGE.issuer_name, "other.test"))
    assert (
        show(gate(), Token(elsewhere.nonce, CHALLENGE.digest, elsewhere.key_id, elsewhere.authenticator))
        == 401
    )


def test_change_any_byte_of_a_token() -> None:
    token, node = new_token().encode(), gate()
    for position in range(len(token)):
        changed = bytearray(token)
        changed[position] ^= 1 << secrets.randbelow(8)
        try:
            parsed = Token.parse(bytes(changed))
        except TokenError:
            continue
        assert show(node, parsed) == 401, position
    assert show(node, Token.parse(token)) == 200  # and none of these attempts has spent it


def test_make_one_token_into_two() -> None:
    """A second form of one token would be a second token: base64 with other padding, another header, is not."""
    token, node = new_token(), gate()
    value = authorization(token)
    assert show(node, value.encode()) == 200
    for other in (value.replace('"', ""), value.replace("PrivateToken", "privatetoken"), value + ', x="1"'):
        assert show(node, other.encode()) == 401


def test_forge_a_token_from_others() -> None:
    """Bare RSA is multiplicative: the product of two signatures signs the product. The encoding forbids its use."""
    n = token_key().public.n
    one, two = new_token(), new_token()
    product = int.from_bytes(one.authenticator) * int.from_bytes(two.authenticator) % n
    forged = Token(secrets.token_bytes(32), one.challenge_digest, one.key_id, product.to_bytes(256))
    assert show(gate(), forged) == 401
    # The control: among bare numbers the same product is a valid signature.
    numbers = [secrets.randbelow(n).to_bytes(256) for _ in range(2)]
    signed = [int.from_bytes(signer().blind_sign(number)) for number in numbers]
    both = int.from_bytes(numbers[0]) * int.from_bytes(numbers[1]) % n
    assert pow(signed[0] * signed[1] % n, token_key().public.e, n) == both


def test_link_a_token_to_its_issuance() -> None:
    """For every token and every request there is a blinding that leads from one to the other: all fit equally.

    So the transcript tells the issuer nothing, whatever it computes. In the control the factor is no secret, and the
    same computation finds the one request that belongs to the token.
    """
    key = token_key().public
    pending = [PendingToken.begin(CHALLENGE, token_key(), os.urandom) for _ in range(4)]
    requests = [one.request.blinded for one in pending]
    tokens = [one.finish(signer().blind_sign(one.request.blinded)) for one in pending]

    def encoded(token: Token) -> int:
        return pow(int.from_bytes(token.authenticator), key.e, key.n)

    def factor_to_e(token: Token, request: bytes) -> int:
        """r^e, were this token the one of this request."""
        return int.from_bytes(request) * pow(encoded(token), -1, key.n) % key.n

    for token in tokens:
        for request in requests:
            candidate = factor_to_e(token, request)
            # It is the e-th power of a unit: exactly what a true blinding would have left behind.
            root = int.from_bytes(signer().blind_sign(candidate.to_bytes(256)))
            assert math.gcd(root, key.n) == 1
            assert int.from_bytes(request) == encoded(token) * pow(root, key.e, key.n) % key.n
    known = 12345
    signed = token_input(bytes(32), CHALLENGE.digest, token_key().key_id)

    def leaky(count: int) -> bytes:
        return known.to_bytes(256) if count == 256 else os.urandom(count)

    blinding = Blinding.of(key, VARIANT, signed, leaky)
    token = Token(
        bytes(32),
        CHALLENGE.digest,
        token_key().key_id,
        blinding.finalize(signer().blind_sign(blinding.request)),
    )
    found = [r for r in [*requests, blinding.request] if factor_to_e(token, r) == pow(known, key.e, key.n)]
    assert found == [blinding.request]


def test_nothing_of_a_request_is_in_its_token() -> None:
    pending = PendingToken.begin(CHALLENGE, token_key(), os.urandom)
    seen = pending.request.encode() + signer().blind_sign(pending.request.blinded)
    token = pending.finish(seen[-256:]).encode()
    parts = {token[at : at + 4] for at in range(len(token) - 3)}
    assert not parts & {seen[at : at + 4] for at in range(3, len(seen) - 3)}


def test_give_one_user_a_key_of_their_own() -> None:
    """An issuer that signs under another key for one user would know that user's tokens again."""
    pending = PendingToken.begin(CHALLENGE, token_key(), os.urandom)
    with pytest.raises(TokenError, match="invalid_signature"):
        pending.finish(signer(1).blind_sign(b"\0" + pending.request.blinded[1:]))
    marked = issue(pending.request, {pending.request.truncated_key_id: signer(0)})
    assert pending.finish(marked).key_id == token_key().key_id


def test_name_more_keys_than_can_be_watched() -> None:
    """A configuration with a key for every user would part the crowd: two at a time is the most."""
    keys = tuple(AcceptedKey(token_key(number), 0, NOW) for number in range(3))
    with pytest.raises(TokenError, match="configuration"):
        TokenPolicy("issuer.test", "node.test", PATHS, keys)
    assert len(TokenPolicy("issuer.test", "node.test", PATHS, keys[:2]).keys) == 2


def test_factor_the_key_by_a_fault_while_it_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    """One wrong half of a signature by the Chinese remainder theorem factors the modulus: it never leaves."""
    der = generate_pkcs8()
    key = SigningKey(der)
    private = serialization.load_der_private_key(der, None)
    assert isinstance(private, rsa.RSAPrivateKey)
    numbers, n = private.private_numbers(), key.public.n
    request = secrets.randbelow(n).to_bytes(256)
    faulty = [b""]

    def glitched(block: bytes) -> bytes:
        """The private operation with one bit wrong in the half modulo q."""
        m = int.from_bytes(block)
        half_p, half_q = pow(m, numbers.dmp1, numbers.p), pow(m, numbers.dmq1, numbers.q) ^ 1
        combined = (half_q + numbers.q * ((half_p - half_q) * numbers.iqmp % numbers.p)) % n
        faulty[0] = combined.to_bytes(256)
        return faulty[0]

    class Glitched:
        apply = staticmethod(glitched)

    monkeypatch.setattr(key, "_private", Glitched())
    with pytest.raises(TokenError) as caught:
        key.blind_sign(request)
    assert caught.value.code == "signing_fault"
    assert faulty[0].hex() not in repr(caught.value)
    # The control: whoever gets that answer has the key.
    difference = pow(int.from_bytes(faulty[0]), key.public.e, n) - int.from_bytes(request)
    assert math.gcd(difference % n, n) == numbers.p


def test_every_kind_of_fault_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    key = SigningKey(generate_pkcs8())
    good = key._private.apply
    request = secrets.randbelow(key.public.n).to_bytes(256)

    class Flipping:
        bit = 0

        def apply(self, block: bytes) -> bytes:
            return (int.from_bytes(good(block)) ^ (1 << self.bit)).to_bytes(257)[-256:]

    flipping = Flipping()
    monkeypatch.setattr(key, "_private", flipping)
    for flipping.bit in range(0, 2048, 61):
        with pytest.raises(TokenError, match="signing_fault"):
            key.blind_sign(request)


def test_copy_a_wallet_to_spend_it_twice(tmp_path: Path) -> None:
    wallet = Wallet(tmp_path / "wallet")
    wallet.add([StoredToken(new_token(), NOW + WEEK)])
    copy = (tmp_path / "wallet").read_bytes()
    node = gate()
    assert show(node, wallet.take(token_policy(), NOW)) == 200
    (tmp_path / "wallet").write_bytes(copy)
    assert show(node, wallet.take(token_policy(), NOW)) == 401


def test_sign_twice_over_one_nonce_and_spend_both() -> None:
    """Two signatures with different salts over one nonce are two tokens bought, and one token spent."""
    nonce = secrets.token_bytes(32)
    signed = token_input(nonce, CHALLENGE.digest, token_key().key_id)
    tokens = []
    for _ in range(2):
        blinding = Blinding.of(token_key().public, Variant.PSS_DETERMINISTIC, signed, os.urandom)
        authenticator = blinding.finalize(signer().blind_sign(blinding.request))
        tokens.append(Token(nonce, CHALLENGE.digest, token_key().key_id, authenticator))
    assert tokens[0] != tokens[1]
    node = gate()
    assert [show(node, token) for token in tokens] == [200, 401]


def test_the_private_operation_is_not_pythons() -> None:
    """``pow`` with the private exponent takes a time that tells the key: the signer holds no such number."""
    held = [getattr(signer(), name) for name in SigningKey.__slots__]
    assert not [value for value in held if isinstance(value, int)]
    source = Path(blind_rsa.__file__).read_text()
    assert "private_numbers" not in source
