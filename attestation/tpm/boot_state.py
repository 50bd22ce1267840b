"""What the quoted PCRs must be: the policy's pins, a unified kernel image, and what the event log tells."""

from collections.abc import Mapping
from typing import Final

from ..errors import BindingMismatch, PolicyRejected
from .eventlog import FIRMWARE_PCRS, EventLog
from .pcr import PcrValues, reset_value
from .policy import UkiPolicy
from .structures import DIGEST_LENGTHS
from .uki import EMPTY_PCRS, PHASES, UKI_PCR, extend_phases, pcr11

_BOOTED: Final = tuple(":".join(PHASES[:count]) for count in range(5))
"""Boot phases that systemd extends into PCR 11 after firmware has closed its log."""


def check_pins(values: PcrValues, pins: Mapping[int, frozenset[bytes]]) -> None:
    """Check quoted values against pinned ones, in every bank of which values are pinned.

    Raises PolicyRejected: ``pcr_value_mismatch``, or ``pcr_required_missing`` where none was quoted.
    """
    for index, accepted in pins.items():
        compared = 0
        for bank, pcrs in values.items():
            of_bank = {value for value in accepted if len(value) == DIGEST_LENGTHS[bank]}
            if index in pcrs and of_bank:
                compared += 1
                if pcrs[index] not in of_bank:
                    raise _other_value(index, of_bank, pcrs[index])
        if not compared:
            raise PolicyRejected(
                code="pcr_required_missing", expected=f"PCR {index}", detail="a pinned PCR was not quoted"
            )


def check_image(values: PcrValues, uki: UkiPolicy, *, pinned: frozenset[int]) -> None:
    """Check that PCR 11 is that of the image, and that nothing was added to it (PCRs 12 and 13).

    ``pinned``: PCRs that the policy gives values for, which hold instead of their being empty. Raises
    PolicyRejected as ``check_pins`` does.
    """
    accepted = uki.pcr11 | {
        pcr11(digests, bank, phases) for bank, digests in uki.sections.items() for phases in uki.phases
    }
    check_pins(values, {UKI_PCR: accepted})
    for index in EMPTY_PCRS:
        if index not in pinned:
            check_pins(values, {index: frozenset(reset_value(bank, index) for bank in DIGEST_LENGTHS)})


def check_replay(log: EventLog, values: PcrValues) -> None:
    """Check that the log gives every quoted PCR that it speaks of, in every quoted bank.

    Of firmware's PCRs (0 to 7) it speaks in any case: one without events must be as it was at reset. Raises
    BindingMismatch (``eventlog_replay_mismatch``).
    """
    for bank, quoted in values.items():
        if not quoted:
            continue
        replayed = log.replay(bank)
        for index in sorted(quoted.keys() & (replayed.keys() | FIRMWARE_PCRS)):
            expected = replayed.get(index, reset_value(bank, index))
            phases = _BOOTED if index == UKI_PCR else ("",)
            if all(extend_phases(expected, bank, words) != quoted[index] for words in phases):
                raise BindingMismatch(
                    code="eventlog_replay_mismatch",
                    stage="eventlog",
                    expected=quoted[index],
                    found=expected,
                    detail=f"PCR {index} of {bank}: the log tells of another boot",
                )


def _other_value(index: int, accepted: set[bytes], found: bytes) -> PolicyRejected:
    return PolicyRejected(
        code="pcr_value_mismatch",
        expected=", ".join(sorted(value.hex() for value in accepted)),
        found=found,
        detail=f"PCR {index}",
    )
