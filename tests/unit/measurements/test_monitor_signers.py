"""A monitor whose policy trusts roots: who may sign is what the newest set in the log says."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from measurements.alerts import Alert, AlertCode
from measurements.channel_watch import Channel, ChannelWatch
from measurements.merkle import leaf_hash
from measurements.policy import TransparencyPolicy
from measurements.release import Release, Revocation, Status, sign_leaf
from measurements.revocation import RevocationNotice
from measurements.signer_history import SignerHistory
from measurements.signer_set import SignerSet
from measurements.signing_key import SigningKey
from measurements.statement import Subject
from measurements.tlog_policy import TlogPolicy

AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
LOG = SigningKey.generate("log.example/sets")
ROOTS = [SigningKey.generate(f"root{n}.example") for n in range(2)]
KEYS = [SigningKey.generate(f"signer{n}.example") for n in range(3)]


class Watched:
    """Entries go in one by one; what the watch says comes out."""

    def __init__(self) -> None:
        trust = TlogPolicy.threshold(LOG.public, (), 0)
        policy = TransparencyPolicy(trust, (), 0, "prod")
        self.policy = replace(policy, roots=tuple(key.public for key in ROOTS), root_threshold=2)
        self.said: list[Alert] = []
        self.watch = ChannelWatch(self.policy, {}, self.said.append, SignerHistory((), 1))
        self.index = 0

    def codes(self, *leaves: bytes) -> list[str]:
        self.said.clear()
        for leaf in leaves:
            # Through the state file and back, as between two looks.
            channels = {name: Channel.from_json(one.to_json()) for name, one in self.watch.channels.items()}
            self.watch = ChannelWatch(self.policy, channels, self.said.append, self.watch.signers)
            self.watch.entry(self.index, leaf)
            self.index += 1
        return [alert.code for alert in self.said]


def signer_set(
    sequence: int, keys: Sequence[SigningKey], *, roots: Sequence[SigningKey] = ROOTS, **changes: Any
) -> bytes:
    found = SignerSet("prod", sequence, 1, tuple(key.public for key in keys), AT, AT + timedelta(days=30), "")
    return sign_leaf(replace(found, **changes).statement(), list(roots))


def release(sequence: int, signer: SigningKey, previous: bytes = b"") -> bytes:
    made = Release(
        name="acme/node",
        channel="prod",
        version=f"1.{sequence}",
        sequence=sequence,
        not_before=AT,
        not_after=AT + timedelta(days=30),
        subjects=(Subject("image", "00" * 32),),
        measurements=({"tee": "sev-snp", "launchDigest": f"{sequence:096x}"},),
        previous=leaf_hash(previous).hex() if previous else "",
    )
    return sign_leaf(made.statement(), [signer])


def status(sequence: int, active: Sequence[bytes], signer: SigningKey, **changes: Any) -> bytes:
    made = Status(
        "prod", sequence, AT, AT + timedelta(hours=48), 1, tuple(leaf_hash(leaf).hex() for leaf in active)
    )
    return sign_leaf(replace(made, **changes).statement(), [signer])


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_the_newest_set_says_who_signs(watched: Watched) -> None:
    first_set = signer_set(1, KEYS[:1])
    first = release(1, KEYS[0])
    assert watched.codes(first_set, first, status(1, [first], KEYS[0])) == []
    second_set = signer_set(2, KEYS[1:2], previous=leaf_hash(first_set).hex())
    second = release(2, KEYS[1], first)
    assert watched.codes(second_set, second, status(2, [first, second], KEYS[1])) == []
    assert watched.codes(release(3, KEYS[0], second)) == [AlertCode.UNKNOWN_SIGNER]
    assert watched.codes(release(3, KEYS[1], second)) == []


def test_nothing_counts_before_a_set(watched: Watched) -> None:
    assert watched.codes(release(1, KEYS[0])) == [AlertCode.UNKNOWN_SIGNER]
    assert watched.codes(signer_set(1, KEYS[:1]), release(1, KEYS[0])) == []


@pytest.mark.parametrize(
    ("following", "code"),
    [
        (lambda one: signer_set(2, KEYS[1:], roots=ROOTS[:1], previous=one), AlertCode.UNKNOWN_SIGNER),
        (lambda one: signer_set(2, KEYS[1:], roots=KEYS[:2], previous=one), AlertCode.UNKNOWN_SIGNER),
        (lambda one: signer_set(3, KEYS[1:], previous=one), AlertCode.SEQUENCE_GAP),
        (lambda one: signer_set(1, KEYS[1:]), AlertCode.SEQUENCE_CONFLICT),
        (lambda one: signer_set(0, KEYS[1:]), AlertCode.SEQUENCE_CONFLICT),
        (lambda one: signer_set(2, KEYS[1:], previous="00" * 32), AlertCode.PREDECESSOR_WRONG),
        (lambda one: signer_set(2, KEYS[1:]), AlertCode.PREDECESSOR_WRONG),
    ],
)  # fmt: skip
def test_a_set_that_does_not_follow(watched: Watched, following: Any, code: AlertCode) -> None:
    first = signer_set(1, KEYS[:1])
    assert watched.codes(first, first) == []
    assert watched.codes(following(leaf_hash(first).hex())) == [code]


def test_who_trusts_no_roots_takes_no_signers_from_them() -> None:
    policy = TransparencyPolicy(TlogPolicy.threshold(LOG.public, (), 0), (KEYS[0].public,), 1, "prod")
    said: list[Alert] = []
    watch = ChannelWatch(policy, {}, said.append, SignerHistory(policy.signers, 1))
    watch.entry(0, signer_set(1, KEYS[1:2]))
    watch.entry(1, release(1, KEYS[1]))
    assert [alert.code for alert in said] == [AlertCode.UNKNOWN_SIGNER]


def test_what_a_revocation_names_may_not_come_back(watched: Watched) -> None:
    first = release(1, KEYS[0])
    second = release(2, KEYS[0], first)
    identity = leaf_hash(first).hex()
    notice = sign_leaf(RevocationNotice("prod", identity, "leaks", AT, 2).statement(), [KEYS[0]])
    without = status(2, [second], KEYS[0], revoked=(Revocation(identity, "leaks"),))
    before = (signer_set(1, KEYS[:1]), first, second, status(1, [first, second], KEYS[0]))
    assert watched.codes(*before, notice, without) == []
    # A later status need not name it any more; it still may not list it.
    assert watched.codes(status(3, [second], KEYS[0])) == []
    assert watched.codes(status(4, [first, second], KEYS[0])) == [AlertCode.REVOKED_YET_ACTIVE]
    stranger = sign_leaf(RevocationNotice("prod", identity, "x", AT, 2).statement(), [KEYS[2]])
    assert watched.codes(stranger) == [AlertCode.UNKNOWN_SIGNER]
