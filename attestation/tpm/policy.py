"""What a relying party asks of a TPM: the ``[cpu.tpm]``, ``[cpu.azure]`` and ``[cpu.gcp]`` tables of a policy.

A TPM alone hides no memory from its host. Evidence of kind ``tpm`` says what was booted; only the Azure kinds
say that a confidential VM booted it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ..errors import PolicyMalformed
from ..policy_table import PolicyTable
from .gcp import GcpPolicy
from .structures import DIGEST_LENGTHS, PCR_COUNT, SHA256, SHA384, SHA512
from .uki import PHASES, SECTIONS

ACCEPTABLE_BANKS: Final = (SHA256, SHA384, SHA512)
"""Banks that a policy may accept. SHA-1 is not among them: its collisions can be bought."""

DEFAULT_REQUIRED: Final = frozenset({*range(8), 11, 12, 13})
"""PCRs that a quote covers by default: firmware (0 to 7), the image (11), and what was added to it (12, 13)."""

_BOOT_PHASES: Final = ":".join(PHASES[:4])
_YEAR_SECONDS: Final = 366 * 24 * 3600


@dataclass(frozen=True, slots=True)
class UkiPolicy:
    """The unified kernel image that must be in PCR 11, given by its sections' digests or by PCR 11 itself.

    ``sections``: digests by bank, then by section name without the dot. ``pcr11``: accepted values, all
    phases included. ``phases``: boot phases after which a quote is accepted, any one of them. PCRs 12 and
    13 must be empty, so that nothing was added to the image, unless the policy pins them.
    """

    sections: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
    pcr11: frozenset[bytes] = frozenset()
    phases: tuple[str, ...] = (_BOOT_PHASES,)


@dataclass(frozen=True, slots=True)
class TpmPolicy:
    """Demands on a TPM's quote. Every default is the strict production value.

    ``pinned_names``: TPM names of AKs trusted by themselves, with their attributes; ``pinned_spki``: SHA-256 of
    the SubjectPublicKeyInfo of such AKs; ``ca``: SHA-256 of root certificates whose AK certificates are
    trusted. Without any, no AK is. ``required_pcrs``: what a
    quote must cover, by bank. ``pins``: accepted values by PCR; the values of one bank are alternatives.
    ``secure_boot``: the event log must show Secure Boot on. ``max_reset_age_s``: the TPM's clock, which has
    run without a gap, counts no more seconds than these, so it cannot have been reset longer ago.
    """

    pinned_names: frozenset[bytes] = frozenset()
    pinned_spki: frozenset[bytes] = frozenset()
    ca: frozenset[bytes] = frozenset()
    require_crl: bool = False
    require_restricted_ak: bool = True
    banks: frozenset[str] = frozenset({SHA256, SHA384})
    required_pcrs: Mapping[str, frozenset[int]] = field(default_factory=lambda: {SHA256: DEFAULT_REQUIRED})
    pins: Mapping[int, frozenset[bytes]] = field(default_factory=dict)
    replay_eventlog: bool = True
    secure_boot: bool = True
    uki: UkiPolicy | None = None
    max_reset_age_s: int | None = None

    @classmethod
    def from_table(cls, table: PolicyTable) -> "TpmPolicy":
        """Read ``[cpu.tpm]``; what it leaves out has the production value. Raises PolicyMalformed."""
        strict = cls()
        ak = table.table("ak")
        pinned_spki, ca = ak.digests("pinned_spki", 32), ak.digests("ca", 32)
        names = ak.digests("pinned_names", 34)
        require_crl = ak.flag("require_crl", False)
        ak.end()
        banks = table.names("banks", strict.banks, allowed=ACCEPTABLE_BANKS)
        if not banks:
            raise PolicyMalformed(code="policy_invalid", detail="banks", expected="at least one bank")
        policy = cls(
            pinned_names=names or frozenset(),
            pinned_spki=pinned_spki or frozenset(),
            ca=ca or frozenset(),
            require_crl=require_crl,
            require_restricted_ak=table.flag("require_restricted_ak", strict.require_restricted_ak),
            banks=banks,
            required_pcrs=_required(table, banks),
            pins=_pins(table.table("pcr")),
            replay_eventlog=table.flag("replay_eventlog", strict.replay_eventlog),
            secure_boot=table.flag("secure_boot", strict.secure_boot),
            uki=_uki(table.table("uki")) if "uki" in table else None,
            max_reset_age_s=table.number("max_reset_age_s", 0, highest=_YEAR_SECONDS) or None,
        )
        table.end()
        if policy.secure_boot and not policy.replay_eventlog:
            raise PolicyMalformed(
                code="policy_invalid", detail="secure_boot is read from the event log: replay_eventlog is off"
            )
        return policy


@dataclass(frozen=True, slots=True)
class AzurePolicy:
    """Demands on Azure's paravisor, besides those on its hardware and on its vTPM.

    ``allow_console``: the host's serial console may be on, as it is by default there. ``user_data``:
    accepted values of the guest's own 64 bytes.
    """

    secure_boot: bool = True
    allow_console: bool = True
    user_data: frozenset[bytes] | None = None

    @classmethod
    def from_table(cls, table: PolicyTable) -> "AzurePolicy":
        """Read ``[cpu.azure]``. Raises PolicyMalformed."""
        strict = cls()
        policy = cls(
            secure_boot=table.flag("secure_boot", strict.secure_boot),
            allow_console=table.flag("allow_console", strict.allow_console),
            user_data=table.digests("user_data", 64),
        )
        table.end()
        return policy


def read_gcp_policy(table: PolicyTable) -> GcpPolicy:
    """Read ``[cpu.gcp]``. Raises PolicyMalformed."""
    policy = GcpPolicy(
        projects=table.texts("projects"),
        zones=table.texts("zones"),
        instance_ids=table.texts("instance_ids"),
        require_production=table.flag("require_production", True),
    )
    table.end()
    return policy


def _required(table: PolicyTable, banks: frozenset[str]) -> dict[str, frozenset[int]]:
    if "required_pcrs" not in table:
        return {SHA256 if SHA256 in banks else min(banks): DEFAULT_REQUIRED}
    by_bank = table.table("required_pcrs")
    found = {
        bank: frozenset(by_bank.numbers(bank, (), highest=PCR_COUNT - 1))
        for bank in sorted(banks)
        if bank in by_bank
    }
    by_bank.end()
    if not found:
        raise PolicyMalformed(code="policy_invalid", detail="required_pcrs", expected="at least one bank")
    return found


def _pins(table: PolicyTable) -> dict[int, frozenset[bytes]]:
    found = {}
    for index in range(PCR_COUNT):
        if str(index) in table:
            found[index] = _digests_of_any_bank(table, str(index))
    table.end()
    return found


def _digests_of_any_bank(table: PolicyTable, key: str) -> frozenset[bytes]:
    values = table.texts(key) or frozenset()
    lengths = {DIGEST_LENGTHS[bank] for bank in ACCEPTABLE_BANKS}
    found = set()
    for value in values:
        try:
            digest = bytes.fromhex(value)
        except ValueError:
            digest = b""
        if len(digest) not in lengths or digest.hex() != value:
            raise PolicyMalformed(
                code="policy_invalid", detail=key, expected="a digest in lower-case hexadecimal", found=value
            )
        found.add(digest)
    return frozenset(found)


def _uki(table: PolicyTable) -> UkiPolicy:
    pcr11 = _digests_of_any_bank(table, "pcr11") if "pcr11" in table else frozenset()
    sections = table.table("sections")
    by_bank: dict[str, dict[str, bytes]] = {bank: {} for bank in ACCEPTABLE_BANKS}
    for name in SECTIONS:
        if name in sections:
            for digest in _digests_of_any_bank(sections, name):
                bank = next(bank for bank in ACCEPTABLE_BANKS if DIGEST_LENGTHS[bank] == len(digest))
                if name in by_bank[bank]:
                    raise PolicyMalformed(
                        code="policy_invalid", detail=name, expected="one digest of each bank"
                    )
                by_bank[bank][name] = digest
    sections.end()
    given = {bank: digests for bank, digests in by_bank.items() if digests}
    if bool(given) is bool(pcr11) or len({frozenset(digests) for digests in given.values()}) > 1:
        raise PolicyMalformed(
            code="policy_invalid", detail="uki", expected="pcr11, or the same sections in each bank"
        )
    if any("linux" not in digests for digests in given.values()):
        raise PolicyMalformed(code="policy_invalid", detail="uki.sections", expected="linux among them")
    phases = table.texts("phases")
    for path in phases or ():
        if any(word not in PHASES for word in path.split(":")):
            raise PolicyMalformed(code="policy_invalid", detail="uki.phases", found=path)
    table.end()
    return UkiPolicy(given, pcr11, tuple(sorted(phases)) if phases else (_BOOT_PHASES,))
