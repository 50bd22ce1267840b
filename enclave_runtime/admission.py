"""What a node takes on at all: how much of a prompt, of an answer, of everybody's time.

Limits hold before work is done: a prompt of many bytes is refused by its size, since counting its tokens would keep
everybody else's waiting. They are part of the measured configuration and of the manifest.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from enclave_runtime.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """``bytes_per_token`` times the context is how many bytes of text a prompt may have; ``output_tokens`` is the
    most of an answer, whatever a request asks; ``request_s`` the most seconds an answer may take.
    """

    bytes_per_token: int = 8
    output_tokens: int = 1 << 20
    request_s: int = 600

    def __post_init__(self) -> None:
        for name, most in (("bytes_per_token", 64), ("output_tokens", 1 << 20), ("request_s", 3600)):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise ConfigurationError("config_admission", f"'{name}' is a whole number from 1 to {most}")

    @classmethod
    def from_table(cls, table: Mapping[str, int]) -> "AdmissionLimits":
        """Read the table of a configuration. Raises ConfigurationError ``config_admission``."""
        odd = set(table) - set(cls.__dataclass_fields__)
        if odd:
            raise ConfigurationError("config_admission", f"unknown: {', '.join(sorted(odd))[:200]}")
        return cls(**table)

    def manifest(self) -> dict[str, int]:
        """The values by name, for the runtime manifest."""
        return asdict(self)

    def prompt_bytes(self, max_context: int) -> int:
        """How many bytes of UTF-8 a prompt for a context of ``max_context`` tokens may have."""
        return self.bytes_per_token * max_context
