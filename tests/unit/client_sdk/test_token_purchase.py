"""Getting tokens and paying with them: what an issuer may try, and that one request costs one token."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from token_world import CHALLENGE, NOW, PATHS, WEEK, new_token, signer, token_key, token_policy

from client_sdk.errors import ClientError
from client_sdk.exchange import InnerRequest
from client_sdk.payment import Payment
from client_sdk.token_purchase import TokenPurchase
from client_sdk.verify_runtime import appraise_runtime
from ohttp.token_directory import WELL_KNOWN, IssuerDirectory, ListedKey
from ohttp.token_issuance import TokenRequest, issue
from ohttp.token_wallet import StoredToken, Wallet

URL = "https://issuer.test"
ASKING = InnerRequest("POST", f"{PATHS[0]}?x=1", (), b"")
Handler = Callable[[httpx2.Request], httpx2.Response]


def directory(*numbers: int, uri: str = "/token-request", since: int = 0) -> bytes:
    return IssuerDirectory(uri, tuple(ListedKey(token_key(number), since) for number in numbers)).encode()


def issuing(
    listed: bytes, *, signs_with: int = 0, status: int = 200, answer: bytes | None = None
) -> tuple[Handler, list[httpx2.Request]]:
    seen: list[httpx2.Request] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        if request.url.path == WELL_KNOWN:
            return httpx2.Response(200, content=iter((listed,)))
        if status != 200:
            return httpx2.Response(status)
        asked = TokenRequest.parse(request.content)
        signed = issue(
            TokenRequest(0, b"\0" + asked.blinded[1:] if signs_with else asked.blinded),
            {0: signer(signs_with)},
        )
        return httpx2.Response(200, content=iter((signed if answer is None else answer,)))

    return handle, seen


def purchase(monkeypatch: pytest.MonkeyPatch, handler: Handler, **options: Any) -> TokenPurchase:
    bought = TokenPurchase(URL, token_policy(), "secret", now=lambda: NOW, **options)
    client = httpx2.Client(transport=httpx2.MockTransport(handler), follow_redirects=False)
    monkeypatch.setattr(bought, "_client", lambda: client)
    return bought


def test_tokens_come_one_by_one_and_are_good(monkeypatch: pytest.MonkeyPatch) -> None:
    handler, seen = issuing(directory(0))
    got = list(purchase(monkeypatch, handler).tokens(3))
    assert len({stored.token.nonce for stored in got}) == 3
    for stored in got:
        stored.token.check(CHALLENGE, token_key())
        assert stored.not_after == token_policy().keys[0].not_after
    asked = [request for request in seen if request.method == "POST"]
    assert {request.headers["authorization"] for request in asked} == {"Bearer secret"}
    assert "authorization" not in seen[0].headers  # whoever only looks at the directory is nobody
    assert len({request.content for request in asked}) == 3


@pytest.mark.parametrize(
    ("listed", "code"),
    [
        (directory(1), "key_mismatch"),  # a key that the node does not name: it could be this user's own
        (directory(0, since=NOW + 1), "key_mismatch"),
        (directory(0, uri="https://elsewhere.test/x"), "token_issuer"),
        (directory(0, uri="//elsewhere.test/x"), "token_issuer"),
        (directory(0, uri="http://issuer.test/x"), "token_issuer"),
        (b"{}", "token_issuer"),
        (b"x" * 100_000, "token_issuer"),
    ],
)
def test_a_directory_that_is_not_the_nodes(monkeypatch: pytest.MonkeyPatch, listed: bytes, code: str) -> None:
    handler, seen = issuing(listed)
    with pytest.raises(ClientError) as caught:
        list(purchase(monkeypatch, handler).tokens(1))
    assert caught.value.code == code
    assert [request.method for request in seen] == ["GET"]  # the secret has not left


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ({"signs_with": 1}, "token_invalid"),
        ({"answer": b""}, "token_invalid"),
        ({"answer": bytes(256)}, "token_invalid"),
        ({"answer": bytes(100_000)}, "token_issuer"),
        ({"status": 401}, "token_account"),
        ({"status": 429}, "token_limit"),
        ({"status": 302}, "token_issuer"),
        ({"status": 500}, "token_issuer"),
    ],
)
def test_an_issuer_that_does_not_sign(
    monkeypatch: pytest.MonkeyPatch, how: dict[str, Any], code: str
) -> None:
    handler, _ = issuing(directory(0), **how)
    with pytest.raises(ClientError) as caught:
        list(purchase(monkeypatch, handler).tokens(1))
    assert caught.value.code == code


@pytest.mark.parametrize(
    "url", ["http://issuer.test", "ftp://issuer.test", "https://me@issuer.test", "issuer.test", "http://[::1"]
)
def test_a_secret_does_not_travel_in_clear(url: str) -> None:
    with pytest.raises(ClientError):
        TokenPurchase(url, token_policy(), "secret")
    for local in ("http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "https://issuer.test"):
        TokenPurchase(local, token_policy(), "secret")


def test_two_attempts_of_a_request_cost_one_token(tmp_path: Path) -> None:
    wallet = Wallet(tmp_path / "wallet")
    wallet.add(StoredToken(new_token(), NOW + WEEK) for _ in range(3))
    payment = Payment(wallet, ASKING)
    first = payment.token(token_policy(), NOW)
    assert first is not None
    assert payment.token(token_policy(), NOW) == first
    assert wallet.count(None, NOW) == 2
    assert Payment(wallet, ASKING).token(token_policy(), NOW) != first


def test_what_costs_nothing_takes_nothing(tmp_path: Path) -> None:
    wallet = Wallet(tmp_path / "wallet")
    wallet.add([StoredToken(new_token(), NOW + WEEK)])
    assert Payment(wallet, ASKING).token(None, NOW) is None
    free = InnerRequest("GET", "/v1/models", (), b"")
    assert Payment(wallet, free).token(token_policy(), NOW) is None
    assert wallet.count(None, NOW) == 1


def test_without_tokens_it_says_what_to_do(tmp_path: Path) -> None:
    for wallet, code in ((None, "token_required"), (Wallet(tmp_path / "none"), "tokens_empty")):
        with pytest.raises(ClientError) as caught:
            Payment(wallet, ASKING).token(token_policy(), NOW)
        assert caught.value.code == code
        assert caught.value.hint


@pytest.mark.parametrize("stated", [[], {"issuer": 1}, "x", {**token_policy().manifest(), "keys": []}, None])
def test_a_manifest_whose_tokens_cannot_be_read_is_refused(stated: object) -> None:
    class Rows:
        """Collects codes of failed rows."""

        def __init__(self) -> None:
            self.failures: dict[str, str] = {}

        def passed(self, check: str, detail: str) -> None: ...
        def not_required(self, check: str, why: str) -> None: ...
        def not_evaluated(self, check: str, why: str) -> None: ...
        def failed(self, check: str, error: Any) -> None:
            self.failures[check] = error.code

    manifest = {"model": {"name": "m", "digest": "d"}, "padding": {"name": "off"}, "tokens": stated}
    data = json.dumps(manifest).encode()
    claims: Any = SimpleNamespace(runtime=hashlib.sha256(data).digest())
    policy: Any = SimpleNamespace(padding={"off"})
    rows = Rows()
    assert appraise_runtime(rows, data, claims, policy) is None
    assert rows.failures == {"runtime.tokens": "configuration"}
