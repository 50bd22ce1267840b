"""Whether a node leases its memory between the turns of a conversation, and how much of it for how long.

Part of the measured configuration and of the manifest; without it there are no leases.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from enclave_runtime.errors import ConfigurationError

_STORES = ("pool", "sealed")
_BOUNDS: Mapping[str, tuple[int, int]] = {"count": (1, 64), "tokens": (64, 1 << 20), "seconds": (1, 3600)}


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """At most ``count`` leases at a time, each of at most ``tokens`` positions of keys and values (less where the
    context is shorter), for at most ``seconds``. ``store`` is where they lie between two turns: ``pool`` is pages of
    the decoder's, ``sealed`` private memory beside them, encrypted.
    """

    count: int
    tokens: int
    seconds: int
    store: str = "pool"

    def __post_init__(self) -> None:
        for name, (least, most) in _BOUNDS.items():
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise ConfigurationError(
                    "config_leases", f"'{name}' is a whole number from {least} to {most}"
                )
        if self.store not in _STORES:
            raise ConfigurationError("config_leases", f"'store' is one of {', '.join(_STORES)}")

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> "LeaseSettings | None":
        """Read the table of a configuration; None for an empty one. Raises ConfigurationError ``config_leases``."""
        if not table:
            return None
        if set(table) - {"store"} != set(_BOUNDS):
            raise ConfigurationError(
                "config_leases", f"it has {', '.join(_BOUNDS)}, may have store, and no more"
            )
        return cls(**table)

    def manifest(self) -> dict[str, int | str]:
        """The values by name, for the runtime manifest."""
        return asdict(self)
