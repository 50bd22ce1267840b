"""A user's tokens, in one file that only its owner reads: each comes out once, whatever ends the program.

A token leaves the file, and the file is on the disk, before the caller has the token. A crash in between loses a
token; it never lets one be shown twice, which would link two requests.
"""

import contextlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import TokenError
from .private_token import Token
from .token_header import from_base64url, to_base64url
from .token_policy import TokenPolicy

MAX_FILE = 64 * 1024 * 1024
MAX_TOKENS = 100_000


@dataclass(frozen=True, slots=True)
class StoredToken:
    """A token and the end of its key's time (POSIX seconds)."""

    token: Token = field(repr=False)
    not_after: int


class Wallet:
    """The tokens in the file ``path``; a file that is not there is an empty wallet. Safe between processes.

    Every method raises TokenError (``wallet``) where the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def take(self, policy: TokenPolicy, at: float) -> Token:
        """Take a token that ``policy`` accepts at ``at`` out of the wallet, for good.

        Which one is left to chance: the order would tell one user's requests from another's. Raises TokenError
        (``empty``).
        """
        with self._open() as tokens:
            fitting = [position for position, stored in enumerate(tokens) if policy.takes(stored.token, at)]
            if not fitting:
                raise TokenError("empty", "no token that this node takes; run 'cloister tokens get'")
            chosen = tokens.pop(secrets.choice(fitting))
            tokens[:] = [stored for stored in tokens if stored.not_after > at]
        return chosen.token

    def add(self, tokens: Iterable[StoredToken]) -> None:
        """Put tokens in."""
        with self._open() as kept:
            kept += tokens
            if len(kept) > MAX_TOKENS:
                raise TokenError("wallet", f"a wallet holds at most {MAX_TOKENS} tokens")

    def count(self, policy: TokenPolicy | None, at: float) -> int:
        """How many tokens there are that ``policy`` takes at ``at``; with None, that have not run out."""
        return sum(
            stored.not_after > at if policy is None else policy.takes(stored.token, at)
            for stored in self._read()
        )

    @contextlib.contextmanager
    def _open(self) -> Iterator[list[StoredToken]]:
        """The tokens, for a change that is written when the block ends without an error."""
        try:
            import fcntl
        except ModuleNotFoundError:
            raise TokenError("wallet", "wallets need a system with file locks (flock)") from None
        try:
            lock = os.open(
                self._path.with_name(f"{self._path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise _failed(error) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            tokens = self._read()
            yield tokens
            self._write(tokens)
        finally:
            os.close(lock)

    def _read(self) -> list[StoredToken]:
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_FILE + 1)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _failed(error) from None
        try:
            document = json.loads(data.decode("utf-8")) if len(data) <= MAX_FILE else None
            if not isinstance(document, dict) or document.get("v") != 1:
                raise TypeError
            return [_stored(entry) for entry in document["tokens"]]
        except (ValueError, LookupError, TypeError, RecursionError, TokenError):
            raise TokenError("wallet", "the file is no wallet of version 1") from None

    def _write(self, tokens: list[StoredToken]) -> None:
        entries = [{"token": to_base64url(s.token.encode()), "not_after": s.not_after} for s in tokens]
        data = json.dumps({"v": 1, "tokens": entries}).encode()
        try:
            descriptor, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(descriptor)
                os.replace(name, self._path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(name)
                raise
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise _failed(error) from None


def _stored(entry: Any) -> StoredToken:
    if type(entry["not_after"]) is not int:
        raise TypeError
    return StoredToken(Token.parse(from_base64url(entry["token"])), entry["not_after"])


def _failed(error: OSError) -> TokenError:
    return TokenError("wallet", f"the wallet cannot be used: {error.strerror}")
