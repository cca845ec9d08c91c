"""traceparent, as a table (W3C Trace Context §3.2, §4)."""

from __future__ import annotations

import pytest

from relay.observing.traceparent import TraceParent, new, parse

ID = b"4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = b"00f067aa0ba902b7"
GOOD = b"00-" + ID + b"-" + PARENT + b"-01"

VALID = [
    (GOOD, 1),
    (GOOD[:-2] + b"00", 0),
    (GOOD[:-2] + b"ff", 255),
    (b"01" + GOOD[2:], 1),
    (b"cc" + GOOD[2:] + b"-what-the-future-will-be-like", 1),
]
INVALID = [
    b"",
    b"00",
    GOOD + b"-",
    GOOD + b"-more",
    GOOD + b".",
    b"ff" + GOOD[2:],
    b"cc" + GOOD[2:] + b".what",
    GOOD.upper(),
    b"0" + GOOD,
    b"00-" + b"0" * 32 + b"-" + PARENT + b"-01",
    b"00-" + ID + b"-" + b"0" * 16 + b"-01",
    b"00-" + ID[:-1] + b"-" + PARENT + b"-01",
    b"00-" + ID + b"-" + PARENT + b"-1",
    b"00-" + ID + b"-" + PARENT + b"-0x",
    GOOD.replace(b"-", b"_"),
    GOOD + b", " + GOOD,
]


@pytest.mark.parametrize(("value", "flags"), VALID)
def test_valid(value: bytes, flags: int) -> None:
    assert parse(value) == TraceParent(ID.decode(), PARENT.decode(), flags)


@pytest.mark.parametrize("value", INVALID)
def test_invalid(value: bytes) -> None:
    assert parse(value) is None


def test_what_is_created_is_valid_and_new() -> None:
    one, other = new(), new()
    assert parse(one.value()) == one
    assert one.flags == 1
    assert one.trace_id != other.trace_id
