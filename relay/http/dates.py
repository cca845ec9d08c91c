"""HTTP-dates (RFC 9110 §5.6.7): written in the preferred format, read in any of the three.

Not with `email.utils`, which loads what mail needs (5 ms of the start) and takes much for a date that is none in HTTP.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Final

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = (
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
)  # fmt: skip
_NUMBERS: Final = {name.lower().encode(): number for number, name in enumerate(_MONTHS, 1)}
_TIME: Final = rb"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
# "A recipient … MUST accept all three"; and, because it is written, a day of one digit and UTC by its other names.
_FORMATS: Final = tuple(
    re.compile(each, re.IGNORECASE)
    for each in (
        rb"[a-z]{3}, (?P<day>[0-9]{1,2}) (?P<month>[a-z]{3}) (?P<year>[0-9]{4}) "
        + _TIME
        + rb" (?:GMT|UTC|[+-]0000)",
        rb"[a-z]{6,9}, (?P<day>[0-9]{1,2})-(?P<month>[a-z]{3})-(?P<year>[0-9]{2}) "
        + _TIME
        + b" GMT",
        rb"[a-z]{3} (?P<month>[a-z]{3}) (?P<day>[ 0-9][0-9]) " + _TIME + rb" (?P<year>[0-9]{4})",
    )
)


def date_bytes(seconds: float) -> bytes:
    """The preferred format, of seconds since 1970."""
    year, month, day, hour, minute, second, weekday, _, _ = time.gmtime(seconds)
    text = f"{_DAYS[weekday]}, {day:02} {_MONTHS[month - 1]} {year:04} {hour:02}:{minute:02}:{second:02} GMT"
    return text.encode("ascii")


def date_of(value: bytes) -> float | None:
    """Seconds since 1970, of any of the three formats; None where it is no date."""
    found = next((match for each in _FORMATS if (match := each.fullmatch(value))), None)
    month = _NUMBERS.get(found["month"].lower()) if found is not None else None
    if found is None or month is None:
        return None
    year, day, hour, minute, second = (
        int(found[name]) for name in ("year", "day", "hour", "minute", "second")
    )
    if len(found["year"]) == 2:
        year = _in_full(year)
    try:  # a leap second is the next one
        at = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC)
    except ValueError:
        return None
    return at.timestamp() + (second == 60) if second <= 60 else None


def _in_full(year: int) -> int:
    """Of two digits: a year that would be more than 50 years ahead is the last one with these digits."""
    now = time.gmtime().tm_year
    year += now // 100 * 100
    return year - 100 if year > now + 50 else year
