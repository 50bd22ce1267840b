"""Dates of HTTP messages (RFC 9110 section 5.6.7): ``Sun, 06 Nov 1994 08:49:37 GMT``.

That form is the only one written. Two older ones are read too, as every recipient must.
"""

import re
from datetime import UTC, datetime
from functools import lru_cache

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DAY, _MONTH, _CLOCK = "|".join(_DAYS), "|".join(_MONTHS), "[0-9]{2}:[0-9]{2}:[0-9]{2}"
_FORM = re.compile(rf"(?:{_DAY}), [0-9]{{2}} (?:{_MONTH}) [0-9]{{4}} {_CLOCK} GMT".encode())
_RFC_850 = re.compile(
    rf"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, ([0-9]{{2}})-({_MONTH})-([0-9]{{2}}) ({_CLOCK}) GMT".encode()
)
_ASCTIME = re.compile(rf"(?:{_DAY}) ({_MONTH}) ([0-9]{{2}}| [1-9]) ({_CLOCK}) ([0-9]{{4}})".encode())


def parse_http_date(value: bytes) -> float | None:
    """POSIX seconds, or None for what is no date (a leap second counts as the second before).

    The name of the weekday is not compared with the date. A year of two digits is one of 1970 to 2069.
    """
    # What is no date is somebody's own words, and stays in no cache.
    return _seconds(value) if _FORM.fullmatch(value) else _obsolete(value)


def _obsolete(value: bytes) -> float | None:
    if found := _RFC_850.fullmatch(value):
        day, month, year, clock = found.groups()
        year = (b"19" if year >= b"70" else b"20") + year
    elif found := _ASCTIME.fullmatch(value):
        month, day, clock, year = found.groups()
    else:
        return None
    return _seconds(b"Mon, %s %s %s %s GMT" % (day.replace(b" ", b"0"), month, year, clock))


# Those who ask in the same second say the same date.
@lru_cache(maxsize=16)
def _seconds(date: bytes) -> float | None:
    _, day, month, year, clock, _ = date.decode("ascii").split(" ")
    hour, minute, second = clock.split(":")
    try:
        moment = datetime(
            int(year),
            _MONTHS.index(month) + 1,
            int(day),
            int(hour),
            int(minute),
            59 if second == "60" else int(second),
            tzinfo=UTC,
        )
    except ValueError:
        return None
    return moment.timestamp()


def format_http_date(seconds: float) -> bytes:
    """The date of ``seconds`` (POSIX), fractions dropped."""
    moment = datetime.fromtimestamp(int(seconds), tz=UTC)
    return (
        f"{_DAYS[moment.weekday()]}, {moment.day:02} {_MONTHS[moment.month - 1]} {moment.year:04}"
        f" {moment.hour:02}:{moment.minute:02}:{moment.second:02} GMT"
    ).encode()
