"""The Cache-Control of an event stream is never weaker than what its source said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.http.cache_control import of_stream
from relay.http.fields import response_fields

NEEDED = b"no-cache, no-transform"


@pytest.mark.parametrize(
    ("said", "becomes"),
    [
        ([], NEEDED),
        ([b""], NEEDED),
        ([b"private, no-store"], b"private, no-store, " + NEEDED),
        ([b"private", b"no-store"], b"private, no-store, " + NEEDED),
        ([b"Private,NO-STORE"], b"private, no-store, " + NEEDED),
        ([b"no-cache"], NEEDED),
        ([b"no-transform, no-cache"], NEEDED),
        ([b"public, max-age=60, s-maxage=60, immutable"], NEEDED),
        ([b"max-age=0, must-revalidate, proxy-revalidate"],
         b"must-revalidate, proxy-revalidate, " + NEEDED),
        ([b'private="set-cookie"'], b'private="set-cookie", ' + NEEDED),
        ([b'no-cache="set-cookie", private'], b"private, " + NEEDED),
        ([b'x="a, no-store", private'], b'x="a, no-store", private, ' + NEEDED),
        ([b"x=1, x=1, x=2"], b"x=1, x=2, " + NEEDED),
        ([b"private;no-store"], b"private, no-store, " + NEEDED),
        ([b'private, x="open, no-store'], b"private, x=, open, no-store, " + NEEDED),
        ([b"stale-while-revalidate=60, stale-if-error=60, must-understand, no-store"],
         b"must-understand, no-store, " + NEEDED),
    ],
)  # fmt: skip
def test_of_stream(said: list[bytes], becomes: bytes) -> None:
    assert of_stream(tuple(said)) == becomes


WORDS = st.sampled_from(["private", "no-store", "no-cache", "public", "max-age=1", 'x="a,b"', "x"])


@given(st.lists(st.lists(WORDS, min_size=1).map(", ".join), max_size=3))
def test_what_restricts_stays(lines: list[str]) -> None:
    merged = of_stream(tuple(line.encode() for line in lines)).decode().split(", ")
    for restricts in ("private", "no-store"):
        assert (restricts in merged) == any(restricts in line.split(", ") for line in lines)
    assert merged[-2:] == ["no-cache", "no-transform"]
    assert not {"public", "max-age=1"} & set(merged)


def test_a_stream_of_relays_own_has_what_it_needs() -> None:
    fields = response_fields(
        [(b"content-type", b"text/event-stream"), (b"cache-control", b"private")],
        via=b"r",
        request_id=b"1",
        request_id_header=b"x-id",
        event_stream=True,
    )
    assert [value for name, value in fields if name == b"cache-control"] == [b"private, " + NEEDED]
