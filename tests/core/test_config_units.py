"""Durations, sizes and rates: read, refused, and shown again."""

from __future__ import annotations

from math import inf

import pytest

from relay.config.reading.units import (
    parse_duration,
    parse_rate,
    parse_size,
    show_duration,
    show_size,
)
from relay.config.values import UNLIMITED


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("0s", 0.0),
        ("15s", 15.0),
        ("1.5s", 1.5),
        ("15 s", 15.0),
        ("2m", 120.0),
        ("1h", 3600.0),
        ("8760h", 31_536_000.0),
        ("off", inf),
    ],
)
def test_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", ""),
        ("s", ""),
        ("-1s", ""),
        ("1s2", ""),
        ("1e3s", ""),
        ("15", ""),
        (15, "a unit is needed"),
        ("15S", "the units are ms, s, m and h"),
        ("15sec", "the units are ms, s, m and h"),
        ("9000h", 'more than a year; write "off" for no limit'),
        ("٣s", ""),
        (None, ""),
    ],
)
def test_no_duration(value: object, reason: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        parse_duration(value)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("512B", 512),
        ("64KiB", 65536),
        ("1MiB", 1 << 20),
        ("1GiB", 1 << 30),
        ("10MB", 10_000_000),
        ("2kB", 2000),
        ("2KB", 2000),
        ("1.5KiB", 1536),
        (4096, 4096),
        (0, 0),
        ("off", UNLIMITED),
    ],
)
def test_size(value: object, size: int) -> None:
    assert parse_size(value) == size


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (-1, "it cannot be negative"),
        (True, ""),
        (1.5, ""),
        ("64", ""),
        ("64Kib", "the units are B, KB, KiB, MB, MiB, GB and GiB"),
        ("1.5B", "it is not a whole number of bytes"),
    ],
)
def test_no_size(value: object, reason: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        parse_size(value)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("text", "rate"), [("20/s", 20.0), ("600/m", 10.0), ("0.5/s", 0.5), ("off", inf)]
)
def test_rate(text: str, rate: float) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    ("value", "reason"), [("20", ""), (20, ""), ("20/d", ""), ("0/s", "nothing would ever pass")]
)
def test_no_rate(value: object, reason: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        parse_rate(value)
    assert str(caught.value) == reason


@pytest.mark.parametrize("text", ["off", "250ms", "15s", "1.5s", "90s", "2m", "1h", "0.5ms", "61s"])
def test_a_duration_is_shown_so_that_it_can_be_read_again(text: str) -> None:
    assert parse_duration(show_duration(parse_duration(text))) == parse_duration(text)


def test_shown_short() -> None:
    assert show_duration(300.0) == "5m"
    assert show_duration(0.25) == "250ms"
    assert show_size(65536) == "64KiB"
    assert show_size(1000) == "1000B"
    assert show_size(0) == "0B"
    assert show_size(UNLIMITED) == "off"
