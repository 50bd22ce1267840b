"""The gate in front of an application, and the memories of spent tokens."""

import asyncio
import base64
import json
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gateway_driver import Reply, drive
from token_world import CHALLENGE, NOW, PATHS, WEEK, new_token, token_key, token_policy

from ohttp.errors import TokenError
from ohttp.private_token import Token, TokenChallenge
from ohttp.spent_token_stores import RedisSpentTokens, SqliteSpentTokens
from ohttp.spent_tokens import MemorySpentTokens, SpentTokens, mark_of
from ohttp.token_gate import TokenGate
from ohttp.token_header import authorization, parse_www_authenticate
from ohttp.token_policy import AcceptedKey, TokenPolicy

PATH = PATHS[0]


class Behind:
    """The application behind the gate: counts, and remembers what it was shown."""

    def __init__(self) -> None:
        self.headers: list[list[tuple[bytes, bytes]]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.headers.append(scope["headers"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Gated:
    def __init__(self, policy: TokenPolicy | None = None, spent: SpentTokens | None = None) -> None:
        self.behind = Behind()
        self.now = float(NOW)
        self.gate = TokenGate(
            self.behind,
            policy or token_policy(),
            MemorySpentTokens() if spent is None else spent,
            now=lambda: self.now,
        )

    async def ask(self, *values: str, path: str = PATH, method: str = "POST") -> Reply:
        headers = [(b"authorization", value.encode("latin-1")) for value in values]
        return await drive(self.gate, b"", headers=headers, method=method, path=path)


def code(reply: Reply) -> str:
    found: str = json.loads(reply.body)["error"]["code"]
    return found


def test_without_a_token_it_says_which_one_it_wants() -> None:
    gated = Gated()
    reply = asyncio.run(gated.ask())
    assert (reply.status, code(reply)) == (401, "token_required")
    [offer] = parse_www_authenticate(dict(reply.headers)[b"www-authenticate"].decode())
    assert offer.parsed() == CHALLENGE
    assert offer.token_key == token_key().spki
    assert gated.behind.headers == []


def test_a_token_opens_once_and_stays_out_of_sight() -> None:
    gated, value = Gated(), authorization(new_token())
    assert asyncio.run(gated.ask(value)).status == 200
    assert gated.behind.headers == [[]]
    reply = asyncio.run(gated.ask(value))
    assert (reply.status, code(reply)) == (401, "token_refused")
    assert len(gated.behind.headers) == 1


def test_what_costs_nothing_needs_nothing() -> None:
    gated = Gated()
    for path, method in (("/v1/models", "GET"), (PATH, "GET"), ("/attestation", "POST")):
        assert asyncio.run(gated.ask(path=path, method=method)).status == 200
    assert asyncio.run(gated.ask("Bearer who-i-am", path="/v1/models", method="GET")).status == 200
    assert gated.behind.headers[-1] == []  # and no credentials get through


@pytest.mark.parametrize(
    "value",
    ["", "Bearer x", "PrivateToken", "PrivateToken token=AAI=", "PrivateToken token=\xff", "x" * 20_000],
)
def test_other_credentials_are_refused_in_one_voice(value: str) -> None:
    reply = asyncio.run(Gated().ask(value))
    assert (reply.status, code(reply)) == (401, "token_refused")


def test_two_tokens_in_one_request_are_none() -> None:
    gated = Gated()
    values = [authorization(new_token()) for _ in range(2)]
    assert asyncio.run(gated.ask(*values)).status == 401
    assert asyncio.run(gated.ask(values[0])).status == 200  # neither was spent by that


def test_keys_hold_for_their_time() -> None:
    gated, value = Gated(token_policy(not_before=NOW)), authorization(new_token())
    gated.now = NOW - 1
    assert asyncio.run(gated.ask(value)).status == 401
    gated.now = NOW + 2 * WEEK
    assert asyncio.run(gated.ask(value)).status == 401
    gated.now = NOW + 2 * WEEK - 1
    assert asyncio.run(gated.ask(value)).status == 200


def test_two_keys_overlap_and_the_newer_is_offered() -> None:
    keys = (AcceptedKey(token_key(), 0, NOW + 10), AcceptedKey(token_key(1), NOW, NOW + 100))
    policy = TokenPolicy("issuer.test", "node.test", PATHS, keys)
    gated = Gated(policy)
    for number in (0, 1):
        assert asyncio.run(gated.ask(authorization(new_token(number)))).status == 200
    assert policy.offer(NOW).token_key == token_key(1).spki
    gated.now = NOW + 10
    assert asyncio.run(gated.ask(authorization(new_token(0)))).status == 401


def test_one_of_many_shows_of_one_token_at_once_gets_in() -> None:
    async def crowd() -> list[int]:
        gated, value = Gated(), authorization(new_token())
        return [reply.status for reply in await asyncio.gather(*(gated.ask(value) for _ in range(50)))]

    assert sorted(asyncio.run(crowd())) == [200] + [401] * 49


def test_a_full_memory_refuses_rather_than_forget() -> None:
    gated = Gated(spent=MemorySpentTokens(capacity=2))
    statuses = [asyncio.run(gated.ask(authorization(new_token()))).status for _ in range(3)]
    assert statuses == [200, 200, 503]


def test_memory_is_freed_with_the_key() -> None:
    async def run() -> None:
        spent = MemorySpentTokens()
        first, second = new_token(0), new_token(1)
        await spent.spend(first, NOW + 10, NOW)
        assert len(spent) == 1
        await spent.spend(second, NOW + 100, NOW + 10)
        assert len(spent) == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": "UPPER"},
        {"origin": ""},
        {"origin": "a,b"},
        {"paths": []},
        {"paths": ["v1"]},
        {"paths": "x"},
        {"paths": [7]},
        {"keys": []},
        {"keys": {}},
        {"keys": [7]},
        {"issuer": 7},
        {"more": 1},
    ],
)
def test_a_malformed_policy(change: dict[str, Any]) -> None:
    with pytest.raises(TokenError, match="configuration"):
        TokenPolicy.parse({**token_policy().manifest(), **change})


@pytest.mark.parametrize(
    "change",
    [{"not_before": True}, {"not_after": 0}, {"key": "AA=="}, {"key": 1}, {"x": 1}, {"not_after": 1.5}],
)
def test_a_malformed_key_in_a_policy(change: dict[str, Any]) -> None:
    table = token_policy().manifest()
    table["keys"] = [{**table["keys"][0], **change}]
    with pytest.raises(TokenError):
        TokenPolicy.parse(table)


def test_a_policy_says_itself_and_divides_users_little() -> None:
    policy = token_policy()
    assert TokenPolicy.parse(policy.manifest()) == policy
    three = tuple(AcceptedKey(token_key(number), number, 100) for number in range(3))
    with pytest.raises(TokenError, match="at most 2 keys"):
        TokenPolicy("issuer.test", "node.test", PATHS, three)
    with pytest.raises(TokenError, match="different keys"):
        TokenPolicy("issuer.test", "node.test", PATHS, (three[0], three[0]))


def test_sqlite_remembers_across_a_restart(tmp_path: Path) -> None:
    path, value = tmp_path / "spent.sqlite", authorization(new_token())
    first = SqliteSpentTokens(path)
    assert asyncio.run(Gated(spent=first).ask(value)).status == 200
    first.close()
    assert path.stat().st_mode & 0o777 == 0o600
    again = SqliteSpentTokens(path)
    gated = Gated(spent=again)
    assert asyncio.run(gated.ask(value)).status == 401
    gated.now = NOW + 3 * WEEK  # the key is over: its tokens are forgotten, and not taken either
    assert asyncio.run(gated.ask(value)).status == 401
    asyncio.run(again.spend(new_token(), NOW + 9 * WEEK, gated.now))
    assert again._database.execute("SELECT count(*) FROM spent").fetchone() == (1,)
    again.close()
    reply = asyncio.run(gated.ask(authorization(new_token())))
    assert reply.status == 401 or code(reply) == "overloaded"


def test_a_file_of_spent_tokens_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "spent").write_bytes(b"not a database, but long enough to look at" * 100)
    for path in (tmp_path / "nowhere" / "spent", tmp_path / "spent"):
        with pytest.raises(TokenError, match="store"):
            SqliteSpentTokens(path)


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("redis-server is not installed (Debian package redis-server)")
    pytest.importorskip("redis", reason="the package redis is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            for _ in range(200):
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    time.sleep(0.02)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.kill()


def test_redis_shares_what_was_spent_among_nodes(redis_url: str) -> None:
    async def run() -> None:
        stores = [RedisSpentTokens(redis_url) for _ in range(2)]
        nodes = [Gated(token_policy(not_before=int(time.time())), store) for store in stores]
        for node in nodes:
            node.now = time.time()
        value = authorization(new_token())
        crowd = [node.ask(value) for node in nodes for _ in range(20)]
        statuses = sorted(reply.status for reply in await asyncio.gather(*crowd))
        assert statuses == [200] + [401] * 39
        left = await stores[0]._redis.ttl(b"cloister:spent:" + mark_of(new_token_of(value)))
        assert 2 * WEEK < left <= 2 * WEEK + 86_400
        for store in stores:
            await store.aclose()

    asyncio.run(run())


def new_token_of(value: str) -> Token:
    return Token.parse(base64.urlsafe_b64decode(value.split('"')[1]))


def test_a_redis_that_does_not_answer_lets_nobody_in() -> None:
    pytest.importorskip("redis", reason="the package redis is not installed")

    async def run() -> Reply:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        store = RedisSpentTokens(f"redis://127.0.0.1:{port}/0", timeout_s=0.5)
        reply = await Gated(spent=store).ask(authorization(new_token()))
        await store.aclose()
        return reply

    reply = asyncio.run(run())
    assert (reply.status, code(reply)) == (503, "overloaded")


def test_marks_say_nothing_of_the_token() -> None:
    token = new_token()
    assert len(mark_of(token)) == 16
    assert mark_of(token) not in token.encode()
    other = Token(secrets.token_bytes(32), token.challenge_digest, token.key_id, token.authenticator)
    assert mark_of(other) != mark_of(token)
    assert TokenChallenge("issuer.test").digest != token.challenge_digest
