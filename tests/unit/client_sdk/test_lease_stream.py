"""What a client makes of the stream of a lease, whatever comes."""

import base64
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_sdk.errors import ExchangeFailed
from client_sdk.lease import Lease

SECRET, TICKET = b"s" * 32, b"t" * 32


def opening(**changes: Any) -> bytes:
    ticket = base64.urlsafe_b64encode(TICKET).rstrip(b"=").decode()
    told = {"object": "cloister.lease", "ticket": ticket, "tokens": 192, "seconds": 60, **changes}
    return b"data: " + json.dumps(told).encode() + b"\n\n"


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_lease_begins_with_its_ticket_and_ends_with_its_stream(size: int) -> None:
    lease, stream = Lease(SECRET), b": filler\n\n" + opening() + b": filler\n\n"
    for start in range(0, len(stream), size):
        lease.feed(stream[start : start + size])
    assert lease.open
    assert (lease.tokens, lease.seconds) == (192, 60)
    assert lease.credential is not None
    assert base64.urlsafe_b64decode(lease.credential + "==") == TICKET + SECRET
    assert SECRET.decode() not in repr(lease)
    lease.feed(b"data: [DONE]\n\n")
    assert not lease.open
    assert lease.credential is None


@pytest.mark.parametrize(
    "changes",
    [
        {"object": "chat.completion"},
        {"ticket": None},
        {"ticket": "A" * 42},
        {"ticket": "A" * 44},
        {"tokens": 0},
        {"tokens": True},
        {"tokens": "192"},
        {"tokens": float("inf")},
        {"seconds": -1},
        {"seconds": None},
    ],
)
def test_an_opening_that_is_none_is_refused(changes: dict[str, Any]) -> None:
    lease = Lease(SECRET)
    with pytest.raises(ExchangeFailed, match="event_malformed"):
        lease.feed(opening(**changes))
    assert not lease.open


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_in_one_way(data: bytes) -> None:
    with suppress(ExchangeFailed):
        Lease(SECRET).feed(b"data: " + data + b"\n\n")


@given(st.integers(0, len(opening()) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_gives_a_lease(place: int, change: int) -> None:
    data = bytearray(opening())
    data[place] ^= change
    lease = Lease(SECRET)
    with suppress(ExchangeFailed):
        lease.feed(bytes(data))
    assert lease.open == (lease.tokens > 0)


def test_a_cut_opening_opens_nothing() -> None:
    for end in range(len(opening()) - 1):
        lease = Lease(SECRET)
        lease.feed(opening()[:end])
        assert not lease.open
