"""Rows of an appraisal of several devices: one row for each check over all of them, in a fixed order."""

from collections.abc import Sequence

from attestation.errors import AttestationError
from attestation.nvidia.errors import GpuAttestationError
from attestation.results import NOT_EVALUATED, Outcome, Row


class Ledger:
    """Rows by check id, and the errors behind those that failed."""

    def __init__(self, checks: Sequence[str]) -> None:
        self._checks = checks
        self._rows: dict[str, Row] = {}
        self._errors: dict[str, AttestationError] = {}

    def ok(self, check: str, detail: str) -> None:
        """A check that passed."""
        self._rows[check] = Row(id=check, outcome=Outcome.PASS, detail=detail)

    def not_required(self, check: str, detail: str) -> None:
        """A check that the policy does not ask for."""
        self._rows[check] = Row(id=check, outcome=Outcome.NOT_REQUIRED, detail=detail)

    def fail(self, check: str, error: GpuAttestationError) -> None:
        """A check that failed."""
        place = "" if error.gpu is None else f"GPU {error.gpu}: "
        self._rows[check] = Row(id=check, outcome=Outcome.FAIL, detail=f"{place}{error}", code=error.code)
        self._errors[check] = error

    def passed(self, check: str) -> bool:
        """Whether a check has been made and has not failed."""
        return check in self._rows and check not in self._errors

    @property
    def failed(self) -> bool:
        """Whether any check failed."""
        return bool(self._errors)

    def first_error(self) -> AttestationError | None:
        """The first failure that was really found, in the order of the checks."""
        errors = [self._errors[check] for check in self._checks if check in self._errors]
        found = [error for error in errors if error.code != NOT_EVALUATED] or errors
        return found[0] if found else None

    def rows(self) -> tuple[Row, ...]:
        """All rows, in the order of the checks."""
        return tuple(self._rows[check] for check in self._checks)
