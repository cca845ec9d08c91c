"""Retry-After in both forms (RFC 9110 §10.2.3), and what is none."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.http.dates import date_of
from relay.http.retry_after import retry_after

NOW = 784_111_777.0  # Sun, 06 Nov 1994 08:49:37 GMT, the example of RFC 9110 §5.6.7
DATES = [
    b"Sun, 06 Nov 1994 08:49:37 GMT",
    b"Sunday, 06-Nov-94 08:49:37 GMT",
    b"Sun Nov  6 08:49:37 1994",
]


@pytest.mark.parametrize("date", DATES)
def test_a_date_in_every_format(date: bytes) -> None:
    assert date_of(date) == NOW


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"0", 0.0),
        (b"120", 120.0),
        (b" 7 ", 7.0),
        (b"007", 7.0),
        (b"9" * 400, inf),
        (b"-1", inf),
        (b"1.5", inf),
        (b"soon", inf),
        (b"", inf),
        (b"\xff", inf),
        (b"Sun, 06 Nov 1994 08:49:39 GMT", 2.0),
        (b"Sunday, 06-Nov-94 08:49:39 GMT", 2.0),
        (b"Sun Nov  6 08:49:39 1994", 2.0),
        (b"Sun, 06 Nov 1994 08:49:30 GMT", 0.0),
        (b"Sun, 06 Nov 1994", inf),
        (b"Sun, 99 Nov 99999999999999999999 08:49:30 GMT", inf),
    ],
)
def test_what_it_says(value: bytes, seconds: float) -> None:
    assert retry_after([(b"server", b"x"), (b"retry-after", value)], NOW) == seconds


def test_nothing_is_said() -> None:
    assert retry_after([(b"date", DATES[0])], NOW) == inf


@pytest.mark.parametrize("skew", [-86_400.0, 0.0, 86_400.0])
def test_a_date_is_taken_against_the_clock_of_its_sender(skew: float) -> None:
    fields = [(b"date", DATES[0]), (b"retry-after", b"Sun, 06 Nov 1994 08:50:07 GMT")]
    assert retry_after(fields, NOW + skew) == 30.0


@given(st.binary(max_size=60))
def test_any_bytes(value: bytes) -> None:
    assert retry_after([(b"retry-after", value), (b"date", value)], NOW) >= 0
