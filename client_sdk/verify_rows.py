"""Where the outcome of each check of a node's runtime manifest goes."""

from typing import Protocol

from attestation.errors import AttestationError
from ohttp.errors import OhttpError


class Rows(Protocol):
    """One row for each check."""

    def passed(self, check: str, detail: str) -> None: ...
    def failed(self, check: str, error: AttestationError | OhttpError) -> None: ...
    def not_required(self, check: str, why: str) -> None: ...
    def not_evaluated(self, check: str, why: str) -> None: ...
