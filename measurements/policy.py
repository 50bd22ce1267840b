"""The ``[transparency]`` table of a client's policy: which log, witnesses and release signers are trusted.

    [transparency]
    log = "log.example.org/releases+…"       # vkey of the log
    witnesses = ["witness.example.net+…"]    # cosigner vkeys
    quorum = 1                               # how many of them must have cosigned
    signers = ["releases.example.org+…"]     # vkeys of release signers
    threshold = 1                            # how many of them must have signed
    channel = "prod"

Instead of signers and threshold, ``roots`` and ``root_threshold`` may name offline keys: then the signers are those
of the newest ``signer-set`` in the log that the roots signed. ``tlog_policy`` (the text of a
c2sp.org/tlog-policy file with one log) may stand for log, witnesses and quorum.

``profile`` says what else a release must show:

- ``tlog`` (the default): nothing.
- ``tlog+sigstore``: a Sigstore bundle over the same statement too, by the table ``[transparency.sigstore]``.
- ``sigstore-only``: that bundle alone. Log, witnesses and signers are not named then, and every result says
  that the release is not listed: nobody can watch what such a builder signs, and nothing can be revoked.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from .errors import Code, TransparencyError
from .note import ED25519, VerifierKey
from .sigstore.policy import SigstorePolicy
from .statement import instant
from .tlog_policy import NONE, TlogPolicy

TLOG: Final = "tlog"
TLOG_AND_SIGSTORE: Final = "tlog+sigstore"
SIGSTORE_ONLY: Final = "sigstore-only"
PROFILES: Final = (TLOG, TLOG_AND_SIGSTORE, SIGSTORE_ONLY)
MAX_STATUS_LIFETIME: Final = timedelta(days=7)
MAX_RELEASE_VALIDITY: Final = timedelta(days=90)
_OF_THE_LOG: Final = frozenset(
    {
        "log",
        "witnesses",
        "quorum",
        "tlog_policy",
        "signers",
        "threshold",
        "roots",
        "root_threshold",
        "max_active",
        "max_checkpoint_age_s",
        "soak_s",
    }
)
_STAGE: Final = "policy"


@dataclass(frozen=True, slots=True)
class TransparencyPolicy:
    """What a release must show. Times in seconds; ``not_after`` ends the trust in this policy itself.

    ``soak_s``: for how long a release must have been listed, by the cosignatures of its own proof; in that time
    others can look at it before anybody uses it. Either ``signers`` are named, or ``roots``, which say in the log who
    the signers are.
    """

    trust: TlogPolicy
    signers: tuple[VerifierKey, ...]
    threshold: int
    channel: str
    profile: str = TLOG
    sigstore: SigstorePolicy | None = None
    max_active: int = 8
    max_checkpoint_age_s: int = 86_400
    max_future_s: int = 300
    soak_s: int = 0
    roots: tuple[VerifierKey, ...] = ()
    root_threshold: int = 0
    not_after: datetime | None = None

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> "TransparencyPolicy":
        """Read the table; every unknown, missing or unusable key is an error.

        Raises TransparencyError (TRUST_ROOT_INVALID).
        """
        known = {field.name for field in fields(cls)} - {"trust"} | {
            "log",
            "witnesses",
            "quorum",
            "tlog_policy",
        }
        unknown = sorted(set(table) - known)
        if unknown:
            raise _invalid(f"unknown key {unknown[0]!r}")
        profile = _string(table, "profile", TLOG)
        if profile not in PROFILES:
            raise _invalid(f"profile is one of {', '.join(PROFILES)}")
        listed = profile != SIGSTORE_ONLY
        if not listed and _OF_THE_LOG & set(table):
            raise _invalid(f"profile {profile} has no use for {sorted(_OF_THE_LOG & set(table))[0]!r}")
        if profile == TLOG and "sigstore" in table:
            raise _invalid("profile tlog has no use for a table [transparency.sigstore]")
        rooted = "roots" in table
        if ({"signers", "threshold"} if rooted else {"root_threshold"}) & set(table):
            raise _invalid("either signers and threshold, or roots and root_threshold")
        policy = cls(
            trust=_trust(table) if listed else TlogPolicy((), {}, {}, NONE),
            signers=_keys(table, "signers") if listed and not rooted else (),
            threshold=0 if rooted else _integer(table, "threshold", 1, least=1),
            channel=_string(table, "channel"),
            profile=profile,
            sigstore=None if profile == TLOG else SigstorePolicy.from_table(table.get("sigstore")),
            max_active=_integer(table, "max_active", 8, least=1),
            max_checkpoint_age_s=_integer(table, "max_checkpoint_age_s", 86_400, least=1),
            max_future_s=_integer(table, "max_future_s", 300, least=0),
            soak_s=_integer(table, "soak_s", 0, least=0),
            roots=_keys(table, "roots") if rooted else (),
            root_threshold=_integer(table, "root_threshold", None, least=1) if rooted else 0,
            not_after=_time(table, "not_after"),
        )
        policy._check()
        return policy

    @property
    def log(self) -> VerifierKey:
        """The trusted log's key; its name is the log's origin. There is none in profile sigstore-only."""
        return self.trust.logs[0]

    def _check(self) -> None:
        if self.profile == SIGSTORE_ONLY:
            return
        if len(self.trust.logs) != 1:
            raise _invalid("exactly one log")
        signers, threshold = (
            (self.roots, self.root_threshold) if self.roots else (self.signers, self.threshold)
        )
        if any(key.algorithm != ED25519 for key in signers):
            raise _invalid("a release signer, or a root, has a plain Ed25519 key (kind 0x01)")
        materials = [key.public_key for key in (self.log, *self.trust.witnesses.values(), *signers)]
        if len(set(materials)) != len(materials):
            raise _invalid("log, witnesses, signers and roots need keys of their own")
        if self.soak_s and self.trust.quorum == NONE:
            raise _invalid("soak_s is told by cosignatures: it needs a quorum of witnesses")
        if not 1 <= threshold <= len(signers):
            raise _invalid("a threshold is at least 1 and at most the number of its keys")


def policy_table(
    *,
    log: VerifierKey,
    witnesses: Sequence[VerifierKey],
    signers: Sequence[VerifierKey],
    channel: str,
    quorum: int | None = None,
    threshold: int = 1,
) -> str:
    """TOML text of a ``[transparency]`` table that ``from_table`` reads; ``quorum`` defaults to all
    witnesses.

    Raises TransparencyError where the table would be refused.
    """
    table: dict[str, Any] = {
        "log": str(log),
        "witnesses": [str(key) for key in witnesses],
        "quorum": len(witnesses) if quorum is None else quorum,
        "signers": [str(key) for key in signers],
        "threshold": threshold,
        "channel": channel,
    }
    TransparencyPolicy.from_table(table)
    # JSON strings, integers and arrays of strings are TOML as well (key names hold no control characters).
    lines = (f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in table.items())
    return "[transparency]\n" + "\n".join(lines) + "\n"


def _trust(table: Mapping[str, Any]) -> TlogPolicy:
    if "tlog_policy" in table:
        if {"log", "witnesses", "quorum"} & set(table):
            raise _invalid("tlog_policy stands alone: no log, witnesses or quorum beside it")
        return TlogPolicy.parse(_string(table, "tlog_policy").encode())
    witnesses = [VerifierKey.parse(key) for key in _strings(table, "witnesses")]
    # No default: that nobody has to witness must be said, not forgotten.
    quorum = _integer(table, "quorum", None, least=0)
    return TlogPolicy.threshold(VerifierKey.parse(_string(table, "log")), witnesses, quorum)


def _string(table: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = table.get(key, default)
    if not isinstance(value, str) or not value:
        raise _invalid(f"{key} must be a string")
    return value


def _strings(table: Mapping[str, Any], key: str) -> list[str]:
    value = table.get(key)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _invalid(f"{key} must be an array of strings")
    return value


def _keys(table: Mapping[str, Any], key: str) -> tuple[VerifierKey, ...]:
    return tuple(VerifierKey.parse(vkey) for vkey in _strings(table, key))


def _integer(table: Mapping[str, Any], key: str, default: int | None, *, least: int) -> int:
    value = table.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise _invalid(f"{key} must be an integer of at least {least}")
    return value


def _time(table: Mapping[str, Any], key: str) -> datetime | None:
    value = table.get(key)
    if value is None:
        return None
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC)
    try:
        return instant(value, key)
    except TransparencyError as error:
        raise _invalid(error.detail) from error


def _invalid(why: str) -> TransparencyError:
    return TransparencyError(Code.TRUST_ROOT_INVALID, f"[transparency]: {why}", stage=_STAGE)
