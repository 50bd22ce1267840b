"""What a schema would cost to compile, looked at before the library does: where its own limits do not hold.

Divisibility becomes an automaton with a state for each remainder, and where several divisors meet, for each of their
common multiple. A schema of forty bytes can ask for minutes and gigabytes so, on the thread that everybody's prompts
wait for.
"""

import math
from decimal import Decimal
from typing import Any

from enclave_runtime.engine.errors import InvalidRequest

MAX_COMMON_MULTIPLE = 10_000
"""Of all numbers under ``multipleOf``, in units of the last decimal place that any of them has."""

_MAX_DIGITS = 16


def check_cost(schema: Any) -> None:
    """Raise `InvalidRequest` for a schema (parsed, with floats as Decimal) whose divisors have too large a common
    multiple, wherever they stand: references bring together what stands apart.
    """
    divisors = [number for number in _under_multiple_of(schema) if number > 0]
    if not divisors:
        return
    places = [number.as_tuple() for number in divisors]
    last = min(0, *(int(place.exponent) for place in places))
    if any(len(place.digits) + int(place.exponent) - last > _MAX_DIGITS for place in places):
        raise _too_large()
    if math.lcm(*(int(number.scaleb(-last)) for number in divisors)) > MAX_COMMON_MULTIPLE:
        raise _too_large()


def _under_multiple_of(schema: Any) -> list[Decimal]:
    """Without recursion: the depth is the sender's choice."""
    found: list[Decimal] = []
    pending = [schema]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            number = value.get("multipleOf")
            if isinstance(number, int | Decimal) and not isinstance(number, bool):
                found.append(Decimal(number))
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
    return found


def _too_large() -> InvalidRequest:
    return InvalidRequest("schema: multiples", expected=f"a common multiple of at most {MAX_COMMON_MULTIPLE}")
