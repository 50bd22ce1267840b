"""The wallet: each token comes out once, whatever happens."""

import json
import multiprocessing
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from token_world import CHALLENGE, NOW, WEEK, new_token, token_policy

from ohttp.errors import TokenError
from ohttp.private_token import TokenChallenge
from ohttp.token_wallet import StoredToken, Wallet


def filled(path: Path, count: int) -> Wallet:
    wallet = Wallet(path)
    wallet.add(StoredToken(new_token(), NOW + WEEK) for _ in range(count))
    return wallet


def test_each_token_comes_out_once(tmp_path: Path) -> None:
    wallet = filled(tmp_path / "wallet", 3)
    assert (tmp_path / "wallet").stat().st_mode & 0o777 == 0o600
    assert wallet.count(token_policy(), NOW) == wallet.count(None, NOW) == 3
    taken = {Wallet(tmp_path / "wallet").take(token_policy(), NOW) for _ in range(3)}
    assert len(taken) == 3
    with pytest.raises(TokenError, match="empty"):
        wallet.take(token_policy(), NOW)


def test_only_tokens_that_the_node_takes(tmp_path: Path) -> None:
    wallet = Wallet(tmp_path / "wallet")
    wallet.add(
        [
            StoredToken(new_token(1), NOW + WEEK),
            StoredToken(new_token(0, TokenChallenge(CHALLENGE.issuer_name, "other.test")), NOW + WEEK),
        ]
    )
    assert (wallet.count(token_policy(), NOW), wallet.count(None, NOW)) == (0, 2)
    with pytest.raises(TokenError, match="empty"):
        wallet.take(token_policy(), NOW)
    wallet.add([StoredToken(new_token(), NOW + WEEK)])
    with pytest.raises(TokenError, match="empty"):
        wallet.take(token_policy(not_before=NOW + 1), NOW)
    wallet.take(token_policy(), NOW)
    assert wallet.count(None, NOW) == 2


def test_what_has_run_out_is_dropped(tmp_path: Path) -> None:
    wallet = Wallet(tmp_path / "wallet")
    wallet.add([StoredToken(new_token(), NOW + 1), StoredToken(new_token(), NOW + WEEK)])
    assert wallet.count(None, NOW + 1) == 1
    wallet.take(token_policy(), NOW + 1)
    assert len(json.loads((tmp_path / "wallet").read_bytes())["tokens"]) <= 1


def _take_all(path: str, results: "multiprocessing.Queue[list[bytes]]") -> None:
    wallet, got = Wallet(Path(path)), []
    while True:
        try:
            got.append(wallet.take(token_policy(), NOW).nonce)
        except TokenError:
            results.put(got)
            return


def test_processes_share_a_wallet(tmp_path: Path) -> None:
    filled(tmp_path / "wallet", 12)
    context = multiprocessing.get_context("fork")
    results: multiprocessing.Queue[list[bytes]] = context.Queue()
    workers = [context.Process(target=_take_all, args=(str(tmp_path / "wallet"), results)) for _ in range(3)]
    for worker in workers:
        worker.start()
    nonces = [nonce for _ in workers for nonce in results.get(timeout=30)]
    for worker in workers:
        worker.join()
    assert len(nonces) == len(set(nonces)) == 12


def test_a_token_that_could_not_be_taken_out_is_not_given_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wallet = filled(tmp_path / "wallet", 1)
    before = (tmp_path / "wallet").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TokenError, match="wallet"):
        wallet.take(token_policy(), NOW)
    assert (tmp_path / "wallet").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["wallet", "wallet.lock"]


def test_a_wallet_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(TokenError, match="wallet"):
        Wallet(tmp_path / "nowhere" / "wallet").add([])
    with pytest.raises(TokenError, match="wallet"):
        Wallet(tmp_path).count(None, NOW)
    assert Wallet(tmp_path / "none").count(None, NOW) == 0


@given(st.binary(max_size=200))
def test_whatever_the_file_holds(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("w") / "wallet"
    path.write_bytes(data)
    with pytest.raises(TokenError, match="wallet"):
        Wallet(path).count(None, NOW)
    for document in ({"v": 1}, {"v": 2, "tokens": []}, {"v": 1, "tokens": [{}]}, {"v": 1, "tokens": 5}):
        path.write_text(json.dumps(document))
        with pytest.raises(TokenError, match="wallet"):
            Wallet(path).count(None, NOW)
