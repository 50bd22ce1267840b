"""How an appraisal is told: one row per check, the first error, and the value that only success has."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Generic, NamedTuple, TypeVar

from .errors import AttestationError

NOT_EVALUATED: Final = "not_evaluated"
"""Code of a row that could not be evaluated, because something before it failed. It counts as a failure."""

_T = TypeVar("_T")


class Outcome(StrEnum):
    """What a check came to. ``NOT_REQUIRED`` is what the policy did not ask for; it never reads as passed."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    NOT_REQUIRED = "not required"


class Row(NamedTuple):
    """One check: a stable ``id``, its outcome, a line for people, and the error's code where it failed."""

    id: str
    outcome: Outcome
    detail: str
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Appraisal(Generic[_T]):
    """All rows of an appraisal, with either its first ``error`` or its ``value``.

    ``simulated`` is True where trust ends at a root that the policy names as a simulated one.
    """

    rows: tuple[Row, ...]
    error: AttestationError | None
    value: _T | None
    simulated: bool = False

    def require(self) -> _T:
        """The value. Raises the first error, so that no caller has a verdict to forget."""
        if self.error is not None:
            raise self.error
        if self.value is None:
            raise AttestationError(code="internal", detail="no verdict was reached")
        return self.value


class Checklist:
    """Runs checks in order and keeps a row for each; the first error is kept, later checks still run.

    A check that depends on one that failed is reported as not evaluated, which is a failure too.
    """

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self.error: AttestationError | None = None

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows so far, in the order of the checks."""
        return tuple(self._rows)

    def check(self, id: str, test: Callable[[], _T], detail: Callable[[_T], str] | str) -> _T | None:
        """Run ``test``: its value, or None (and a failed row) where it raised an AttestationError."""
        try:
            value = test()
        except AttestationError as error:
            self.failed(id, error)
            return None
        self.passed(id, detail if isinstance(detail, str) else detail(value))
        return value

    def passed(self, id: str, detail: str) -> None:
        """Note a check that passed."""
        self._rows.append(Row(id, Outcome.PASS, detail))

    def failed(self, id: str, error: AttestationError) -> None:
        """Note a check that failed; the first such error becomes the verdict."""
        self._rows.append(Row(id, Outcome.FAIL, str(error), error.code))
        if self.error is None:
            self.error = error

    def not_required(self, id: str, detail: str) -> None:
        """Note a check that the policy does not ask for."""
        self._rows.append(Row(id, Outcome.NOT_REQUIRED, detail))

    def not_evaluated(self, id: str, why: str) -> None:
        """Note a check that cannot be evaluated any more: it fails."""
        self._rows.append(Row(id, Outcome.FAIL, why, NOT_EVALUATED))
        if self.error is None:
            self.error = AttestationError(code=NOT_EVALUATED, stage="internal", detail=f"{id}: {why}")


class FirstFailure(Checklist):
    """A checklist for whoever wants a value or the first error, and no rows: the first failure is raised at once."""

    def check(self, id: str, test: Callable[[], _T], detail: Callable[[_T], str] | str) -> _T | None:
        """Run ``test``: its value. Raises what it raises."""
        return test()

    def passed(self, id: str, detail: str) -> None:
        """A check that passed leaves nothing."""

    def failed(self, id: str, error: AttestationError) -> None:
        """Raises ``error``."""
        raise error

    def not_required(self, id: str, detail: str) -> None:
        """A check that the policy does not ask for leaves nothing."""

    def not_evaluated(self, id: str, why: str) -> None:
        """Raises AttestationError (``not_evaluated``)."""
        raise AttestationError(code=NOT_EVALUATED, stage="internal", detail=f"{id}: {why}")
