"""The Date field (RFC 9110 §6.6.1): whoever forwards a response without one adds it, and whoever writes a response does.

It is formatted once a second and process, because it is asked for with every response.
"""

from __future__ import annotations

import time

from relay.http.dates import date_bytes

_second = 0
_date = b""


def date() -> bytes:
    """The wall clock as an HTTP-date in the preferred format (RFC 9110 §5.6.7)."""
    global _second, _date
    second = int(time.time())
    if second != _second:
        _second, _date = second, date_bytes(second)
    return _date
