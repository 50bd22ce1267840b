"""The rows of a verification: one for each check, in the order of the checks."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from attestation.errors import AttestationError
from measurements.errors import TransparencyError
from ohttp.errors import OhttpError

from .errors import VerificationRefused

_SHOW_IT = "keep what --json says under error.evidence, and show it to others: cloister log compare"


@dataclass(frozen=True, slots=True)
class Row:
    """One check: stable ``id``, ``outcome`` (pass, fail, not required), ``detail`` for people, ``code`` on failure."""

    id: str
    outcome: str
    detail: str
    code: str | None = None


class Recorder:
    """Collects rows in order, and keeps the first failure as the verdict."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.error: VerificationRefused | None = None

    def add(self, rows: "Iterable[_Row]", error: AttestationError | TransparencyError | None) -> None:
        self.rows.extend(Row(r.id, str(r.outcome), r.detail, r.code) for r in rows)
        if error is not None:
            self._fail(error)

    def passed(self, check: str, detail: str) -> None:
        self.rows.append(Row(check, "pass", detail))

    def failed(self, check: str, error: AttestationError | TransparencyError | OhttpError) -> None:
        self.rows.append(Row(check, "fail", str(error), error.code))
        self._fail(error)

    def not_required(self, check: str, why: str) -> None:
        self.rows.append(Row(check, "not required", why))

    def not_evaluated(self, check: str, why: str) -> None:
        self.rows.append(Row(check, "fail", why, "not_evaluated"))

    def _fail(self, error: AttestationError | TransparencyError | OhttpError) -> None:
        if self.error is not None:
            return
        evidence = error.evidence if isinstance(error, TransparencyError) else ()
        self.error = VerificationRefused(
            code=error.code,
            detail=str(error),
            hint=_SHOW_IT if evidence else "",
            stage=getattr(error, "stage", "keys"),
            expected=getattr(error, "expected", None),
            found=getattr(error, "found", None),
            retryable=bool(getattr(error, "retryable", False)),
            evidence=evidence,
        )


class _Row(Protocol):
    """What a row of any ground-floor room looks like."""

    @property
    def id(self) -> str: ...
    @property
    def outcome(self) -> Any: ...
    @property
    def detail(self) -> str: ...
    @property
    def code(self) -> str | None: ...
