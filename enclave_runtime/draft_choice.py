"""Which draft model a node uses: named by its digest in the measured configuration, since it lies beside the model and
not in anything else that is measured.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enclave_runtime.errors import ConfigurationError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
MAX_GUESSES = 8


@dataclass(frozen=True, slots=True)
class DraftChoice:
    """``name`` of a file or folder beside the model's file, or inside the model's folder; ``digest`` of it as
    `enclave_runtime.engine.model.model_digest` makes it (64 hex digits); ``guesses``: tokens it goes ahead at most.
    """

    name: str
    digest: str
    guesses: int = 4

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ConfigurationError("config_draft", "'name' is a plain name of a file or folder")
        if not isinstance(self.digest, str) or not _DIGEST.fullmatch(self.digest):
            raise ConfigurationError("config_draft", "'digest' is 64 hex digits")
        if type(self.guesses) is not int or not 1 <= self.guesses <= MAX_GUESSES:
            raise ConfigurationError("config_draft", f"'guesses' is a whole number from 1 to {MAX_GUESSES}")

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> "DraftChoice | None":
        """Read the table of a configuration; None for an empty one. Raises ConfigurationError ``config_draft``."""
        if not table:
            return None
        if not {"name", "digest"} <= set(table) <= set(cls.__dataclass_fields__):
            raise ConfigurationError("config_draft", "it has 'name', 'digest' and perhaps 'guesses'")
        return cls(**table)

    def beside(self, model: Path) -> Path:
        """Where it lies, for a model at ``model``."""
        return (model if model.is_dir() else model.parent) / self.name

    def manifest(self) -> dict[str, str | int]:
        """The values by name, for the runtime manifest."""
        return {"name": self.name, "digest": self.digest, "guesses": self.guesses}
