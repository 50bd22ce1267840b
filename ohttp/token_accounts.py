"""Who may have tokens, and how many: an issuer's accounts, from one file, and how many each has had.

An account is known by a secret of high entropy, of which the file holds the SHA-256. What is kept besides is one number
an account and key epoch: without it there is no limit. It says how many tokens somebody had, never when, for what
origin, or which ones.
"""

import hashlib
import hmac
import json
import os
import re
import secrets
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import TokenError

MAX_FILE = 16 * 1024 * 1024
MAX_TOKENS = 1_000_000

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Account:
    """``tokens_per_epoch``: how many tokens it may have under each key; 0 shuts it out."""

    name: str
    secret_sha256: bytes
    tokens_per_epoch: int


def new_secret() -> str:
    """A secret of 256 bits for an account, as text."""
    return secrets.token_urlsafe(32)


def digest_of(secret: str) -> bytes:
    """What a file of accounts holds of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


class Accounts:
    """The accounts of an issuer, by their secrets."""

    def __init__(self, accounts: Mapping[str, Account]) -> None:
        self.by_name = dict(accounts)
        self._by_digest = {account.secret_sha256: account for account in accounts.values()}
        if len(self._by_digest) != len(self.by_name):
            raise TokenError("configuration", "two accounts have one secret")

    def of_secret(self, secret: str) -> Account:
        """Raises TokenError (``not_allowed``): an unknown secret, or an account that is shut out."""
        digest = digest_of(secret)
        account = self._by_digest.get(digest)
        if account is None or not hmac.compare_digest(account.secret_sha256, digest):
            raise TokenError("not_allowed", "no account has this secret")
        if account.tokens_per_epoch == 0:
            raise TokenError("not_allowed", "this account gets no tokens")
        return account

    def encode(self) -> bytes:
        """The file."""
        accounts = {
            account.name: {
                "secret_sha256": account.secret_sha256.hex(),
                "tokens_per_epoch": account.tokens_per_epoch,
            }
            for account in self.by_name.values()
        }
        return (json.dumps({"v": 1, "accounts": accounts}, indent=1) + "\n").encode()

    @classmethod
    def parse(cls, data: bytes) -> "Accounts":
        """Raises TokenError (``configuration``)."""
        if len(data) > MAX_FILE:
            raise TokenError("configuration", "the file of accounts is too large")
        try:
            document = json.loads(data.decode("utf-8"))
        except (ValueError, RecursionError):
            raise TokenError("configuration", "the file of accounts is not JSON") from None
        if not isinstance(document, dict) or set(document) != {"v", "accounts"} or document["v"] != 1:
            raise TokenError("configuration", "the file of accounts is not version 1")
        if not isinstance(document["accounts"], dict):
            raise TokenError("configuration", "the file of accounts lists none")
        return cls({name: _account(name, entry) for name, entry in document["accounts"].items()})


class IssuedCounts:
    """How many tokens each account had in each key epoch, in a file that only its owner reads."""

    def __init__(self, path: Path) -> None:
        """Raises TokenError (``store``)."""
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._database = sqlite3.connect(path, isolation_level=None)
            self._database.execute("PRAGMA secure_delete = ON")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS issued (account TEXT, epoch INTEGER, count INTEGER NOT NULL,"
                " PRIMARY KEY (account, epoch)) WITHOUT ROWID"
            )
        except (OSError, sqlite3.Error):
            raise TokenError("store", "the file of counts cannot be used") from None

    def take(self, account: Account, epoch: int) -> None:
        """Count one token for ``account`` in the epoch that began at ``epoch``; forgets earlier epochs.

        Raises TokenError (``limit``, ``store``).
        """
        try:
            self._database.execute("DELETE FROM issued WHERE epoch < ?", (epoch,))
            done = self._database.execute(
                "INSERT INTO issued VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET count = count + 1"
                " WHERE count < ? RETURNING count",
                (account.name, epoch, account.tokens_per_epoch),
            ).fetchone()
        except sqlite3.Error:
            raise TokenError("store", "the count cannot be kept now") from None
        if done is None:
            raise TokenError("limit", "this account has had its tokens")

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def _account(name: str, entry: object) -> Account:
    if not _NAME.fullmatch(name):
        raise TokenError("configuration", "an account's name is plain and at most 128 characters")
    if not isinstance(entry, dict) or set(entry) != {"secret_sha256", "tokens_per_epoch"}:
        raise TokenError("configuration", "an account has secret_sha256 and tokens_per_epoch")
    digest, limit = entry["secret_sha256"], entry["tokens_per_epoch"]
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise TokenError("configuration", "secret_sha256 is 64 hexadecimal digits")
    if type(limit) is not int or not 0 <= limit <= MAX_TOKENS:
        raise TokenError("configuration", f"tokens_per_epoch is 0 to {MAX_TOKENS}")
    return Account(name, bytes.fromhex(digest), limit)
