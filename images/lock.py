"""Lock files: every Debian package and wheel of a recipe by name, version, size and SHA-256.

``images/locks/RECIPE.json``, indented JSON for people to compare::

    {"v": 1, "recipe": "cpu-dev",
     "debs":   [{"name": …, "version": …, "archive": "debian", "path": "pool/…deb", "size": …, "sha256": …}],
     "wheels": [{"name": …, "version": …, "file": "….whl", "size": …, "sha256": …}]}

``archive`` and ``path`` say where on a Debian mirror a package lies; which mirror is nobody's business but the
builder's, since the digest decides.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from images.errors import RecipeError

VERSION = 1
MAX_LOCK = 1 << 20
MAX_INPUTS = 4096
MAX_INPUT = 8 << 30

_SHA256 = re.compile(r"[0-9a-f]{64}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~:!-]{0,127}")
_POOL_PATH = re.compile(r"pool/[A-Za-z0-9._+~%/-]{1,240}\.deb")
_WHEEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]{0,240}\.whl")


@dataclass(frozen=True, slots=True)
class LockedDeb:
    """A Debian package. ``size`` is in bytes, ``sha256`` in hex."""

    name: str
    version: str
    archive: str
    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class LockedWheel:
    """A wheel, by its file name on an index."""

    name: str
    version: str
    file: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Lock:
    """All inputs of a recipe from outside, sorted by name."""

    recipe: str
    debs: tuple[LockedDeb, ...]
    wheels: tuple[LockedWheel, ...]

    def deb(self, name: str) -> LockedDeb:
        """The package of this name. Raises RecipeError."""
        for deb in self.debs:
            if deb.name == name:
                return deb
        raise RecipeError(
            "lock_incomplete", f"the lock has no package {name}; cloister image lock {self.recipe}"
        )

    def encode(self) -> bytes:
        """The lock file's bytes."""
        document = {
            "v": VERSION,
            "recipe": self.recipe,
            "debs": [_members(deb) for deb in sorted(self.debs, key=lambda deb: deb.name)],
            "wheels": [_members(wheel) for wheel in sorted(self.wheels, key=lambda wheel: wheel.name)],
        }
        return (json.dumps(document, indent=1) + "\n").encode()

    @classmethod
    def parse(cls, data: bytes) -> "Lock":
        """Read a lock file. Raises RecipeError (``lock_malformed``)."""
        if len(data) > MAX_LOCK:
            raise _malformed(f"more than {MAX_LOCK} bytes")
        try:
            document = json.loads(data.decode())
        except (ValueError, RecursionError) as error:
            raise _malformed("not JSON") from error
        if not isinstance(document, dict) or set(document) != {"v", "recipe", "debs", "wheels"}:
            raise _malformed("members other than v, recipe, debs, wheels")
        if type(document["v"]) is not int or document["v"] != VERSION:
            raise _malformed(f"version {VERSION} is the only one known")
        lists = (document["debs"], document["wheels"])
        if not all(isinstance(entries, list) and len(entries) <= MAX_INPUTS for entries in lists):
            raise _malformed(f"debs and wheels are lists of at most {MAX_INPUTS}")
        debs = tuple(_deb(entry) for entry in document["debs"])
        wheels = tuple(_wheel(entry) for entry in document["wheels"])
        for names in ([deb.name for deb in debs], [wheel.name for wheel in wheels]):
            if names != sorted(set(names)):
                raise _malformed("not sorted by name, or a name twice")
        return cls(_text(document["recipe"], _WORD, "recipe"), debs, wheels)


def read(path: Path) -> Lock:
    """The lock in a file. Raises RecipeError."""
    try:
        with path.open("rb") as source:
            return Lock.parse(source.read(MAX_LOCK + 1))
    except OSError as error:
        raise RecipeError(
            "lock_missing", f"{path.name}: {error.strerror}; run cloister image lock"
        ) from error


def changes(before: Lock | None, after: Lock) -> list[str]:
    """What a refreshed lock changes, one sentence for each input, for people."""
    old, new = _by_name(before), _by_name(after)
    said = []
    for name in sorted(old.keys() | new.keys()):
        was, now = old.get(name), new.get(name)
        if was is None and now is not None:
            said.append(f"+ {name} {now.version}")
        elif now is None and was is not None:
            said.append(f"- {name} {was.version}")
        elif was is not None and now is not None and was.sha256 != now.sha256:
            what = (
                f"{was.version} -> {now.version}"
                if was.version != now.version
                else f"{now.version}, other bytes"
            )
            said.append(f"~ {name} {what}")
    return said


def _by_name(lock: Lock | None) -> dict[str, LockedDeb | LockedWheel]:
    entries: list[LockedDeb | LockedWheel] = [] if lock is None else [*lock.debs, *lock.wheels]
    return {entry.name: entry for entry in entries}


def _members(entry: LockedDeb | LockedWheel) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in entry.__dataclass_fields__}


def _deb(value: object) -> LockedDeb:
    members = _record(value, LockedDeb)
    path = _text(members["path"], _POOL_PATH, "path")
    if ".." in path.split("/"):
        raise _malformed("a path leads out of the pool")
    archive = _text(members["archive"], _WORD, "archive")
    return LockedDeb(*_name(members), archive, path, _size(members), _digest(members))


def _wheel(value: object) -> LockedWheel:
    members = _record(value, LockedWheel)
    return LockedWheel(
        *_name(members), _text(members["file"], _WHEEL, "file"), _size(members), _digest(members)
    )


def _record(value: object, kind: type) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != set(kind.__dataclass_fields__):  # type: ignore[attr-defined]
        raise _malformed("an input has not exactly the known members")
    return value


def _name(members: dict[str, Any]) -> tuple[str, str]:
    return _text(members["name"], _WORD, "name"), _text(members["version"], _WORD, "version")


def _size(members: dict[str, Any]) -> int:
    size = members["size"]
    if type(size) is not int or not 0 < size <= MAX_INPUT:
        raise _malformed(f"a size is a number up to {MAX_INPUT}")
    return int(size)


def _digest(members: dict[str, Any]) -> str:
    return _text(members["sha256"], _SHA256, "sha256")


def _text(value: object, form: re.Pattern[str], what: str) -> str:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise _malformed(f"{what} is malformed")
    return value


def _malformed(why: str) -> RecipeError:
    return RecipeError("lock_malformed", f"not a lock: {why}")
