"""Whether a node leases its memory between the turns of a conversation, and how much of it for how long.

Part of the measured configuration and of the manifest; without it there are no leases.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from enclave_runtime.errors import ConfigurationError

_BOUNDS: Mapping[str, tuple[int, int]] = {"count": (1, 64), "tokens": (64, 1 << 20), "seconds": (1, 3600)}


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """At most ``count`` leases at a time, each of at most ``tokens`` positions of keys and values (less where the
    context is shorter), for at most ``seconds``.
    """

    count: int
    tokens: int
    seconds: int

    def __post_init__(self) -> None:
        for name, (least, most) in _BOUNDS.items():
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise ConfigurationError(
                    "config_leases", f"'{name}' is a whole number from {least} to {most}"
                )

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> "LeaseSettings | None":
        """Read the table of a configuration; None for an empty one. Raises ConfigurationError ``config_leases``."""
        if not table:
            return None
        if set(table) != set(_BOUNDS):
            raise ConfigurationError("config_leases", f"it has exactly {', '.join(_BOUNDS)}")
        return cls(**table)

    def manifest(self) -> dict[str, int]:
        """The values by name, for the runtime manifest."""
        return asdict(self)
