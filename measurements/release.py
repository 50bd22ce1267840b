"""The two statements about images that a client reads: what a release measures as, and which releases are active now.

A denial that can be withheld protects nobody, so a release is allowed only while a fresh status lists it.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from .dsse import Envelope
from .note import VerifierKey
from .signing_key import SigningKey
from .statement import (
    PAYLOAD_TYPE,
    PREDICATE_BASE,
    Statement,
    Subject,
    canonical,
    closed,
    count,
    hex_text,
    instant,
    instant_text,
    malformed,
    predicate_of,
    record,
    sequence,
    text,
)

RELEASE_TYPE: Final = f"{PREDICATE_BASE}/cvm-release/v1"
STATUS_TYPE: Final = f"{PREDICATE_BASE}/cvm-status/v1"

_TD: Final = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
# What the firmware started (nothing before it can write PCR 4), the image's sections and phases, and what was added
# from outside: command line and credentials, system extensions. PCR 11 alone says nothing: whoever boots writes it.
_UKI: Final = ("pcr4", "pcr11", "pcr12", "pcr13")
CPU_REGISTERS: Final[Mapping[str, tuple[str, ...]]] = {
    "sev-snp": ("launchDigest",),
    "tdx": _TD,
    "tpm": _UKI,
    "azure-snp": ("launchDigest", *_UKI),
    "azure-tdx": (*_TD, *_UKI),
}
"""Per TEE, the registers that every element has; all of them must match, and every other PCR that it names."""
GPU: Final = "nvidia-gpu"
_PCR: Final = re.compile("pcr([0-9]|1[0-9]|2[0-3])")

MAX_MEASUREMENTS: Final = 64
MAX_LISTED: Final = 1024


@dataclass(frozen=True, slots=True)
class Release:
    """``cvm-release``: one image, its validity [not_before, not_after) and every measurement it may show.

    ``previous`` is the leaf hash (hex) of the channel's release before it, "" for the first.
    """

    name: str
    channel: str
    version: str
    sequence: int
    not_before: datetime
    not_after: datetime
    subjects: tuple[Subject, ...]
    measurements: tuple[Mapping[str, Any], ...]
    previous: str = ""
    materials: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, statement: Statement) -> "Release":
        """Read a statement's predicate. Raises TransparencyError (PREDICATE_TYPE, STATEMENT_MALFORMED).

        Unknown members are ignored unless ``critical`` names them.
        """
        predicate = predicate_of(statement, RELEASE_TYPE)
        release = record(predicate.get("release"), "release")
        validity = record(predicate.get("validity"), "validity")
        elements = sequence(predicate.get("measurements"), "measurements", most=MAX_MEASUREMENTS)
        not_before, not_after = (instant(validity.get(key), key) for key in ("notBefore", "notAfter"))
        if not_before >= not_after:
            raise malformed("a release must be valid for some time")
        known = {"release", "validity", "measurements", "materials", "critical"}
        for name in sequence(predicate.get("critical", []), "critical", most=64):
            if not isinstance(name, str) or name not in known:
                raise malformed("a critical member is not understood", found=str(name)[:64])
        previous = release.get("previous", "")
        return cls(
            name=text(release.get("id"), "release id"),
            channel=text(release.get("channel"), "channel"),
            version=text(release.get("version"), "version"),
            sequence=count(release.get("sequence"), "sequence"),
            not_before=not_before,
            not_after=not_after,
            subjects=statement.subjects,
            measurements=tuple(_measurement(element) for element in elements),
            previous=previous if previous == "" else hex_text(previous, 64, "previous"),
            materials=record(predicate.get("materials", {}), "materials"),
        )

    def statement(self) -> Statement:
        """The statement that says this. Raises TransparencyError where it would not parse again."""
        identity: dict[str, Any] = {
            "id": self.name,
            "channel": self.channel,
            "version": self.version,
            "sequence": self.sequence,
        }
        if self.previous:
            identity["previous"] = self.previous
        statement = Statement.build(
            self.subjects,
            RELEASE_TYPE,
            {
                "release": identity,
                "validity": {
                    "notBefore": instant_text(self.not_before),
                    "notAfter": instant_text(self.not_after),
                },
                "measurements": [dict(element) for element in self.measurements],
                "materials": dict(self.materials),
                "critical": [],
            },
        )
        Release.parse(statement)
        return statement


@dataclass(frozen=True, slots=True)
class Revocation:
    """A release (leaf hash, hex) that must not be used any more, and why."""

    release: str
    reason: str


@dataclass(frozen=True, slots=True)
class Status:
    """``cvm-status``: the releases of a channel (leaf hashes, hex) that are active in [issued_at,
    expires_at).
    """

    channel: str
    sequence: int
    issued_at: datetime
    expires_at: datetime
    min_release_sequence: int
    active: tuple[str, ...]
    revoked: tuple[Revocation, ...] = ()

    @classmethod
    def parse(cls, statement: Statement) -> "Status":
        """Read a statement's predicate. Raises TransparencyError (PREDICATE_TYPE, STATEMENT_MALFORMED)."""
        predicate = closed(
            predicate_of(statement, STATUS_TYPE),
            {
                "channel",
                "sequence",
                "issuedAt",
                "expiresAt",
                "minReleaseSequence",
                "active",
                "revoked",
            },
        )
        issued_at, expires_at = (instant(predicate.get(key), key) for key in ("issuedAt", "expiresAt"))
        if issued_at >= expires_at:
            raise malformed("a status must be valid for some time")
        active = sequence(predicate.get("active"), "active", most=MAX_LISTED)
        revoked = []
        for entry in sequence(predicate.get("revoked"), "revoked", most=MAX_LISTED):
            item = closed(record(entry, "revoked"), {"release", "reason"})
            revoked.append(
                Revocation(hex_text(item.get("release"), 64, "release"), text(item.get("reason"), "reason"))
            )
        listed = tuple(hex_text(entry, 64, "active") for entry in active)
        if len(set(listed)) != len(listed):
            raise malformed("a release is listed twice")
        return cls(
            channel=text(predicate.get("channel"), "channel"),
            sequence=count(predicate.get("sequence"), "sequence"),
            issued_at=issued_at,
            expires_at=expires_at,
            min_release_sequence=count(predicate.get("minReleaseSequence"), "minReleaseSequence"),
            active=listed,
            revoked=tuple(revoked),
        )

    def statement(self) -> Statement:
        """The statement that says this. Raises TransparencyError where it would not parse again."""
        predicate = {
            "channel": self.channel,
            "sequence": self.sequence,
            "issuedAt": instant_text(self.issued_at),
            "expiresAt": instant_text(self.expires_at),
            "minReleaseSequence": self.min_release_sequence,
            "active": list(self.active),
            "revoked": [{"release": entry.release, "reason": entry.reason} for entry in self.revoked],
        }
        subject = Subject("status", hashlib.sha256(canonical(predicate)).hexdigest())
        statement = Statement.build((subject,), STATUS_TYPE, predicate)
        Status.parse(statement)
        return statement


def registers_of(element: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of all registers of a release's element that must match; none for a TEE that is not known."""
    required = CPU_REGISTERS.get(element["tee"], ())
    if not set(_UKI) <= set(required):
        return required
    return (*required, *sorted(name for name in element if _is_pcr(name) and name not in required))


def sign_leaf(statement: Statement, signers: Sequence[SigningKey]) -> bytes:
    """The log entry for a statement: its DSSE envelope. Raises TransparencyError."""
    return Envelope.sign(statement.raw, PAYLOAD_TYPE, signers).encode()


def open_leaf(leaf: bytes, signers: Sequence[VerifierKey], threshold: int) -> Statement:
    """The statement of a log entry, its signatures verified. Raises TransparencyError."""
    envelope = Envelope.parse(leaf)
    if envelope.payload_type != PAYLOAD_TYPE:
        raise malformed("not an in-toto payload")
    envelope.verify(signers, threshold)
    return Statement.parse(envelope.payload)


def _is_pcr(name: str) -> bool:
    return _PCR.fullmatch(name) is not None


def _measurement(value: object) -> Mapping[str, Any]:
    element = record(value, "measurement")
    tee = text(element.get("tee"), "tee", most=64)
    for register in registers_of(element):
        # A TPM has banks of either length, and one element's values are of one bank.
        long = not _is_pcr(register) or len(str(element.get("pcr4"))) == 96
        hex_text(element.get(register), 96 if long else 64, register)
    if tee == GPU:
        for member in ("arch", "ccMode"):
            text(element.get(member), member, most=64)
        for member in ("driver", "vbios"):
            for entry in sequence(element.get(member), member, most=64):
                text(entry, member, most=128)
    for component, floor in record(element.get("minTcb", {}), "minTcb").items():
        count(floor, component)
    return element
