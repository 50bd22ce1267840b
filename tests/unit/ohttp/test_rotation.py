"""Keys in epochs that overlap: what is published, what is accepted, what is forgotten, and when."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ohttp import kem
from ohttp.encapsulation import ClientRequest, GatewayRequest
from ohttp.errors import HpkeError, UnknownKey
from ohttp.keyconfig import parse_key_configs, preferred
from ohttp.rotation import KeyRotation

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
CHEAP = (kem.X25519,)


def test_an_epoch_begins_before_the_last_ends_and_ends_after_the_next_began() -> None:
    rotation = KeyRotation(24 * HOUR, first_key_id=255)
    assert rotation.next_change() is None
    assert rotation.ring().configs == ()
    assert rotation.rotate(START)
    first = rotation.ring()
    assert [config.key_id for config in first.configs] == [255, 0]
    assert [config.kem_id for config in first.configs] == [kem.MLKEM768_X25519, kem.X25519]
    assert rotation.next_change() == START + 23 * HOUR
    assert not rotation.rotate(START + 22.9 * HOUR)
    assert rotation.ring() is first

    assert rotation.rotate(START + 23 * HOUR)
    both = rotation.ring()
    assert [config.key_id for config in both.configs] == [1, 2, 255, 0]
    assert preferred(parse_key_configs(both.encoded())) == both.configs[0]
    assert rotation.next_change() == START + 25 * HOUR
    assert not rotation.rotate(START + 24.9 * HOUR)

    assert rotation.rotate(START + 25 * HOUR)
    assert rotation.ring().configs == both.configs[:2]
    with pytest.raises(UnknownKey):
        rotation.ring().find(255)


def test_a_plan_counts_only_when_it_is_adopted() -> None:
    rotation = KeyRotation(24 * HOUR, first_key_id=0, kem_ids=CHEAP, backdate=timedelta(minutes=2))
    rotation.rotate(START)
    ring = rotation.ring()
    (epoch,) = rotation.epochs
    assert (epoch.not_before, epoch.not_after) == (START - HOUR / 30, START + 24 * HOUR - HOUR / 30)
    planned = rotation.plan(START + 23 * HOUR)
    assert rotation.ring() is ring
    assert rotation.adopt(planned) is rotation.ring()
    assert rotation.ring().configs[1:] == ring.configs
    assert rotation.plan(START + 23 * HOUR) == planned, "nothing more is due"


def test_keys_end_in_time_whether_or_not_new_ones_came() -> None:
    rotation = KeyRotation(24 * HOUR, first_key_id=0, kem_ids=CHEAP)
    rotation.rotate(START)
    assert not rotation.drop_ended(START + 24.9 * HOUR)
    assert rotation.drop_ended(START + 25 * HOUR)
    assert (rotation.ring().configs, rotation.ring().encoded(), rotation.epochs) == ((), b"", ())
    assert rotation.rotate(START + 26 * HOUR)
    assert len(rotation.ring().configs) == 1


@given(
    steps=st.lists(st.integers(0, 30 * 60), min_size=1, max_size=60),
    length=st.integers(121, 24 * 60),
    count=st.integers(1, 3),
    first=st.integers(0, 255),
)
def test_whoever_fetched_keys_can_use_them_for_an_overlap(
    steps: list[int], length: int, count: int, first: int
) -> None:
    """At any beat of the gateway's clock, minutes between its looks at it included."""
    rotation = KeyRotation(timedelta(minutes=length), first_key_id=first, kem_ids=CHEAP * count)
    now, fetched = START, []
    for minutes in steps:
        now += timedelta(minutes=minutes)
        rotation.rotate(now)
        ring = rotation.ring()
        ids = [config.key_id for config in ring.configs]
        assert len(set(ids)) == len(ids) <= 3 * count
        fetched.append((now, preferred(parse_key_configs(ring.encoded()))))
        for then, config in fetched:
            if now - then < HOUR:
                assert ring.find(config.key_id).config == config
        newest = rotation.epochs[0]
        assert newest.not_before <= now < newest.not_after


def test_identifiers_of_accepted_keys_are_not_given_again() -> None:
    rotation = KeyRotation(24 * HOUR, first_key_id=0, kem_ids=CHEAP * 85)
    now = START
    for _ in range(5):
        rotation.rotate(now)
        now = rotation.next_change() or now
        assert len({config.key_id for config in rotation.ring().configs}) == len(rotation.ring().configs)


def test_a_request_sealed_before_a_rotation_opens_after_it() -> None:
    rotation = KeyRotation(24 * HOUR, first_key_id=9, kem_ids=CHEAP)
    rotation.rotate(START)
    sealed = ClientRequest(preferred(rotation.ring().configs)).seal(b"hello")
    rotation.rotate(START + 23 * HOUR)
    assert GatewayRequest.open(rotation.ring(), sealed).plaintext == b"hello"
    rotation.rotate(START + 25 * HOUR)
    with pytest.raises(UnknownKey):
        GatewayRequest.open(rotation.ring(), sealed)


@pytest.mark.parametrize(
    ("length", "options"),
    [
        (2 * HOUR, {}),
        (24 * HOUR, {"overlap": -HOUR}),
        (24 * HOUR, {"backdate": 22 * HOUR}),
        (24 * HOUR, {"backdate": -HOUR}),
        (24 * HOUR, {"first_key_id": 256}),
        (24 * HOUR, {"first_key_id": -1}),
        (24 * HOUR, {"kem_ids": ()}),
        (24 * HOUR, {"kem_ids": CHEAP * 86}),
    ],
)
def test_what_cannot_be_is_refused(length: timedelta, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"epoch|identifier"):
        KeyRotation(length, **{"first_key_id": 0, **options})  # type: ignore[arg-type]


def test_an_unknown_kem_is_refused() -> None:
    with pytest.raises(HpkeError):
        KeyRotation(24 * HOUR, first_key_id=0, kem_ids=(0x0030,))
