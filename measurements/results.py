"""What a check says: rows for people and programs, and a value only where every row allows it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from .errors import Code, TransparencyError

T = TypeVar("T")

NOT_EVALUATED = "not_evaluated"
"""The code of a row that could not be evaluated any more; it counts as a failure."""


class Outcome(StrEnum):
    """``NOT_REQUIRED`` says that the policy did not ask; it never stands for a check that was left out."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    NOT_REQUIRED = "not required"


@dataclass(frozen=True, slots=True)
class Row:
    """One check: stable ``id``, outcome, a sentence, and on failure the code."""

    id: str
    outcome: Outcome
    detail: str
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Appraisal(Generic[T]):
    """Every row of a verification; ``value`` is set exactly when ``error`` is not."""

    rows: tuple[Row, ...]
    error: TransparencyError | None
    value: T | None

    def require(self) -> T:
        """The verified value. Raises the first failure."""
        if self.error is not None:
            raise self.error
        if self.value is None:
            raise TransparencyError(Code.PROOF_MISSING, "no verdict was reached", stage="appraisal")
        return self.value
