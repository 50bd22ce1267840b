"""Revocations, key listings and sets of signers: what they say, what they refuse, and how signers change."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.errors import Code, TransparencyError
from measurements.key_listing import KeyListing
from measurements.node_list import ListedNode, NodeList
from measurements.note import COSIGNATURE_ED25519
from measurements.policy import TransparencyPolicy
from measurements.publish import Published, ReleaseDraft, ReleaseLog, create_log
from measurements.release import Release, Revocation, Status
from measurements.results import Appraisal
from measurements.revocation import RevocationNotice
from measurements.rollback import FileMemory, RollbackMemory, Sighting, VolatileMemory
from measurements.signer_set import SignerSet
from measurements.signing_key import SigningKey
from measurements.staple import Staple, check_staple
from measurements.statement import Statement, Subject, canonical, parse_canonical
from measurements.statement_kinds import KINDS, kind_name, parse_kind
from measurements.verified_release import VerifiedRelease

AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
KEYS = [SigningKey.generate(f"signer{n}.example") for n in range(4)]
PUBLIC = tuple(key.public for key in KEYS)
SET = SignerSet("prod", 1, 2, PUBLIC[:3], AT - DAY, AT + 30 * DAY)
EXAMPLES = (
    Release(
        name="acme/node",
        channel="prod",
        version="1.2",
        sequence=1,
        not_before=AT,
        not_after=AT + 90 * DAY,
        subjects=(Subject("image", "cd" * 32),),
        measurements=({"tee": "sev-snp", "launchDigest": "ab" * 48},),
    ),
    Status("prod", 3, AT, AT + 2 * DAY, 1, ("aa" * 32,), (Revocation("bb" * 32, "a hole"),)),
    RevocationNotice("prod", "bb" * 32, "a hole in the parser", AT, 3),
    KeyListing("prod", "tokens.example", 1, AT, AT + DAY, b"\0\x29 key configs"),
    SET,
    NodeList("prod", 2, AT, AT + DAY, (ListedNode("a", b"\1" * 32), ListedNode("b", b"\2" * 32)), "aa" * 32),
)


def refused(work: Callable[[], object]) -> Code:
    with pytest.raises(TransparencyError) as caught:
        work()
    return caught.value.code


@pytest.mark.parametrize("previous", [None, 0, False, [], {}, "AA" * 32, "aa" * 31])
def test_the_release_before_is_a_leaf_hash_or_nothing(previous: Any) -> None:
    predicate = dict(EXAMPLES[0].statement().predicate)
    predicate["release"] = {**predicate["release"], "previous": previous}
    statement = replace(EXAMPLES[0].statement(), predicate=predicate)
    assert refused(lambda: Release.parse(statement)) == Code.STATEMENT_MALFORMED
    predicate["release"]["previous"] = ""
    assert Release.parse(statement) == EXAMPLES[0]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_what_is_said_is_what_is_read(example: Any) -> None:
    statement = example.statement()
    assert parse_kind(Statement.parse(statement.raw)) == example
    assert kind_name(statement.predicate_type) in statement.predicate_type
    for other in KINDS.values():
        if not isinstance(example, other.__self__):  # type: ignore[attr-defined]
            assert refused(lambda other=other: other(statement)) == Code.PREDICATE_TYPE  # type: ignore[misc]


@pytest.mark.parametrize("example", EXAMPLES[1:], ids=lambda example: type(example).__name__)
def test_the_schemas_are_closed(example: Any) -> None:
    statement = example.statement()
    for name in statement.predicate:
        less = {key: value for key, value in statement.predicate.items() if key != name}
        built = Statement.build(statement.subjects, statement.predicate_type, less)
        assert refused(lambda built=built: parse_kind(built)) == Code.STATEMENT_MALFORMED  # type: ignore[misc]
    more = Statement.build(statement.subjects, statement.predicate_type, {**statement.predicate, "more": 1})
    assert refused(lambda: parse_kind(more)) == Code.STATEMENT_MALFORMED
    if not isinstance(example, Status):
        about = Statement.build((Subject("else", "00" * 32),), statement.predicate_type, statement.predicate)
        assert refused(lambda: parse_kind(about)) == Code.STATEMENT_MALFORMED


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_every_truncation_and_every_changed_byte(example: Any) -> None:
    good = example.statement().raw
    for at in range(len(good)):
        for data in (good[:at], *(good[:at] + bytes([v]) + good[at + 1 :] for v in (good[at] ^ 1, 0, 0xFF))):
            with suppress(TransparencyError):
                parse_kind(Statement.parse(data))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200)
@given(value=JSON, at=st.integers(0, 40), which=st.integers(0, len(EXAMPLES) - 1))
def test_any_value_in_any_place(value: Any, at: int, which: int) -> None:
    document = parse_canonical(EXAMPLES[which].statement().raw, limit=1 << 20)
    places = list(_places(document))
    holder, key = places[at % len(places)]
    holder[key] = value
    with suppress(TransparencyError):
        parse_kind(Statement.parse(canonical(document)))


@settings(max_examples=60)
@given(data=st.binary(max_size=300))
def test_random_bytes(data: bytes) -> None:
    with suppress(TransparencyError):
        parse_kind(Statement.parse(data))


def _places(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


@pytest.mark.parametrize(
    "changes",
    [
        {"threshold": 0},
        {"threshold": 4},
        {"signers": ()},
        {"signers": (PUBLIC[0], PUBLIC[0])},
        {"signers": (PUBLIC[0], replace(PUBLIC[0], name="another.name"))},
        {"signers": (SigningKey.generate("w", COSIGNATURE_ED25519).public,)},
        {"signers": PUBLIC[:1] * 17},
        {"not_after": AT - DAY},
        {"not_after": AT + 400 * DAY},
        {"previous": "x"},
    ],
)
def test_sets_that_would_count_wrongly(changes: dict[str, Any]) -> None:
    assert refused(lambda: replace(SET, **changes).statement()) == Code.STATEMENT_MALFORMED


class Operator:
    """A log whose signers are said by two of two roots."""

    def __init__(self, folder: Path) -> None:
        self.at = AT
        self.log: ReleaseLog = create_log(
            folder, origin="log.example/r", witness="witness.example", now=lambda: self.at
        )
        self.roots = [SigningKey.generate(f"root{n}.example") for n in range(2)]
        self.policy = TransparencyPolicy.from_table(
            {
                "log": str(self.log.tiles.key),
                "witnesses": [str(key) for key in self.log.tiles.witnesses],
                "quorum": 1,
                "roots": [str(root.public) for root in self.roots],
                "root_threshold": 2,
                "channel": "prod",
            }
        )

    def appoint(self, signer_set: SignerSet, roots: list[SigningKey] | None = None) -> int:
        return self.log.log_statement(signer_set.statement(), roots or self.roots)

    def publish(self, number: int, signers: list[SigningKey]) -> Published:
        draft = ReleaseDraft(
            "acme/node",
            f"1.{number}",
            "prod",
            (Subject("image", f"{number:064x}"),),
            ({"tee": "sev-snp", "launchDigest": f"{number:096x}"},),
        )
        return self.log.publish(draft, signers)

    def check(
        self, staple: Staple, memory: RollbackMemory | None = None, at: datetime | None = None
    ) -> Appraisal[VerifiedRelease]:
        members = {name: getattr(staple, name) for name in Staple.__dataclass_fields__}
        return check_staple(
            **members, policy=self.policy, at=at or self.at, memory=memory or VolatileMemory()
        )


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return Operator(tmp_path / "log")


def why(appraisal: Appraisal[VerifiedRelease]) -> tuple[str, str]:
    assert appraisal.error is not None
    assert appraisal.value is None
    row = next(row for row in appraisal.rows if row.outcome == "fail")
    return row.id, appraisal.error.code


def test_signers_are_changed_through_the_log(operator: Operator, tmp_path: Path) -> None:
    memory = FileMemory(tmp_path / "seen.json")
    operator.appoint(SET)
    first = operator.publish(1, KEYS[:2])
    staple = Staple.parse(first.staple.encode())
    assert staple == first.staple
    rows = operator.check(staple, memory)
    assert rows.require().name == "acme/node"
    assert "set 1: 2 of 3" in next(row.detail for row in rows.rows if row.id == "log.signers")
    # Any two of the three go on where others left off.
    second = operator.publish(2, KEYS[1:3])
    assert second.status.status.sequence == 2
    assert first.release.leaf_hash.hex() in second.status.status.active
    operator.check(second.staple, memory).require()

    after = replace(SET, sequence=2, signers=PUBLIC[2:4], previous=first.release.leaf_hash.hex())
    index = operator.appoint(after)
    assert operator.appoint(after) == index, "a statement is logged once"
    # What the old set signed is published anew under the new one, and the sequences go on.
    assert refused(lambda: operator.publish(2, KEYS[:2])) == Code.IDENTITY_MISMATCH
    third = operator.publish(2, KEYS[2:4])
    assert not third.renewed
    assert (third.release.release.sequence, third.status.status.sequence) == (3, 3)
    operator.check(third.staple, memory).require()
    # Who has seen the new set accepts nothing under the old one; who has not, until it ends.
    operator.check(second.staple).require()
    assert why(operator.check(second.staple, memory)) == ("log.rollback", Code.ROLLBACK)
    # Two sets of one sequence: whoever saw one of them has the proof.
    sighting = Sighting("log.example/r", "prod", 9, bytes(32), 9, 1, bytes(32), b"", 2, b"\1" * 32)
    seen = VolatileMemory()
    seen.advance(sighting)
    assert refused(lambda: seen.check(replace(sighting, size=2, signers=b"\2" * 32))) == Code.SPLIT_VIEW
    seen.advance(replace(sighting, size=3, status_sequence=10, signers_sequence=0, signers=b""))
    assert refused(lambda: seen.check(replace(sighting, size=4, status_sequence=11, signers_sequence=1))) == (
        Code.ROLLBACK
    )


def test_who_may_appoint(operator: Operator) -> None:
    operator.appoint(SET, operator.roots[:1])
    staple = operator.publish(1, KEYS[:2]).staple
    assert why(operator.check(staple)) == ("log.signers", Code.IDENTITY_MISMATCH)
    bare = replace(staple, signers_leaf=b"", signers_proof=b"")
    assert why(operator.check(bare)) == ("log.signature", Code.PROOF_MISSING)
    assert why(operator.check(replace(staple, signers_leaf=b""))) == ("log.signers", Code.PROOF_MISSING)


def test_a_signer_may_not_play_another_part(operator: Operator) -> None:
    """The log, or a root that left its safe, as one of the signers: k of n would be fewer parties than it says."""
    doubled = replace(SET, signers=(PUBLIC[0], PUBLIC[1], operator.roots[0].public))
    operator.appoint(doubled)
    staple = operator.publish(1, KEYS[:2]).staple
    assert why(operator.check(staple)) == ("log.signers", Code.IDENTITY_MISMATCH)


def test_a_set_counts_in_its_channel_and_its_time(operator: Operator) -> None:
    operator.appoint(replace(SET, not_after=AT + timedelta(hours=1)))
    staple = operator.publish(1, KEYS[:2]).staple
    operator.check(staple, at=AT + timedelta(minutes=59)).require()
    assert why(operator.check(staple, at=AT + timedelta(hours=1))) == (
        "log.signers",
        Code.TRUST_ROOT_VALIDITY,
    )
    with pytest.raises(TransparencyError) as caught:
        SET.judge("beta", AT, max_future_s=300)
    assert caught.value.code is Code.IDENTITY_MISMATCH


def test_one_signer_of_two_is_not_enough(operator: Operator) -> None:
    """A status by one key alone, put into an otherwise good staple."""
    operator.appoint(SET)
    assert refused(lambda: operator.publish(1, KEYS[:1])) == Code.IDENTITY_MISMATCH
    good = operator.publish(1, KEYS[:2]).staple
    alone = Status(
        "prod", 9, AT, AT + DAY, 1, (operator.log.listing("prod", None).releases[0].leaf_hash.hex(),)
    )
    index = operator.log.log_statement(alone.statement(), KEYS[:1])
    with operator.log.tiles.exclusive():
        signed = operator.log.tiles.checkpoint()
    leaf = list(operator.log.tiles.entries())[index]
    proof = operator.log.proof(index, leaf, signed)
    forged = replace(good, status_leaf=leaf, status_proof=proof, checkpoint=signed.raw)
    assert why(operator.check(forged)) == ("log.status", Code.IDENTITY_MISMATCH)


def test_a_revocation_is_published_beside_the_status(operator: Operator) -> None:
    operator.appoint(SET)
    bad = operator.publish(1, KEYS[:2])
    reason = "r" * 900
    operator.at += timedelta(hours=1)
    operator.log.revoke(bad.release.leaf_hash, "prod", reason, KEYS[1:3])
    listing = operator.log.listing("prod", PUBLIC[:3], 2)
    (notice,) = listing.revocations
    assert notice == RevocationNotice("prod", bad.release.leaf_hash.hex(), reason, operator.at, 2)
    assert listing.statuses[-1].status.revoked[0].reason == "r" * 200
    # Once the release has run out by itself, the status no longer carries it.
    operator.at += 91 * DAY
    operator.appoint(replace(SET, sequence=2, not_before=operator.at, not_after=operator.at + 30 * DAY))
    assert operator.publish(2, KEYS[:2]).status.status.revoked == ()


def test_a_hundred_revocations_fit_into_a_status(operator: Operator) -> None:
    revoked = tuple(Revocation(f"{n:064x}", "r" * 200) for n in range(100))
    assert len(Status("prod", 1, AT, AT + DAY, 1, (), revoked).statement().raw) < 48 * 1024


@pytest.mark.parametrize(
    "changes",
    [
        {"roots": None},
        {"root_threshold": None},
        {"root_threshold": 0},
        {"root_threshold": 3},
        {"signers": []},
        {"threshold": 1},
        {"roots": ["x"]},
        {"profile": "sigstore-only"},
    ],
)
def test_policies_with_roots(operator: Operator, changes: dict[str, Any]) -> None:
    table: dict[str, Any] = {
        "log": str(operator.log.tiles.key),
        "witnesses": [],
        "quorum": 0,
        "roots": [str(root.public) for root in operator.roots],
        "root_threshold": 2,
        "channel": "prod",
    }
    TransparencyPolicy.from_table(table)
    for name, value in changes.items():
        table.pop(name, None)
        if value is not None:
            table[name] = value
    assert refused(lambda: TransparencyPolicy.from_table(table)) == Code.TRUST_ROOT_INVALID
