"""The DER reader takes the one encoding of a value and no other."""

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation import der
from attestation.der import DerError, Reader
from attestation.simulated import der_writer as write


@given(st.integers(min_value=0, max_value=2**512))
def test_integers_survive(value: int) -> None:
    assert Reader(write.integer(value)).integer() == value


@given(
    st.lists(st.integers(0, 2**40), min_size=1, max_size=8).map(
        lambda arcs: "1.3." + ".".join(map(str, arcs))
    )
)
def test_object_identifiers_survive(dotted: str) -> None:
    assert Reader(write.oid(dotted)).oid() == dotted


@pytest.mark.parametrize(
    "moment", [datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(2050, 1, 1, tzinfo=UTC)]
)
def test_times_survive(moment: datetime) -> None:
    assert Reader(write.time(moment)).time() == moment


@pytest.mark.parametrize(
    ("read", "data"),
    [
        (Reader.integer, "0200"),
        (Reader.integer, "02020001"),
        (Reader.integer, "0202ff80"),
        (Reader.integer, "028101" + "05"),
        (Reader.integer, "0280050000"),
        (Reader.integer, "0202"),
        (Reader.boolean, "010101"),
        (Reader.boolean, "0102ffff"),
        (Reader.bits, "0300"),
        (Reader.bits, "03020100"),
        (Reader.oid, "0600"),
        (Reader.oid, "060180"),
        (Reader.oid, "0603808101"),
        (Reader.time, "170d" + b"2301010000000".hex()),
        (Reader.time, "170d" + b"231301000000Z".hex()),
        (Reader.time, "180d" + b"230101000000Z".hex()),
        (Reader.element, "1f8101" + "00"),
        (Reader.element, "30"),
        (Reader.element, "3084000000010" + "0"),
    ],
)
def test_other_encodings_are_refused(read: Callable[[Reader], object], data: str) -> None:
    with pytest.raises(DerError):
        read(Reader(bytes.fromhex(data)))


def test_what_follows_is_refused() -> None:
    reader = Reader(write.integer(1) + b"\0")
    reader.integer()
    with pytest.raises(DerError):
        reader.end()


@given(st.binary(max_size=64))
def test_random_bytes_stay_in_the_family(data: bytes) -> None:
    for read in (Reader.integer, Reader.oid, Reader.time, Reader.bits, Reader.boolean, Reader.octets):
        with contextlib.suppress(DerError):
            read(Reader(data))
    with contextlib.suppress(DerError):
        assert b"".join(found.raw for found in Reader(data).each()) == data


def test_context_tags_are_constructed() -> None:
    assert write.explicit(3, b"")[0] == der.context(3) == 0xA3
