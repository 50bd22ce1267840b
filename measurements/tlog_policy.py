"""Trust policies for logs and witnesses (c2sp.org/tlog-policy), and their application to a checkpoint.

Whose quorum is met is decided over *keys*: a witness counts once, however often it signed.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from .checkpoint import SignedCheckpoint, open_checkpoint
from .cosignature import COSIGNATURE_KINDS, Cosignature, verify_cosignatures
from .errors import Code, TransparencyError
from .note import ED25519, VerifierKey

MAX_POLICY: Final = 128 * 1024
MAX_NAMED: Final = 256
MAX_SAID: Final = 4
"""Witnesses that an error names."""
NONE: Final = "none"
_STAGE: Final = "tlog-policy"


@dataclass(frozen=True, slots=True)
class Group:
    """At least ``threshold`` of ``members`` (names of witnesses or earlier groups)."""

    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TlogPolicy:
    """Known logs, witnesses by name, groups, and the name that must have witnessed (``none``: nobody
    must).
    """

    logs: tuple[VerifierKey, ...]
    witnesses: Mapping[str, VerifierKey]
    groups: Mapping[str, Group]
    quorum: str

    @classmethod
    def parse(cls, data: bytes) -> "TlogPolicy":
        """Read a policy file. Raises TransparencyError (TRUST_ROOT_INVALID)."""
        if len(data) > MAX_POLICY:
            raise _invalid("policy too large")
        if re.search(rb"[^\x09\x0a\x20-\x7e\x80-\xff]", data):
            raise _invalid("control character")
        builder = _Builder()
        # Names are opaque octets: latin-1 keeps them apart byte by byte, and key names come back as UTF-8
        # below.
        for number, line in enumerate(data.decode("latin-1").split("\n"), 1):
            words = [word for word in re.split("[ \t]+", line) if word]
            if words and not words[0].startswith("#"):
                builder.line(words, number)
        return builder.finish()

    @classmethod
    def threshold(cls, log: VerifierKey, witnesses: Iterable[VerifierKey], k: int) -> "TlogPolicy":
        """One log, and any ``k`` of the witnesses (``k`` = 0: none asked). Raises TransparencyError."""
        builder = _Builder()
        builder.add_log(log)
        names = []
        for number, key in enumerate(witnesses):
            names.append(f"w{number}")
            builder.add_witness(names[-1], key)
        if k == 0:
            builder.set_quorum(NONE)
        else:
            builder.add_group("quorum-group", k, tuple(names))
            builder.set_quorum("quorum-group")
        return builder.finish()

    def met_by(self, keys: Iterable[VerifierKey]) -> bool:
        """Whether cosignatures by ``keys`` satisfy the quorum."""
        present = set(keys)
        if self.quorum == NONE:
            return True
        # Groups refer only to earlier names, so one pass in order settles all of them.
        state = {name: key in present for name, key in self.witnesses.items()}
        for name, group in self.groups.items():
            state[name] = sum(state[member] for member in group.members) >= group.threshold
        return state[self.quorum]

    def open(self, data: bytes) -> SignedCheckpoint:
        """Parse a checkpoint and verify its log signature. Raises TransparencyError."""
        return open_checkpoint(data, self.logs)

    def check_witnesses(
        self,
        signed: SignedCheckpoint,
        *,
        at: datetime,
        max_age_s: int | None,
        max_future_s: int,
        min_age_s: int = 0,
    ) -> tuple[Cosignature, ...]:
        """The cosignatures that count at the time ``at``; their keys meet the quorum.

        Times older than ``max_age_s`` (None: any age) or more than ``max_future_s`` ahead do not count. With
        ``min_age_s`` the quorum must also have cosigned that long ago. Raises TransparencyError: WITNESS_QUORUM,
        WITNESS_STALE where only the times are in the way, TIME_INVALID where they are too young.
        """
        found = self.cosignatures(signed)
        return self.count(found, at=at, max_age_s=max_age_s, max_future_s=max_future_s, min_age_s=min_age_s)

    def cosignatures(self, signed: SignedCheckpoint) -> tuple[Cosignature, ...]:
        """The valid cosignatures of this policy's witnesses, whatever their times. Raises TransparencyError."""
        return verify_cosignatures(signed.note, signed.checkpoint, self.witnesses.values())

    def count(
        self,
        found: tuple[Cosignature, ...],
        *,
        at: datetime,
        max_age_s: int | None,
        max_future_s: int,
        min_age_s: int = 0,
    ) -> tuple[Cosignature, ...]:
        """``check_witnesses`` for cosignatures that are verified already."""
        now = at.timestamp()
        counted = tuple(
            cosignature
            for cosignature in found
            # Time 0 says that nothing is said about when: no witness of the newest tree.
            if 0 < cosignature.time <= now + max_future_s
            and (max_age_s is None or cosignature.time >= now - max_age_s)
        )
        if self.met_by(cosignature.key for cosignature in counted):
            old = (one.key for one in counted if not min_age_s or one.time <= now - min_age_s)
            if not self.met_by(old):
                raise TransparencyError(
                    Code.TIME_INVALID,
                    "listed too short a time ago",
                    stage=_STAGE,
                    expected=f"≥ {min_age_s} s",
                    found=f"{int(now) - min(one.time for one in counted)} s",
                )
            return counted
        if self.met_by(cosignature.key for cosignature in found):
            window = "" if max_age_s is None else f"≤ {max_age_s} s old, "
            raise TransparencyError(
                Code.WITNESS_STALE,
                "cosignatures are outside the window, or this clock is wrong",
                stage=_STAGE,
                expected=f"{window}≤ {max_future_s} s ahead",
                found=", ".join(_age(cosignature, now) for cosignature in found[:MAX_SAID]),
            )
        raise TransparencyError(
            Code.WITNESS_QUORUM,
            "too few witnesses cosigned",
            stage=_STAGE,
            expected=self._asked(),
            found=len({cosignature.key for cosignature in counted}),
        )

    def _asked(self) -> str:
        group = self.groups.get(self.quorum)
        return (
            self.quorum
            if group is None
            else f"{group.threshold} of {', '.join(self._named(group)[:MAX_SAID])}"
        )

    def _named(self, group: Group) -> list[str]:
        return [self.witnesses[one].name if one in self.witnesses else one for one in group.members]


class _Builder:
    """Collects definitions in file order and refuses what the format refuses."""

    def __init__(self) -> None:
        self.logs: list[VerifierKey] = []
        self.witnesses: dict[str, VerifierKey] = {}
        self.groups: dict[str, Group] = {}
        self.members: set[str] = set()
        self.quorum: str | None = None

    def line(self, words: list[str], number: int) -> None:
        match words:
            case ["log", vkey] | ["log", vkey, _]:
                self.add_log(_key(vkey, number))
            case ["witness", name, vkey] | ["witness", name, vkey, _]:
                self.add_witness(name, _key(vkey, number))
            case ["group", name, rule, first, *rest]:
                members = (first, *rest)
                self.add_group(name, _threshold(rule, len(members), number), members)
            case ["quorum", name]:
                self.set_quorum(name)
            case _:
                raise _invalid(f"line {number} is not understood")

    def add_log(self, key: VerifierKey) -> None:
        if key.algorithm != ED25519:
            raise _invalid("a log has a plain Ed25519 key (kind 0x01)")
        if any(key.public_key == other.public_key for other in self.logs):
            raise _invalid("the same log key twice")
        self.logs.append(key)

    def add_witness(self, name: str, key: VerifierKey) -> None:
        self._claim(name)
        if key.algorithm not in COSIGNATURE_KINDS:
            raise _invalid("a witness has a cosigner key (kind 0x04 or 0x06)")
        if any(key.public_key == other.public_key for other in self.witnesses.values()):
            raise _invalid("the same witness key twice")
        self.witnesses[name] = key

    def add_group(self, name: str, threshold: int, members: tuple[str, ...]) -> None:
        self._claim(name)
        if not 1 <= threshold <= len(members):
            raise _invalid("a threshold is at least 1 and at most the number of members")
        for member in members:
            if member not in self.witnesses and member not in self.groups:
                raise _invalid("a group may name only what stands above it")
            if member in self.members:
                raise _invalid("a name is a member at most once")
            self.members.add(member)
        self.groups[name] = Group(threshold, members)

    def set_quorum(self, name: str) -> None:
        if self.quorum is not None:
            raise _invalid("exactly one quorum")
        if name != NONE and name not in self.witnesses and name not in self.groups:
            raise _invalid("the quorum may name only what stands above it")
        self.quorum = name

    def finish(self) -> TlogPolicy:
        if self.quorum is None:
            raise _invalid("exactly one quorum")
        return TlogPolicy(tuple(self.logs), self.witnesses, self.groups, self.quorum)

    def _claim(self, name: str) -> None:
        if not name or name == NONE or name in self.witnesses or name in self.groups:
            raise _invalid("a name is defined once, and is not 'none'")
        if len(self.witnesses) + len(self.groups) >= MAX_NAMED:
            raise _invalid("too many names")


def _age(cosignature: Cosignature, now: float) -> str:
    seconds = int(now) - cosignature.time
    return f"{cosignature.key.name} {abs(seconds)} s {'old' if seconds >= 0 else 'ahead'}"


def _key(vkey: str, number: int) -> VerifierKey:
    try:
        return VerifierKey.parse(vkey.encode("latin-1").decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _invalid(f"line {number}: a key name is not UTF-8") from error


def _threshold(rule: str, members: int, number: int) -> int:
    if rule == "any":
        return 1
    if rule == "all":
        return members
    if not re.fullmatch("[1-9][0-9]{0,3}", rule):
        raise _invalid(f"line {number}: threshold")
    return int(rule)


def _invalid(why: str) -> TransparencyError:
    return TransparencyError(Code.TRUST_ROOT_INVALID, f"log policy: {why}", stage=_STAGE)
