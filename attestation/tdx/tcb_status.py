"""What Intel calls the state of a platform's trusted computing base, and how states of its parts combine."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class TcbStatus(StrEnum):
    """A state, by Intel's word. The last two arise in the appraisal alone; no document may state them."""

    UP_TO_DATE = "UpToDate"
    SW_HARDENING_NEEDED = "SWHardeningNeeded"
    CONFIGURATION_NEEDED = "ConfigurationNeeded"
    CONFIGURATION_AND_SW_HARDENING_NEEDED = "ConfigurationAndSWHardeningNeeded"
    OUT_OF_DATE = "OutOfDate"
    OUT_OF_DATE_CONFIGURATION_NEEDED = "OutOfDateConfigurationNeeded"
    REVOKED = "Revoked"
    TD_RELAUNCH_ADVISED = "TDRelaunchAdvised"
    TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED = "TDRelaunchAdvisedConfigurationNeeded"

    @classmethod
    def of_level(cls, text: str) -> "TcbStatus | None":
        """The state that a level of a document states; None for a word that none may state."""
        return _OF_LEVEL.get(text)


_HARDENING, _CONFIGURATION, _OUTDATED, _REVOKED = 1, 2, 4, 8
_FAULTS: Final[Mapping[TcbStatus, int]] = {
    TcbStatus.UP_TO_DATE: 0,
    TcbStatus.SW_HARDENING_NEEDED: _HARDENING,
    TcbStatus.CONFIGURATION_NEEDED: _CONFIGURATION,
    TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED: _CONFIGURATION | _HARDENING,
    TcbStatus.OUT_OF_DATE: _OUTDATED,
    TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED: _OUTDATED | _CONFIGURATION,
    TcbStatus.REVOKED: _REVOKED,
}
_STATUS: Final[Mapping[int, TcbStatus]] = {faults: status for status, faults in _FAULTS.items()}
_OF_LEVEL: Final[Mapping[str, TcbStatus]] = {status.value: status for status in _FAULTS}
_OUT: Final = frozenset({TcbStatus.OUT_OF_DATE, TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED})


def converge(*statuses: TcbStatus) -> TcbStatus:
    """The state of a whole with parts in these states: every fault of a part is one of the whole.

    Revoked wins. An outdated part makes UpToDate and SWHardeningNeeded OutOfDate, and Configuration* into
    OutOfDateConfigurationNeeded, as Intel's library has it. A part that needs configuration or hardening is
    never passed over, which goes beyond that library.
    """
    faults = 0
    for status in statuses:
        faults |= _FAULTS[status]
    if faults & _REVOKED:
        return TcbStatus.REVOKED
    if faults & _OUTDATED:
        faults &= ~_HARDENING
    return _STATUS[faults]


def with_relaunch(launch: TcbStatus, current: TcbStatus) -> TcbStatus:
    """The state of a TD launched in one state of the module and running in another (TD-preserving update).

    Where the launch was out of date and what runs now is not, launching anew would cure it. Otherwise the
    faults of both stand.
    """
    if launch in _OUT and current not in _OUT and current is not TcbStatus.REVOKED:
        needs = (_FAULTS[launch] | _FAULTS[current]) & _CONFIGURATION
        if needs:
            return TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED
        return TcbStatus.TD_RELAUNCH_ADVISED
    return converge(launch, current)
