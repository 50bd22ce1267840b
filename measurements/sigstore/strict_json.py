"""JSON that says one thing only: UTF-8, no member twice, no NaN; within a limit that is checked first."""

import json
from typing import Any

from ..errors import Code, TransparencyError


def parse_strict(data: bytes, *, limit: int, code: Code, what: str) -> Any:
    """The value of ``data``. Raises TransparencyError: LIMIT_EXCEEDED, or ``code`` for what is not such JSON."""
    if len(data) > limit:
        raise TransparencyError(
            Code.LIMIT_EXCEEDED, what, stage=what, expected=f"≤ {limit} B", found=len(data)
        )
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        detail = str(error) if isinstance(error, _Twice) else "not JSON"
        raise TransparencyError(code, f"{what}: {detail}", stage=what) from error


class _Twice(ValueError):
    """A member that stands twice: two readers could see two values."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _Twice("an object has a member twice")
    return value


def _no_constant(_: str) -> None:
    raise ValueError("not a JSON number")
