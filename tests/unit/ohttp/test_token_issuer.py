"""The issuer: keys over time, accounts and limits, the program's two endpoints."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from gateway_driver import Reply, drive
from hypothesis import given
from hypothesis import strategies as st
from token_world import CHALLENGE, NOW

from ohttp.errors import TokenError
from ohttp.token_accounts import Account, Accounts, IssuedCounts, digest_of, new_secret
from ohttp.token_directory import WELL_KNOWN, IssuerDirectory
from ohttp.token_issuance import PendingToken
from ohttp.token_issuer import REQUEST_PATH, TokenIssuer
from ohttp.token_issuer_keys import IssuerKeys
from ohttp.token_policy import TokenPolicy

EPOCH = 1000
KIND = (b"content-type", b"application/private-token-request")


class Issuing:
    """An issuer with one account of two tokens and one that is shut out."""

    def __init__(self, folder: Path) -> None:
        self.now = float(NOW)
        self.secret, self.closed = new_secret(), new_secret()
        book = Accounts(
            {
                "alice": Account("alice", digest_of(self.secret), 2),
                "bob": Account("bob", digest_of(self.closed), 0),
            }
        )
        self.keys = IssuerKeys(folder / "keys", lambda: self.now, epoch_s=EPOCH, ahead=1)
        self.counts = IssuedCounts(folder / "issued.sqlite")
        self.app = TokenIssuer(self.keys, lambda: book, self.counts)

    async def directory(self) -> IssuerDirectory:
        return IssuerDirectory.parse((await drive(self.app, b"", path=WELL_KNOWN)).body)

    async def pending(self) -> PendingToken:
        key = (await self.directory()).current(self.now)
        return PendingToken.begin(CHALLENGE, key, os.urandom)

    async def post(self, body: bytes, *, secret: str | None = None, **options: Any) -> Reply:
        value = f"Bearer {self.secret if secret is None else secret}".encode()
        headers = options.pop("headers", [KIND, (b"authorization", value)])
        return await drive(self.app, body, method="POST", path=REQUEST_PATH, headers=headers, **options)

    async def ask(self, **options: Any) -> Reply:
        return await self.post((await self.pending()).request.encode(), **options)


@pytest.fixture
def issuing(tmp_path: Path) -> Issuing:
    return Issuing(tmp_path)


def test_a_token_from_end_to_end(issuing: Issuing) -> None:
    async def run() -> None:
        directory = await issuing.directory()
        assert directory.request_uri == REQUEST_PATH
        pending = await issuing.pending()
        reply = await issuing.post(pending.request.encode(), pieces=5)
        assert reply.status == 200
        assert dict(reply.headers)[b"content-type"] == b"application/private-token-response"
        token = pending.finish(reply.body)
        token.check(CHALLENGE, directory.current(NOW))

    asyncio.run(run())
    assert issuing.app.counts() == {"issued": 1}


def test_an_account_has_so_many_tokens_under_each_key(issuing: Issuing) -> None:
    async def run() -> list[int]:
        found = [(await issuing.ask()).status for _ in range(3)]
        issuing.now += EPOCH
        return [*found, (await issuing.ask()).status]

    assert asyncio.run(run()) == [200, 200, 429, 200]
    rows = issuing.counts._database.execute("SELECT * FROM issued").fetchall()
    assert rows == [("alice", (NOW + EPOCH) // EPOCH * EPOCH, 1)]  # and of the past nothing is kept


def test_at_once_is_no_more(issuing: Issuing) -> None:
    async def run() -> list[int]:
        return [reply.status for reply in await asyncio.gather(*(issuing.ask() for _ in range(12)))]

    assert sorted(asyncio.run(run())) == [200] * 2 + [429] * 10


@pytest.mark.parametrize("secret", ["", "wrong", "closed", "ü", "x" * 600])
def test_nobody_without_an_account(issuing: Issuing, secret: str) -> None:
    found = asyncio.run(issuing.ask(secret=issuing.closed if secret == "closed" else secret))
    assert found.status == 401
    assert found.body == asyncio.run(issuing.ask(headers=[KIND])).body


def test_what_is_no_request(issuing: Issuing) -> None:
    async def run() -> None:
        good = (await issuing.pending()).request.encode()
        other_key = good[:2] + bytes([good[2] ^ 1]) + good[3:]
        too_big = good[:3] + b"\xff" * 256
        bodies = (b"", good[:-1], good + b"x", b"\0\1" + good[2:], other_key, too_big, good * 50)
        replies = [await issuing.post(body) for body in bodies]
        assert {reply.status for reply in replies} == {422}
        assert len({reply.body for reply in replies}) == 1
        assert (await issuing.post(good, headers=[])).status == 415
        assert (await drive(issuing.app, b"", path=REQUEST_PATH)).status == 405
        assert (await drive(issuing.app, b"", path=WELL_KNOWN, method="POST")).status == 405
        assert (await drive(issuing.app, b"", path="/")).status == 404

    asyncio.run(run())


@given(st.binary(max_size=600))
def test_any_body_is_answered(tmp_path_factory: pytest.TempPathFactory, body: bytes) -> None:
    issuing = _shared(tmp_path_factory)
    assert asyncio.run(issuing.post(body)).status == 422


_SHARED: list[Issuing] = []


def _shared(factory: pytest.TempPathFactory) -> Issuing:
    if not _SHARED:
        _SHARED.append(Issuing(factory.mktemp("issuer")))
    return _SHARED[0]


def test_keys_turn_and_the_old_private_ones_go(tmp_path: Path) -> None:
    now = [NOW]
    keys = IssuerKeys(tmp_path / "k", lambda: now[0], epoch_s=EPOCH, ahead=2)
    first = keys.accepted()
    assert len(first) == 3
    assert [k.not_after - k.not_before for k in first] == [2 * EPOCH] * 3
    assert len(keys.signing()) == 1
    policy = TokenPolicy("issuer.test", "node.test", ("/",), first)
    for late in range(
        -EPOCH // 10, 3 * EPOCH, EPOCH // 20
    ):  # a node's clock may be slow by a tenth of an epoch here
        assert 1 <= len(policy.accepted(NOW + late)) <= 2
    assert first[1] in policy.accepted(NOW + EPOCH - 60)
    again = IssuerKeys(tmp_path / "k", lambda: now[0], epoch_s=EPOCH, ahead=2)
    assert again.accepted() == first
    now[0] += EPOCH
    assert set(keys.signing()) == {first[1].key.truncated_key_id}
    assert keys.directory("/").keys[0].key == first[1].key
    assert first[0] in keys.accepted()
    assert not (tmp_path / "k" / f"{NOW}.key").exists()
    assert (tmp_path / "k" / f"{NOW + EPOCH}.key").exists()
    now[0] += EPOCH
    assert keys.directory("/").keys[0].key == first[2].key
    assert first[0] not in keys.accepted()
    modes = {path.suffix: path.stat().st_mode & 0o777 for path in (tmp_path / "k").iterdir()}
    assert modes[".key"] == 0o600
    assert "PRIVATE" not in repr(keys.__dict__)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b"{}",
        b'{"v": 2, "accounts": {}}',
        b'{"v": 1, "accounts": []}',
        b'{"v": 1, "accounts": {"a b": {"secret_sha256": "", "tokens_per_epoch": 1}}}',
        b'{"v": 1, "accounts": {"a": {}}}',
        json.dumps({"v": 1, "accounts": {"a": {"secret_sha256": "0" * 64, "tokens_per_epoch": -1}}}).encode(),
        json.dumps({"v": 1, "accounts": {"a": {"secret_sha256": "0" * 63, "tokens_per_epoch": 1}}}).encode(),
        json.dumps(
            {
                "v": 1,
                "accounts": {n: {"secret_sha256": "0" * 64, "tokens_per_epoch": 1} for n in ("a", "b")},
            }
        ).encode(),
    ],
)
def test_a_malformed_file_of_accounts(document: bytes) -> None:
    with pytest.raises(TokenError, match="configuration"):
        Accounts.parse(document)


@given(st.binary(max_size=300))
def test_any_file_of_accounts(data: bytes) -> None:
    with pytest.raises(TokenError, match="configuration"):
        Accounts.parse(data)
