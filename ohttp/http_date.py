"""Dates of HTTP messages (RFC 9110 section 5.6.7), in their one form: ``Sun, 06 Nov 1994 08:49:37 GMT``."""

import re
from datetime import UTC, datetime
from functools import lru_cache

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_FORM = re.compile(
    (
        rf"(?:{'|'.join(_DAYS)}), [0-9]{{2}} (?:{'|'.join(_MONTHS)}) [0-9]{{4}}"
        " [0-9]{2}:[0-9]{2}:[0-9]{2} GMT"
    ).encode()
)


def parse_http_date(value: bytes) -> float | None:
    """POSIX seconds, or None for anything else than that form (a leap second counts as the second before)."""
    # What is no date is somebody's own words, and stays in no cache.
    return _seconds(value) if _FORM.fullmatch(value) else None


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
