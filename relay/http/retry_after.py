"""How long a response asks its reader to wait: Retry-After (RFC 9110 §10.2.3), in seconds or as a date."""

from __future__ import annotations

from math import inf
from typing import Final

from relay.http.bodies import Fields
from relay.http.dates import date_of

_DIGITS: Final = 9  # of seconds: thirty years, and no number that is expensive to read


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
