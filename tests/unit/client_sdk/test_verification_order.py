"""In which order a bundle is judged: what is said first where several things are wrong."""

from datetime import UTC, datetime, timedelta, tzinfo

import pytest
from release_world import World

from attestation.bundle import CpuSection, EvidenceBundle, TransparencySection
from client_sdk.policy import Policy
from client_sdk.verify import verify_bundle
from measurements.policy import policy_table
from measurements.rollback import VolatileMemory
from measurements.signing_key import SigningKey

AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
RUBBISH = EvidenceBundle(
    claims=b'{"v":1}',
    cpu=CpuSection("sev-snp", b"no report", {}),
    gpus=b"",
    gpu_collateral={},
    ohttp_keys=b"",
    runtime=b"{}",
    transparency=TransparencySection(b"proof", b"leaf", b"proof", b"leaf"),
    checkpoint=b"log\n1\n",
).encode()


class SummerTimeEnds(tzinfo):
    """Two hours ahead until 14:03 by its own clock, then one."""

    def utcoffset(self, at: datetime | None) -> timedelta:
        over = at is not None and at.replace(tzinfo=None) >= datetime(2026, 6, 1, 14, 3)
        return timedelta(hours=1 if over else 2)

    def dst(self, at: datetime | None) -> timedelta:
        return self.utcoffset(at) - timedelta(hours=1)


LOCAL = datetime(2026, 6, 1, 14, tzinfo=SummerTimeEnds())


def policy(not_after: str) -> Policy:
    log, signer = SigningKey.generate("log.example"), SigningKey.generate("signer.example")
    table = policy_table(log=log.public, witnesses=[], signers=[signer.public], channel="prod")
    return Policy.parse(f'version = 1\nname = "test"\n{table}not_after = {not_after}\n'.encode())


def test_the_age_of_the_trust_comes_before_the_evidence() -> None:
    """A policy whose trust has ended says nothing about a node, and its owner must hear that, not the node's faults."""
    judged = verify_bundle(RUBBISH, policy("2026-06-01T12:00:00Z"), at=AT, memory=VolatileMemory())
    assert judged.node is None
    assert judged.error is not None
    assert (judged.error.code, judged.error.stage) == ("TRUST_ROOT_VALIDITY", "policy")
    outcomes = {row.id: (row.outcome, row.code) for row in judged.rows}
    assert outcomes["policy"] == ("fail", "TRUST_ROOT_VALIDITY")
    assert outcomes["log.signature"] == ("fail", "TRUST_ROOT_VALIDITY")
    # One second before, the policy stands, and the evidence is what is wrong.
    before = verify_bundle(
        RUBBISH, policy("2026-06-01T12:00:00Z"), at=AT - timedelta(seconds=1), memory=VolatileMemory()
    )
    assert before.error is not None
    assert before.error.stage != "policy"
    assert {row.id: row.outcome for row in before.rows}["policy"] == "pass"


def test_a_time_in_another_zone_is_the_same_time() -> None:
    """Adding five minutes to a clock that is put back must not make an hour of them."""
    assert LOCAL == AT
    assert LOCAL + timedelta(minutes=5) != AT + timedelta(minutes=5)  # what would come of it
    world = World()
    release = world.release()
    ahead = {"issued_at": AT + timedelta(minutes=30), "expires_at": AT + timedelta(hours=47)}
    for status, good in ((world.status([release]), True), (world.status([release], **ahead), False)):
        staple = world.staple(release, status)
        for at in (AT, LOCAL):
            judged = world.check(staple, at=at)
            assert (judged.error is None) is good
            assert good or judged.error.code == "STATUS_STALE"  # type: ignore[union-attr]
    assert verify_bundle(
        RUBBISH, policy("2026-06-02T12:00:00Z"), at=LOCAL, memory=VolatileMemory()
    ).to_json()["at"] == ("2026-06-01T12:00:00Z")


def test_a_time_without_a_zone_is_no_time() -> None:
    for at in (datetime(2026, 6, 1, 12), datetime(2026, 6, 1, 12, fold=1)):
        with pytest.raises(ValueError, match="zone"):
            verify_bundle(RUBBISH, policy("2026-06-02T12:00:00Z"), at=at, memory=VolatileMemory())
