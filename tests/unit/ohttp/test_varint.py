"""Variable-length integers, against the examples of RFC 9000 appendix A.1."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ohttp import varint
from ohttp.errors import VarintError


@pytest.mark.parametrize(
    ("encoded", "value"),
    [
        ("c2197c5eff14e88c", 151_288_809_941_952_652),
        ("9d7f3e7d", 494_878_333),
        ("7bbd", 15_293),
        ("25", 37),
    ],
)
def test_rfc9000_examples(encoded: str, value: int) -> None:
    data = bytes.fromhex(encoded)
    assert varint.decode(data) == (value, len(data))
    assert varint.encode(value) == data


@pytest.mark.parametrize("encoded", ["4025", "80000025", "c000000000000025"])
def test_longer_than_needed_is_read(encoded: str) -> None:
    data = bytes.fromhex(encoded)
    assert varint.decode(data) == (37, len(data))


@given(st.integers(0, varint.MAX), st.binary(max_size=3), st.binary(max_size=3))
def test_round_trip_inside_other_bytes(value: int, before: bytes, after: bytes) -> None:
    encoded = varint.encode(value)
    end = len(before) + len(encoded)
    assert varint.decode(before + encoded + after, len(before)) == (value, end)
    for cut in range(len(encoded)):
        assert varint.decode(before + encoded[:cut], len(before)) is None


@pytest.mark.parametrize("boundary", [0, 1 << 6, 1 << 14, 1 << 30])
def test_shortest_form_on_both_sides_of_a_boundary(boundary: int) -> None:
    sizes = [len(varint.encode(value)) for value in (max(0, boundary - 1), boundary)]
    assert sizes == {0: [1, 1], 1 << 6: [1, 2], 1 << 14: [2, 4], 1 << 30: [4, 8]}[boundary]


@pytest.mark.parametrize("value", [-1, varint.MAX + 1])
def test_what_does_not_fit_is_refused(value: int) -> None:
    with pytest.raises(VarintError) as caught:
        varint.encode(value)
    assert caught.value.code == "out_of_range"
