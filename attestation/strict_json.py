"""JSON as evidence may carry it: sized before it is read, no member twice, nothing beyond the standard."""

import base64
import binascii
import json
from collections.abc import Collection
from typing import Any, Final, NoReturn

from .errors import EvidenceMalformed


def load_object(data: bytes, *, limit: int, code: str) -> dict[str, Any]:
    """Parse ``data`` (UTF-8, at most ``limit`` bytes) as one JSON object.

    Raises EvidenceMalformed with ``code`` for anything else, and as `load_value` does.
    """
    value = load_value(data, limit=limit, code=code)
    if not isinstance(value, dict):
        raise EvidenceMalformed(code=code, detail="not a JSON object")
    return value


def load_value(data: bytes, *, limit: int, code: str) -> Any:
    """Parse ``data`` (UTF-8, at most ``limit`` bytes) as one JSON value of any kind.

    Raises EvidenceMalformed with ``code`` for what is not JSON, for a member that occurs twice, for NaN and
    infinity, and for nesting too deep to read.
    """
    if len(data) > limit:
        raise EvidenceMalformed(
            code=code, expected=f"at most {limit} bytes", found=len(data), detail="too large"
        )
    try:
        return _DECODER.decode(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise EvidenceMalformed(code=code, detail=f"not strict JSON: {_reason(error)}") from None


def exact_members(
    value: object, required: Collection[str], optional: Collection[str] = (), *, code: str, where: str
) -> dict[str, Any]:
    """``value`` as an object with all ``required`` and no unknown members. Raises EvidenceMalformed."""
    if not isinstance(value, dict):
        raise EvidenceMalformed(code=code, detail=f"{where} is not an object")
    missing = sorted(set(required) - value.keys())
    if missing:
        raise EvidenceMalformed(code=code, detail=f"{where} lacks the member {missing[0]!r}")
    unknown = sorted(value.keys() - set(required) - set(optional))
    if unknown:
        raise EvidenceMalformed(code=code, detail=f"{where} has the unknown member {unknown[0][:40]!r}")
    return value


def base64_bytes(value: object, *, limit: int, code: str, where: str) -> bytes:
    """Decode canonical, padded base64 (RFC 4648 §4) of at most ``limit`` bytes. Raises EvidenceMalformed."""
    if not isinstance(value, str):
        raise EvidenceMalformed(code=code, detail=f"{where} is not a string")
    if len(value) > (limit + 2) // 3 * 4:
        raise EvidenceMalformed(code=code, expected=f"at most {limit} bytes", detail=f"{where} is too large")
    try:
        data = base64.b64decode(value.encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        raise EvidenceMalformed(code=code, detail=f"{where} is not base64") from None
    if base64.b64encode(data).decode("ascii") != value:
        raise EvidenceMalformed(code=code, detail=f"{where} is not canonical base64")
    return data


def _distinct_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member occurs twice")
    return members


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_distinct_members, parse_constant=_no_constant)


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at {error.pos}"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at {error.start}"
    if isinstance(error, RecursionError):
        return "nested too deep"
    return str(error)[:80]
