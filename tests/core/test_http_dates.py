"""HTTP-dates (RFC 9110 §5.6.7): what is written, what is read, and what is none."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.http.dates import date_bytes, date_of

EXAMPLE = 784_111_777.0  # Sun, 06 Nov 1994 08:49:37 GMT


@pytest.mark.parametrize(
    "value",
    [
        b"Sun, 06 Nov 1994 08:49:37 GMT",
        b"Sunday, 06-Nov-94 08:49:37 GMT",
        b"Sun Nov  6 08:49:37 1994",
        b"sun, 06 nov 1994 08:49:37 gmt",
        b"Sun, 6 Nov 1994 08:49:37 GMT",
        b"Sun, 06 Nov 1994 08:49:37 +0000",
    ],
)
def test_every_format_is_read(value: bytes) -> None:
    assert date_of(value) == EXAMPLE


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"0",
        b"Sun, 06 Nov 1994",
        b"Sun, 06 Nov 1994 08:49 GMT",
        b"Sun, 06 Nov 1994 08:49:37",
        b"Sun, 06 Nov 1994 08:49:37 PST",
        b"Sun, 31 Feb 1994 08:49:37 GMT",
        b"Sun, 06 Foo 1994 08:49:37 GMT",
        b"Sun, 06 Nov 1994 24:49:37 GMT",
        b"Sun, 06 Nov 1994 08:49:61 GMT",
        b"Sun, 06 Nov 0000 08:49:37 GMT",
        b"Sun, 06 Nov 1994 08:49:37 GMT\n",
        "Sun, 06 Nov 199٤ 08:49:37 GMT".encode(),
        b"\xff" * 30,
    ],
)
def test_what_is_no_date(value: bytes) -> None:
    assert date_of(value) is None


def test_a_leap_second_is_the_next_one() -> None:
    assert date_of(b"Sat, 31 Dec 2016 23:59:60 GMT") == date_of(b"Sun, 01 Jan 2017 00:00:00 GMT")


def test_a_year_of_two_digits_is_not_far_ahead() -> None:
    # It names a weekday, which nobody looks at: only the digits say the year.
    last_century = date_of(b"Sunday, 06-Nov-99 08:49:37 GMT")
    assert last_century == date_of(b"Sat, 06 Nov 1999 08:49:37 GMT")


@given(st.integers(0, 253_402_300_799))
def test_written_as_email_writes_it_and_read_again(seconds: int) -> None:
    written = date_bytes(seconds)
    assert written.decode() == formatdate(seconds, usegmt=True)
    assert date_of(written) == seconds


@given(st.binary())
def test_any_bytes_are_a_date_or_none(value: bytes) -> None:
    found = date_of(value)
    assert found is None or isinstance(found, float)
