"""The trustworthiness vector of AR4SI (draft-ietf-rats-ar4si-09 §2.3) for an appraisal's rows.

A row says what a check came to; the vector says the same by aspects that relying parties of any kind of
evidence share. Where several rows speak of one aspect, the worst word stands. An aspect that no row speaks of
is left out: nothing is claimed of it.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final

from .results import NOT_EVALUATED, Outcome, Row

INSTANCE: Final = "instance-identity"
CONFIGURATION: Final = "configuration"
EXECUTABLES: Final = "executables"
HARDWARE: Final = "hardware"
RUNTIME: Final = "runtime-opaque"

NO_CLAIM: Final = 0
VERIFIER_FAULT: Final = 1
CRYPTO_FAILED: Final = 99

TRUSTWORTHY_INSTANCE, UNTRUSTWORTHY_INSTANCE = 2, 96
APPROVED_CONFIGURATION, UNSAFE_CONFIGURATION, UNSUPPORTABLE_CONFIGURATION = 2, 32, 96
APPROVED_BOOT, UNRECOGNIZED_RUNTIME = 3, 33
GENUINE_HARDWARE, UNSAFE_HARDWARE, CONTRAINDICATED_HARDWARE, UNRECOGNIZED_HARDWARE = 2, 32, 96, 97
ENCRYPTED_MEMORY, VISIBLE_MEMORY = 2, 96

Claim = tuple[str, int]


class Tier(StrEnum):
    """How an aspect, or a whole attester, is judged (``ear.status``)."""

    NONE = "none"
    AFFIRMING = "affirming"
    WARNING = "warning"
    CONTRAINDICATED = "contraindicated"


_ORDER: Final = tuple(Tier)

# What a passed check affirms.
_PASSED: Final[Mapping[str, tuple[Claim, ...]]] = {
    "cpu.chain": ((HARDWARE, GENUINE_HARDWARE),),
    "cpu.signature": ((HARDWARE, GENUINE_HARDWARE),),
    "cpu.tcb": ((HARDWARE, GENUINE_HARDWARE),),
    "cpu.debug": ((RUNTIME, ENCRYPTED_MEMORY),),
    "cpu.guest_policy": ((CONFIGURATION, APPROVED_CONFIGURATION), (RUNTIME, ENCRYPTED_MEMORY)),
    "cpu.report_data": ((INSTANCE, TRUSTWORTHY_INSTANCE),),
    "azure.binding": ((INSTANCE, TRUSTWORTHY_INSTANCE),),
    "azure.configuration": ((CONFIGURATION, APPROVED_CONFIGURATION),),
    "tpm.key": ((HARDWARE, GENUINE_HARDWARE),),
    "tpm.nonce": ((INSTANCE, TRUSTWORTHY_INSTANCE),),
    "tpm.image": ((EXECUTABLES, APPROVED_BOOT),),
    "tpm.state": ((CONFIGURATION, APPROVED_CONFIGURATION),),
    "gpu.chain": ((HARDWARE, GENUINE_HARDWARE),),
    "gpu.signature": ((HARDWARE, GENUINE_HARDWARE),),
    "gpu.nonce": ((INSTANCE, TRUSTWORTHY_INSTANCE),),
    "gpu.mode": ((CONFIGURATION, APPROVED_CONFIGURATION), (RUNTIME, ENCRYPTED_MEMORY)),
    "gpu.measurements": ((EXECUTABLES, APPROVED_BOOT),),
}

# What a code says, whichever row failed with it.
_CODES: Final[Mapping[str, tuple[Claim, ...]]] = {
    "internal": ((HARDWARE, VERIFIER_FAULT),),
    "debug_enabled": ((CONFIGURATION, UNSUPPORTABLE_CONFIGURATION), (RUNTIME, VISIBLE_MEMORY)),
    "td_debug": ((CONFIGURATION, UNSUPPORTABLE_CONFIGURATION), (RUNTIME, VISIBLE_MEMORY)),
    "migration_agent": ((CONFIGURATION, UNSUPPORTABLE_CONFIGURATION), (RUNTIME, VISIBLE_MEMORY)),
    "measurement_mismatch": ((EXECUTABLES, UNRECOGNIZED_RUNTIME),),
    "report_data_mismatch": ((INSTANCE, UNTRUSTWORTHY_INSTANCE),),
    "nonce_mismatch": ((INSTANCE, UNTRUSTWORTHY_INSTANCE),),
    "hcl_binding": ((INSTANCE, UNTRUSTWORTHY_INSTANCE),),
    "hwid_mismatch": ((HARDWARE, CONTRAINDICATED_HARDWARE), (INSTANCE, UNTRUSTWORTHY_INSTANCE)),
    "cert_revoked": ((HARDWARE, CONTRAINDICATED_HARDWARE),),
    "tcb_not_supported": ((HARDWARE, CONTRAINDICATED_HARDWARE),),
    "tcb_cert_mismatch": ((HARDWARE, CONTRAINDICATED_HARDWARE),),
    "tcb_below_minimum": ((HARDWARE, UNSAFE_HARDWARE),),
    "tcb_eval_number_too_low": ((HARDWARE, UNSAFE_HARDWARE),),
    "advisory_not_allowed": ((HARDWARE, UNSAFE_HARDWARE),),
    "provisional_firmware": ((HARDWARE, UNSAFE_HARDWARE),),
    "firmware_version": ((HARDWARE, UNSAFE_HARDWARE),),
    "mitigation_vector": ((HARDWARE, UNSAFE_HARDWARE),),
    "td_tcb_svn": ((HARDWARE, UNSAFE_HARDWARE),),
    "platform_info": ((CONFIGURATION, UNSAFE_CONFIGURATION),),
    "guest_policy": ((CONFIGURATION, UNSAFE_CONFIGURATION),),
    "platform_configuration": ((CONFIGURATION, UNSAFE_CONFIGURATION),),
    "secure_boot": ((CONFIGURATION, UNSAFE_CONFIGURATION),),
    "pcr_value_mismatch": ((EXECUTABLES, UNRECOGNIZED_RUNTIME),),
    "eventlog_replay_mismatch": ((EXECUTABLES, UNRECOGNIZED_RUNTIME),),
    "eventlog_digest_mismatch": ((EXECUTABLES, UNRECOGNIZED_RUNTIME),),
    "report_signature": ((HARDWARE, CRYPTO_FAILED),),
    "quote_signature": ((HARDWARE, CRYPTO_FAILED),),
    "qe_report_signature": ((HARDWARE, CRYPTO_FAILED),),
    "signature": ((HARDWARE, CRYPTO_FAILED),),
    "mrtd_mismatch": ((EXECUTABLES, UNRECOGNIZED_RUNTIME),),
    "rtmr0_mismatch": ((EXECUTABLES, UNRECOGNIZED_RUNTIME),),
    "rtmr1_mismatch": ((EXECUTABLES, UNRECOGNIZED_RUNTIME),),
    "rtmr2_mismatch": ((EXECUTABLES, UNRECOGNIZED_RUNTIME),),
    "rtmr3_mismatch": ((EXECUTABLES, UNRECOGNIZED_RUNTIME),),
}

# What a failed row says where its code says nothing more: by the last word of its id, then for any row.
_FAILED: Final[Mapping[str, Claim]] = {
    "signature": (HARDWARE, CRYPTO_FAILED),
    "guest_policy": (CONFIGURATION, UNSUPPORTABLE_CONFIGURATION),
    "configuration": (CONFIGURATION, UNSUPPORTABLE_CONFIGURATION),
    "state": (CONFIGURATION, UNSUPPORTABLE_CONFIGURATION),
    "mode": (CONFIGURATION, UNSUPPORTABLE_CONFIGURATION),
    "attributes": (CONFIGURATION, UNSUPPORTABLE_CONFIGURATION),
    "image": (EXECUTABLES, UNRECOGNIZED_RUNTIME),
    "eventlog": (EXECUTABLES, UNRECOGNIZED_RUNTIME),
    "measurements": (EXECUTABLES, UNRECOGNIZED_RUNTIME),
    "pcrs": (EXECUTABLES, UNRECOGNIZED_RUNTIME),
    "nonce": (INSTANCE, UNTRUSTWORTHY_INSTANCE),
    "binding": (INSTANCE, UNTRUSTWORTHY_INSTANCE),
    "report_data": (INSTANCE, UNTRUSTWORTHY_INSTANCE),
}
_ANY_FAILED: Final = (HARDWARE, UNRECOGNIZED_HARDWARE)

_STATES: Final[Mapping[str, tuple[Claim, ...]]] = {
    # Intel's words for the state of a platform, whether or not the policy accepts it.
    "SWHardeningNeeded": ((CONFIGURATION, UNSAFE_CONFIGURATION),),
    "ConfigurationNeeded": ((CONFIGURATION, UNSAFE_CONFIGURATION),),
    "ConfigurationAndSWHardeningNeeded": ((CONFIGURATION, UNSAFE_CONFIGURATION),),
    "OutOfDate": ((HARDWARE, UNSAFE_HARDWARE),),
    "OutOfDateConfigurationNeeded": ((HARDWARE, UNSAFE_HARDWARE), (CONFIGURATION, UNSAFE_CONFIGURATION)),
    "TDRelaunchAdvised": ((HARDWARE, UNSAFE_HARDWARE),),
    "TDRelaunchAdvisedConfigurationNeeded": (
        (HARDWARE, UNSAFE_HARDWARE),
        (CONFIGURATION, UNSAFE_CONFIGURATION),
    ),
    "Revoked": ((HARDWARE, CONTRAINDICATED_HARDWARE),),
}


def tier(value: int) -> Tier:
    """The tier of a claim's value (§2.3.2): 0, 1 and what is undefined claim nothing good."""
    if 2 <= value <= 31:
        return Tier.AFFIRMING
    if 32 <= value <= 95:
        return Tier.WARNING
    if 96 <= value <= 127:
        return Tier.CONTRAINDICATED
    return Tier.NONE


def trustworthiness(
    rows: Iterable[Row], *, state: str = "", visible: bool = False, approved: bool = False
) -> dict[str, int]:
    """The vector for these rows.

    ``state`` is Intel's word for the platform's TCB where there is one, and ``visible`` says that the guest's
    memory can be read by its host: both speak even where the policy permits them. ``approved`` says that
    what was launched is something that the policy, or a release, names.
    """
    claims: list[Claim] = list(_STATES.get(state, ()))
    if approved:
        claims.append((EXECUTABLES, APPROVED_BOOT))
    if visible:
        claims += _CODES["debug_enabled"]
    for row in rows:
        claims += _claims_of(row, state)
    vector: dict[str, int] = {}
    for aspect, value in claims:
        if aspect not in vector or _worse(value, vector[aspect]):
            vector[aspect] = value
    return vector


def status(vector: Mapping[str, int], rows: Iterable[Row]) -> Tier:
    """The attester's tier: the worst of its vector, and never affirming where any check failed."""
    rows = tuple(rows)
    tiers = [tier(value) for value in vector.values()]
    worst = max(tiers, key=_ORDER.index, default=Tier.NONE)
    if any(value == VERIFIER_FAULT for value in vector.values()):
        return Tier.NONE
    failed = any(row.outcome is Outcome.FAIL for row in rows)
    if failed and worst in (Tier.NONE, Tier.AFFIRMING):
        return Tier.CONTRAINDICATED
    return worst


def _claims_of(row: Row, state: str) -> tuple[Claim, ...]:
    if row.outcome is Outcome.PASS:
        return _PASSED.get(row.id, ())
    if row.outcome is Outcome.NOT_REQUIRED or row.code == NOT_EVALUATED:
        return ()
    if row.code == "tcb_status_not_accepted" and state in _STATES:
        return ()  # the state has spoken
    known = _CODES.get(row.code or "")
    if known is not None:
        return known
    return (_FAILED.get(row.id.rpartition(".")[2], _ANY_FAILED),)


def _worse(value: int, than: int) -> bool:
    left, right = _ORDER.index(tier(value)), _ORDER.index(tier(than))
    return (left, value) > (right, than)
