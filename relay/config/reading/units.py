"""Durations, sizes and rates as people write them.

`"250ms" "15s" "2m" "1h"`, `"512B" "64KiB" "1MiB" "10MB"`, `"20/s"`; `"off"` is infinite, or no
limit. A bare number has no unit and is refused for durations; for sizes an integer counts bytes.
"""

from __future__ import annotations

import re
from math import inf
from typing import Final

from relay.config.values import UNLIMITED

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES: Final = {
    "B": 1,
    "kB": 1000,
    "KB": 1000,
    "KiB": 1 << 10,
    "MB": 1000**2,
    "MiB": 1 << 20,
    "GB": 1000**3,
    "GiB": 1 << 30,
}
_NUMBER_AND_UNIT: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?([A-Za-z]+)", re.ASCII)
_RATE: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)/(s|m|h)", re.ASCII)
_LONGEST: Final = 366 * 24 * 3600.0  # a year; more is a slip of the unit


def parse_duration(value: object) -> float:
    """Seconds. Raises: ValueError with the reason, without the value."""
    if value == "off":
        return inf
    match = _NUMBER_AND_UNIT.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("a unit is needed" if isinstance(value, int | float) else "")
    if match[2] not in _SECONDS:
        raise ValueError("the units are ms, s, m and h")
    seconds = float(match[1]) * _SECONDS[match[2]]
    if seconds > _LONGEST:
        raise ValueError('more than a year; write "off" for no limit')
    return seconds


def parse_size(value: object) -> int:
    """Bytes. Raises: ValueError with the reason, without the value."""
    if value == "off":
        return UNLIMITED
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise ValueError("it cannot be negative")
        return value
    match = _NUMBER_AND_UNIT.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("")
    if match[2] not in _BYTES:
        raise ValueError("the units are B, KB, KiB, MB, MiB, GB and GiB")
    size = float(match[1]) * _BYTES[match[2]]
    if size != int(size):
        raise ValueError("it is not a whole number of bytes")
    return int(size)


def parse_rate(value: object) -> float:
    """Times per second. Raises: ValueError with the reason, without the value."""
    if value == "off":
        return inf
    match = _RATE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("")
    rate = float(match[1]) / _SECONDS[match[2]]
    if rate <= 0:
        raise ValueError("nothing would ever pass")
    return rate


def show_duration(seconds: float) -> str:
    """The shortest way to write it: `15s`, `250ms`, `5m`, `off`."""
    if seconds == inf:
        return "off"
    for unit in ("h", "m", "s"):
        count = seconds / _SECONDS[unit]
        if count >= 1 and count == int(count):
            return f"{int(count)}{unit}"
    return f"{seconds:g}s" if seconds >= 1 else f"{seconds * 1000:g}ms"


def show_rate(rate: float) -> str:
    """`20/s`, or by the minute or hour where that is a whole number: `10/m`."""
    for unit in ("s", "m", "h"):
        count = round(rate * _SECONDS[unit], 9)
        if count >= 1 and count == int(count):
            return f"{int(count)}/{unit}"
    return f"{rate:g}/s"


def show_size(size: int) -> str:
    """The largest binary unit that divides it: `64KiB`, `off`."""
    if size == UNLIMITED:
        return "off"
    for unit in ("GiB", "MiB", "KiB"):
        if size >= _BYTES[unit] and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}"
    return f"{size}B"
