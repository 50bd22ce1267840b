"""Reference manifests and revocation responses that a node keeps and staples to its evidence.

Pieces have the names by which a bundle carries them (``rim/<id>``, ``ocsp/<SHA-256 of a certificate>``). Bytes
lie under their own SHA-256, so that what is read is what was written; an index says which bytes a name has
had, and when each was fetched. NVIDIA signs a manifest anew, sometimes with other values, so earlier issues
are kept. Who reads a piece still has to verify it: the cache holds bytes and says nothing about them.
"""

import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from attestation.errors import EvidenceMalformed
from attestation.nvidia.errors import CollateralFault
from attestation.strict_json import exact_members, load_object

MAX_PIECE: Final = 256 * 1024
"""Bytes of one piece at most (a manifest has about 20 kB, a response 1 kB)."""

MAX_ISSUES: Final = 16
"""How many issues of one name are kept; the oldest goes first."""

_NAME: Final = re.compile(r"(?:rim/[0-9A-Za-z][0-9A-Za-z._-]{0,119}|ocsp/[0-9a-f]{64})")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_MAX_INDEX: Final = 16 * 1024
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"
_DAMAGED: Final = "cache_damaged"


@dataclass(frozen=True, slots=True)
class Issue:
    """One version of a piece: its name, the SHA-256 of its bytes (hexadecimal), when it was fetched (UTC)."""

    name: str
    sha256: str
    fetched_at: datetime


class CollateralCache:
    """A cache in ``folder``, which is made when something is first put into it.

    Several processes may use one folder. Methods raise `CollateralFault`: ``cache_name``, ``cache_size``,
    ``cache_damaged`` (what was read is not what was written), ``cache_unusable`` (the folder itself).
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, name: str, data: bytes, fetched_at: datetime) -> Issue:
        """Keep ``data`` as the newest issue of ``name``, fetched at a time (aware)."""
        _check_name(name)
        if not 0 < len(data) <= MAX_PIECE:
            raise _fault("cache_size", name, f"1 to {MAX_PIECE} bytes", len(data))
        issue = Issue(name, hashlib.sha256(data).hexdigest(), _whole_seconds(fetched_at))
        try:
            with self._locked():
                earlier = [old for old in self.issues(name) if old.sha256 != issue.sha256]
                newest_first = sorted([issue, *earlier], key=lambda one: one.fetched_at, reverse=True)
                _write(self._object(issue.sha256), data)
                _write(self._index(name), _encode_index(newest_first[:MAX_ISSUES]))
        except OSError as error:
            raise _unusable(error) from None
        return issue

    def issues(self, name: str) -> tuple[Issue, ...]:
        """Every issue kept of ``name``, newest first; none where there is none."""
        _check_name(name)
        try:
            data = self._index(name).read_bytes()
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise _unusable(error) from None
        return _parse_index(name, data)

    def read(self, issue: Issue) -> bytes:
        """The bytes of an issue."""
        try:
            with self._object(issue.sha256).open("rb") as file:
                data = file.read(MAX_PIECE + 1)
        except FileNotFoundError:
            raise _fault(_DAMAGED, f"{issue.name} has lost its bytes") from None
        except OSError as error:
            raise _unusable(error) from None
        if hashlib.sha256(data).hexdigest() != issue.sha256:
            raise _fault(_DAMAGED, f"{issue.name} is not what was fetched")
        return data

    def staple(self, names: Iterable[str]) -> dict[str, bytes]:
        """The newest issue of each name that there is, for a bundle's GPU collateral.

        A name that was never fetched is left out: who verifies refuses what is missing, if the policy asks.
        """
        newest = {name: issues[0] for name in names if (issues := self.issues(name))}
        return {name: self.read(issue) for name, issue in newest.items()}

    def _object(self, sha256: str) -> Path:
        return self._folder / "objects" / sha256[:2] / sha256

    def _index(self, name: str) -> Path:
        return self._folder / "index" / f"{name}.json"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _encode_index(issues: Iterable[Issue]) -> bytes:
    entries = [{"sha256": one.sha256, "fetched_at": one.fetched_at.strftime(_TIME)} for one in issues]
    return json.dumps({"issues": entries}, indent=1).encode("ascii")


def _parse_index(name: str, data: bytes) -> tuple[Issue, ...]:
    try:
        members = exact_members(
            load_object(data, limit=_MAX_INDEX, code=_DAMAGED), ("issues",), code=_DAMAGED, where="index"
        )
        entries = members["issues"]
        if not isinstance(entries, list) or not 0 < len(entries) <= MAX_ISSUES:
            raise EvidenceMalformed(code=_DAMAGED, detail="no list of issues")
        issues = [_parse_issue(name, entry) for entry in entries]
    except EvidenceMalformed as error:
        raise _fault(_DAMAGED, f"index of {name}: {error.detail}") from None
    return tuple(sorted(issues, key=lambda one: one.fetched_at, reverse=True))


def _parse_issue(name: str, entry: object) -> Issue:
    members = exact_members(entry, ("sha256", "fetched_at"), code=_DAMAGED, where="an issue")
    sha256, fetched_at = members["sha256"], members["fetched_at"]
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256) or not isinstance(fetched_at, str):
        raise EvidenceMalformed(code=_DAMAGED, detail="an issue")
    with suppress(ValueError):
        return Issue(name, sha256, datetime.strptime(fetched_at, _TIME).replace(tzinfo=UTC))
    raise EvidenceMalformed(code=_DAMAGED, detail="time of an issue")


def _check_name(name: str) -> None:
    # The name becomes a path, so its alphabet is closed here.
    if not _NAME.fullmatch(name) or ".." in name:
        raise _fault("cache_name", "not the name of a piece of collateral", found=name)


def _whole_seconds(at: datetime) -> datetime:
    if at.tzinfo is None:
        raise _fault("cache_unusable", "a time without a time zone")
    return at.astimezone(UTC).replace(microsecond=0)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _unusable(error: OSError) -> CollateralFault:
    return _fault("cache_unusable", error.strerror or type(error).__name__)


def _fault(code: str, detail: str, expected: object = None, found: object = None) -> CollateralFault:
    return CollateralFault(code=code, stage="collateral", detail=detail, expected=expected, found=found)
