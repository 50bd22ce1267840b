"""What a relying party asks of Intel TDX: the ``[cpu.tdx]`` table of a policy."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from ..errors import PolicyMalformed
from ..policy_table import PolicyTable
from .intel_root import INTEL_ROOT_SHA256
from .tcb_status import TcbStatus

TD_ATTRIBUTES: Final[Mapping[str, int]] = {
    "lass": 27,
    "sept_ve_disable": 28,
    "migratable": 29,
    "pks": 30,
    "kl": 31,
    "perfmon": 63,
}
"""Bits of a TD's attributes that a policy may allow, by name; bit 0, DEBUG, is ``allow_debug``."""

PLATFORM_FLAGS: Final = frozenset({"dynamic_platform", "cached_keys", "smt"})
"""Facts of a platform's configuration that its PCK certificate may state."""

_ACCEPTABLE: Final = frozenset(TcbStatus) - {TcbStatus.REVOKED}
_UP_TO_DATE: Final = frozenset({TcbStatus.UP_TO_DATE})
_DATE: Final = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_BITS: Final = r"0x[0-9a-f]{1,16}"
_DAY: Final = timedelta(days=1)
_PINS: Final = {
    "mrtd": 48,
    "rtmr0": 48,
    "rtmr1": 48,
    "rtmr2": 48,
    "rtmr3": 48,
    "mrseam": 48,
    "mr_config_id": 48,
    "mr_owner": 48,
    "mr_owner_config": 48,
    "report_data": 64,
}


@dataclass(frozen=True, slots=True)
class TdxPolicy:
    """Demands on a trust domain and its platform. Every default is the strict production value.

    ``roots``: SHA-256 of the root certificates trusted; ``simulated_root`` besides, where it is named.
    ``accepted_tcb_statuses`` never holds Revoked. ``allowed_advisories``: where given, every advisory that
    applies must be in it. A status of ``grace_statuses`` is accepted while the TCB date lies no further back
    than ``grace``. ``td_attributes``: names of bits that may be set. ``xfam_fixed1`` are bits that must be
    set, ``xfam_fixed0`` those that may be. ``forbid_platform`` names facts of the platform's configuration;
    a platform that does not tell is refused then. ``pins``: accepted values of a report's fields, by name.
    """

    roots: frozenset[str] = frozenset({INTEL_ROOT_SHA256})
    simulated_root: str | None = None
    accepted_tcb_statuses: frozenset[TcbStatus] = _UP_TO_DATE
    allowed_advisories: frozenset[str] | None = None
    min_tcb_evaluation_data_number: int = 0
    min_tcb_date: datetime | None = None
    grace_statuses: frozenset[TcbStatus] = frozenset()
    grace: timedelta = timedelta()
    min_tee_tcb_svn: bytes = bytes(16)
    allow_debug: bool = False
    require_sept_ve_disable: bool = True
    td_attributes: frozenset[str] = frozenset({"sept_ve_disable", "pks", "kl"})
    xfam_fixed1: int = 0x3
    xfam_fixed0: int = 0x6DBE7
    allow_service_td: bool = False
    fmspc: frozenset[bytes] | None = None
    ppid: frozenset[bytes] | None = None
    forbid_platform: frozenset[str] = frozenset()
    pins: Mapping[str, frozenset[bytes]] = field(default_factory=dict)

    @property
    def trusted_roots(self) -> frozenset[str]:
        """All roots trusted, the simulated one among them where it is named."""
        return self.roots if self.simulated_root is None else self.roots | {self.simulated_root}

    @classmethod
    def from_table(cls, table: PolicyTable, *, simulated_root: str | None = None) -> "TdxPolicy":
        """Read ``[cpu.tdx]``; what it leaves out has the production value. Raises PolicyMalformed."""
        strict = cls()
        grace = table.table("grace")
        grace_statuses = _statuses(grace, "statuses", frozenset())
        days = grace.number("days", 0, highest=3650)
        grace.end()
        advisories = table.texts("allowed_advisories")
        policy = cls(
            simulated_root=simulated_root,
            accepted_tcb_statuses=_statuses(table, "accepted_tcb_statuses", _UP_TO_DATE),
            allowed_advisories=advisories,
            min_tcb_evaluation_data_number=table.number(
                "min_tcb_evaluation_data_number", 0, highest=(1 << 31) - 1
            ),
            min_tcb_date=_date(table, "min_tcb_date"),
            grace_statuses=grace_statuses,
            grace=_DAY * days,
            min_tee_tcb_svn=bytes.fromhex(
                table.text("min_tee_tcb_svn", r"[0-9a-f]{32}", "32 lower-case hexadecimal digits")
                or "00" * 16
            ),
            allow_debug=table.flag("allow_debug", strict.allow_debug),
            require_sept_ve_disable=table.flag("require_sept_ve_disable", strict.require_sept_ve_disable),
            td_attributes=table.names("td_attributes_allowed", strict.td_attributes, allowed=TD_ATTRIBUTES),
            xfam_fixed1=_bits(table, "xfam_fixed1", strict.xfam_fixed1),
            xfam_fixed0=_bits(table, "xfam_fixed0", strict.xfam_fixed0),
            allow_service_td=table.flag("allow_service_td", strict.allow_service_td),
            fmspc=table.digests("fmspc", 6),
            ppid=table.digests("ppid", 16),
            forbid_platform=table.names("forbid_platform", (), allowed=PLATFORM_FLAGS),
            pins={name: pins for name, length in _PINS.items() if (pins := table.digests(name, length))},
        )
        table.end()
        return policy


def _statuses(table: PolicyTable, key: str, default: frozenset[TcbStatus]) -> frozenset[TcbStatus]:
    return frozenset(map(TcbStatus, table.names(key, default, allowed=_ACCEPTABLE)))


def _bits(table: PolicyTable, key: str, default: int) -> int:
    text = table.text(key, _BITS, "0x and up to 16 lower-case hexadecimal digits")
    return default if text is None else int(text, 16)


def _date(table: PolicyTable, key: str) -> datetime | None:
    text = table.text(key, _DATE, "a date as in 2025-12-31")
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        raise PolicyMalformed(code="policy_invalid", detail=key, expected="a date", found=text) from None
