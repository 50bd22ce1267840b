"""``cloister tokens account | policy | issuer`` as their operators use them."""

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from ohttp.current_file import CurrentFile
from ohttp.token_accounts import MAX_FILE, Accounts, digest_of
from ohttp.token_issuer_command import register_issuer
from ohttp.token_policy import TokenPolicy

app = typer.Typer()
register_issuer(app)


@pytest.fixture(autouse=True)
def few_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Making a key takes a while, and eight ahead show no more than one."""
    monkeypatch.setattr("ohttp.token_issuer_command.AHEAD", 1)


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_an_account_is_made_once_and_its_secret_is_not_kept(tmp_path: Path) -> None:
    state = tmp_path / "issuer"
    made = run("account", "alice", "--state", str(state), "--tokens", "5")
    assert made.exit_code == 0
    secret = made.output.strip()
    data = (state / "accounts.json").read_bytes()
    assert secret.encode() not in data
    assert (state / "accounts.json").stat().st_mode & 0o777 == 0o600
    assert Accounts.parse(data).of_secret(secret).tokens_per_epoch == 5
    changed = run("account", "alice", "--state", str(state), "--tokens", "0")
    assert (changed.exit_code, changed.output) == (0, "")
    kept = Accounts.parse((state / "accounts.json").read_bytes()).by_name["alice"]
    assert (kept.secret_sha256, kept.tokens_per_epoch) == (digest_of(secret), 0)
    assert run("account", "no such name!", "--state", str(state)).exit_code == 1
    assert run("account", "bob", "--state", str(state), "--tokens", "9999999").exit_code == 1


def test_a_changed_file_of_accounts_counts_at_once(tmp_path: Path) -> None:
    run("account", "alice", "--state", str(tmp_path))
    book = CurrentFile(tmp_path / "accounts.json", Accounts.parse, most=MAX_FILE)
    assert set(book.current().by_name) == {"alice"}
    run("account", "bob", "--state", str(tmp_path))
    assert set(book.current().by_name) == {"alice", "bob"}


def test_the_policy_stays_the_same_while_the_epoch_does(tmp_path: Path) -> None:
    names = ("--issuer", "issuer.test", "--origin", "node.test", "--state", str(tmp_path))
    first = run("policy", *names, "--epoch-days", "30")
    assert first.exit_code == 0, first.output
    policy = TokenPolicy.parse(json.loads(first.output))
    assert [key.not_after - key.not_before for key in policy.keys] == [60 * 86_400] * len(policy.keys)
    again = run("policy", *names)
    assert again.output == first.output
    other = run("policy", *names, "--epoch-days", "7.5")
    assert other.exit_code == 1
    assert "another length" in other.stderr
    assert run("policy", "--issuer", "Bad Name", "--origin", "x", "--state", str(tmp_path)).exit_code == 1


def test_an_issuer_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    none = run("issuer", "--state", str(tmp_path))
    assert none.exit_code == 1
    assert "cloister tokens account" in none.stderr
    run("account", "alice", "--state", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        in_use = run("issuer", "--state", str(tmp_path), "--port", port)
    assert in_use.exit_code == 1
    assert "Address already in use" in in_use.stderr
    (tmp_path / "accounts.json").write_text("{}")
    broken = run("issuer", "--state", str(tmp_path), "--port", "0")
    assert broken.exit_code == 1
    assert "configuration" in broken.stderr
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert run("issuer", "--state", str(tmp_path)).exit_code == 2
