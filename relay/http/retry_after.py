"""How long a response asks its reader to wait: Retry-After (RFC 9110 §10.2.3), in seconds or as a date."""

from __future__ import annotations

from email.utils import mktime_tz, parsedate_tz
from math import inf
from typing import Final

from relay.http.bodies import Fields

_DIGITS: Final = 9  # of seconds: thirty years, and no number that is expensive to read


def date_of(value: bytes) -> float | None:
    """The time of an HTTP-date in any of its three formats (RFC 9110 §5.6.7), in seconds since 1970."""
    parsed = parsedate_tz(value.decode("latin-1"))
    if parsed is None:
        return None
    try:
        return float(mktime_tz(parsed))
    except (ValueError, OverflowError):
        return None


def retry_after(fields: Fields, now: float) -> float:
    """Seconds from `now` (since 1970) on; inf where the response does not say, or says nothing that can be read.

    A date is taken against the response's own Date, where it has one: what its sender means is a time from then on, and
    the two clocks need not agree.
    """
    given = _value(fields, b"retry-after")
    if given is None:
        return inf
    if given.isdigit():
        return float(given) if len(given) <= _DIGITS else inf
    until = date_of(given)
    if until is None:
        return inf
    sent = _value(fields, b"date")
    since = date_of(sent) if sent is not None else None
    return max(0.0, until - (now if since is None else since))


def _value(fields: Fields, wanted: bytes) -> bytes | None:
    return next((value.strip() for name, value in fields if name == wanted), None)
