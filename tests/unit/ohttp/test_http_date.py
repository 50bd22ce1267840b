"""HTTP dates: one form is written, and two older ones are read too."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ohttp.http_date import format_http_date, parse_http_date


def test_the_example_of_the_rfc() -> None:
    assert parse_http_date(b"Sun, 06 Nov 1994 08:49:37 GMT") == 784111777.0
    assert format_http_date(784111777.9) == b"Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"Sunday, 06-Nov-94 08:49:37 GMT", 784111777.0),
        (b"Sun Nov  6 08:49:37 1994", 784111777.0),
        (b"Sunday, 22-Nov-26 00:00:00 GMT", 1795305600.0),
        (b"Sun Nov 22 00:00:00 2026", 1795305600.0),
        (b"Thursday, 01-Jan-70 00:00:00 GMT", 0.0),
        (b"Tuesday, 31-Dec-69 23:59:60 GMT", 3155759999.0),
    ],
)
def test_the_two_older_forms_are_read(value: bytes, seconds: float) -> None:
    """RFC 9110: a recipient must accept all three."""
    assert parse_http_date(value) == seconds


@given(st.integers(0, 253402300799))
def test_round_trip(seconds: int) -> None:
    assert parse_http_date(format_http_date(seconds)) == seconds


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"Sunday, 06-Nov-1994 08:49:37 GMT",
        b"Sun, 06-Nov-94 08:49:37 GMT",
        b"Sunday, 06-Nov-94 08:49:37",
        b"Sunday, 31-Feb-94 08:49:37 GMT",
        b"Sun Nov 06 08:49:37 94",
        b"Sun Nov 6 08:49:37 1994",
        b"Sun Nov  0 08:49:37 1994",
        b"Sun Nov  6 08:49:37 1994 GMT",
        b"Sun Feb 31 08:49:37 1994",
        b"Sun, 06 Nov 1994 08:49:37 +0000",
        b"Sun, 31 Feb 1994 08:49:37 GMT",
        b"Sun, 06 Nov 1994 24:49:37 GMT",
        b"Sun, 06 Nov 0000 08:49:37 GMT",
        b"Sun, 06 Nov 1994 08:49:37 GMT ",
        "Sun, \u0660\u0666 Nov 1994 08:49:37 GMT".encode(),
    ],
)
def test_other_forms_are_no_dates(value: bytes) -> None:
    assert parse_http_date(value) is None


@given(st.binary(max_size=40))
def test_any_bytes(value: bytes) -> None:
    assert parse_http_date(value) is None
