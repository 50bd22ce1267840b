"""Reading a policy's tables by a closed schema: a key has one type, and a key nobody reads is an error."""

import re
from collections.abc import Collection, Mapping
from typing import Final

from .errors import PolicyMalformed

_HEX: Final = re.compile(r"(?:[0-9a-f]{2})*\Z")
_MAX_LIST: Final = 256


class PolicyTable:
    """One table. Methods read a key, or give ``default`` where it is absent; ``end`` refuses what is left.

    All raise PolicyMalformed (``policy_invalid``) that names the key.
    """

    def __init__(self, table: object, where: str) -> None:
        if not isinstance(table, Mapping):
            raise _invalid(where, "a table", table)
        self._left = dict(table)
        self._where = where

    def __contains__(self, key: str) -> bool:
        return key in self._left

    def end(self) -> None:
        """Refuse keys that were not read."""
        if self._left:
            key = str(next(iter(self._left)))[:60]
            raise PolicyMalformed(code="policy_invalid", detail=f"unknown key {self._name(key)}")

    def table(self, key: str) -> "PolicyTable":
        """The table under ``key``; an empty one where it is absent."""
        return PolicyTable(self._left.pop(key, {}), self._name(key))

    def mapping(self, key: str) -> Mapping[str, object]:
        """The table under ``key`` for another reader; an empty one where it is absent."""
        value = self._left.pop(key, {})
        if not isinstance(value, Mapping):
            raise _invalid(self._name(key), "a table", value)
        return value

    def names_left(self) -> tuple[str, ...]:
        """Keys not read so far."""
        return tuple(self._left)

    def flag(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self._left.pop(key, default)
        if not isinstance(value, bool):
            raise _invalid(self._name(key), "true or false", value)
        return value

    def number(self, key: str, default: int, *, highest: int) -> int:
        """A whole number from 0 to ``highest``."""
        value = self._left.pop(key, default)
        if type(value) is not int or not 0 <= value <= highest:
            raise _invalid(self._name(key), f"a whole number from 0 to {highest}", value)
        return value

    def numbers(self, key: str, default: tuple[int, ...], *, highest: int) -> tuple[int, ...]:
        """A list of whole numbers from 0 to ``highest``, not empty."""
        if key not in self._left:
            return default
        values = self._list(key)
        if not values or not all(type(value) is int and 0 <= value <= highest for value in values):
            raise _invalid(self._name(key), f"a list of whole numbers from 0 to {highest}", values)
        return tuple(int(str(value)) for value in values)

    def text(self, key: str, pattern: str, what: str) -> str | None:
        """Text that ``pattern`` matches in full, or None where the key is absent."""
        if key not in self._left:
            return None
        value = self._left.pop(key)
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise _invalid(self._name(key), what, value)
        return value

    def texts(self, key: str) -> frozenset[str] | None:
        """A list of texts, not empty; None where the key is absent."""
        if key not in self._left:
            return None
        values = self._list(key)
        if not values or not all(isinstance(value, str) for value in values):
            raise _invalid(self._name(key), "a list of texts", values)
        return frozenset(str(value) for value in values)

    def names(self, key: str, default: Collection[str], *, allowed: Collection[str]) -> frozenset[str]:
        """A list of words out of ``allowed``."""
        if key not in self._left:
            return frozenset(default)
        values = self._list(key)
        for value in values:
            if not isinstance(value, str) or value not in allowed:
                raise _invalid(self._name(key), f"of {', '.join(sorted(allowed))}", value)
        return frozenset(str(value) for value in values)

    def digests(self, key: str, length: int) -> frozenset[bytes] | None:
        """A list of values of ``length`` bytes in lower-case hexadecimal, not empty; None where absent."""
        if key not in self._left:
            return None
        values = self._list(key)
        found = set()
        for value in values:
            if not isinstance(value, str) or len(value) != 2 * length or not _HEX.match(value):
                raise _invalid(self._name(key), f"{2 * length} lower-case hexadecimal digits", value)
            found.add(bytes.fromhex(value))
        if not found:
            raise _invalid(self._name(key), "at least one value", values)
        return frozenset(found)

    def _list(self, key: str) -> list[object]:
        values = self._left.pop(key)
        if not isinstance(values, list) or len(values) > _MAX_LIST:
            raise _invalid(self._name(key), f"a list of at most {_MAX_LIST}", values)
        return values

    def _name(self, key: str) -> str:
        return f"{self._where}.{key}" if self._where else key


def _invalid(name: str, expected: str, found: object) -> PolicyMalformed:
    return PolicyMalformed(
        code="policy_invalid",
        detail=f"[{name}]" if expected == "a table" else name,
        expected=expected,
        found=found,
    )
