"""An issuer's keys over time: one for each epoch, the same for everybody, made ahead so that nodes can pin them.

A key signs during its own epoch and is accepted during that and the next, so that a token bought late is still good.
Private keys of past epochs are deleted.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .blind_rsa import SigningKey, generate_pkcs8
from .errors import TokenError
from .token_directory import IssuerDirectory, ListedKey
from .token_key import TokenKey
from .token_policy import AcceptedKey

EPOCH_S = 7 * 86_400
AHEAD = 8
CLOCK_SKEW_S = 300
"""How far before its epoch a key's tokens are taken already, and before the end of the next no more."""

_FILE = re.compile(r"([0-9]{1,12})\.(key|spki)")


@dataclass(frozen=True)
class EpochKey:
    """The key of the epoch that begins at ``start`` (POSIX seconds); ``private`` is absent where that was deleted."""

    start: int
    key: TokenKey
    private: bytes | None

    @cached_property
    def signing(self) -> SigningKey | None:
        """The key that signs, loaded when it is first needed."""
        return None if self.private is None else SigningKey(self.private)

    def __repr__(self) -> str:
        return f"<EpochKey {self.start} {self.key.key_id.hex()[:16]}>"


class IssuerKeys:
    """The keys in ``folder``; makes what is missing. ``now`` gives POSIX seconds. Raises TokenError, OSError."""

    def __init__(
        self, folder: Path, now: Callable[[], float], *, epoch_s: int = EPOCH_S, ahead: int = AHEAD
    ) -> None:
        if not (60 <= epoch_s <= 400 * 86_400 and 0 <= ahead <= 30):
            raise TokenError("configuration", "an epoch has 60 s to 400 days, at most 30 are made ahead")
        self._folder = folder
        self._now = now
        self.epoch_s = epoch_s
        self._ahead = ahead
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._keys = self._read()
        self._renewed = -1
        self.renew()

    def epoch(self) -> int:
        """When the current epoch began."""
        return int(self._now()) // self.epoch_s * self.epoch_s

    def renew(self) -> None:
        """Make the keys that are due, and delete the private ones whose epoch is over."""
        current = self._renewed = self.epoch()
        for start in range(current, current + (self._ahead + 1) * self.epoch_s, self.epoch_s):
            if start not in self._keys:
                self._keys[start] = self._make(start)
        for start, key in list(self._keys.items()):
            if start < current and key.private is not None:
                (self._folder / f"{start}.key").unlink(missing_ok=True)
                self._keys[start] = EpochKey(start, key.key, None)
            if start < current - self.epoch_s:
                (self._folder / f"{start}.spki").unlink(missing_ok=True)
                del self._keys[start]

    def signing(self) -> Mapping[int, SigningKey]:
        """The key that signs now, by its truncated id."""
        self._renew_in_a_new_epoch()
        key = self._keys[self.epoch()]
        signer = key.signing
        return {} if signer is None else {key.key.truncated_key_id: signer}

    def directory(self, request_uri: str) -> IssuerDirectory:
        """What the issuer publishes: the key that signs now first, then those to come."""
        self._renew_in_a_new_epoch()
        current = self.epoch()
        listed = [
            ListedKey(key.key, key.start) for start, key in sorted(self._keys.items()) if start >= current
        ]
        return IssuerDirectory(request_uri, tuple(listed))

    def accepted(self) -> tuple[AcceptedKey, ...]:
        """All keys with the times for which nodes take their tokens, two at any time."""
        early = min(CLOCK_SKEW_S, self.epoch_s // 10)
        return tuple(
            AcceptedKey(key.key, start - early, start - early + 2 * self.epoch_s)
            for start, key in sorted(self._keys.items())
        )

    def _renew_in_a_new_epoch(self) -> None:
        if self.epoch() != self._renewed:
            self.renew()

    def _read(self) -> dict[int, EpochKey]:
        found: dict[int, EpochKey] = {}
        for path in sorted(self._folder.iterdir()):
            match = _FILE.fullmatch(path.name)
            if match and match[2] == "spki":
                start, private = int(match[1]), path.with_suffix(".key")
                data = private.read_bytes() if private.exists() else None
                found[start] = EpochKey(start, TokenKey.parse(path.read_bytes()), data)
        return found

    def _make(self, start: int) -> EpochKey:
        taken = {key.key.truncated_key_id for key in self._keys.values()}
        while True:
            private = generate_pkcs8()
            key = TokenKey.of(SigningKey(private).public)
            if key.truncated_key_id not in taken:
                break
        # The private half first: a public one alone would be a key that nobody can sign with.
        for suffix, data, mode in ((".key", private, 0o600), (".spki", key.spki, 0o644)):
            path = self._folder / f"{start}{suffix}"
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
        return EpochKey(start, key, private)
