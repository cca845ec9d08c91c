"""Events as values: reading one block, writing one, and what the format cannot say."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.sse import Event, EventParser, parse, serialise
from tests.core.sse_oracle import interpret


@pytest.mark.parametrize(
    ("event", "block"),
    [
        (Event("a"), b"data: a\n\n"),
        (Event(""), b"data: \n\n"),
        (Event("a\nb"), b"data: a\ndata: b\n\n"),
        (Event("a\n"), b"data: a\ndata: \n\n"),
        (Event("\n"), b"data: \ndata: \n\n"),
        (Event(" a"), b"data:  a\n\n"),
        (Event("a", "foo"), b"event: foo\ndata: a\n\n"),
        (Event("a", id="7"), b"data: a\nid: 7\n\n"),
        (Event("a", id=""), b"data: a\nid: \n\n"),
        (Event("a", retry=0), b"data: a\nretry: 0\n\n"),
        (Event(id="7"), b"id: 7\n\n"),
        (Event(event="foo"), b"event: foo\n\n"),
        (Event(retry=3000), b"retry: 3000\n\n"),
        (Event(comments=("",)), b": \n\n"),
        (Event("ä€😀", comments=("a", " b")), ": a\n:  b\ndata: ä€😀\n\n".encode()),
        (Event("x", "e", "i", 1, ("c",)), b": c\nevent: e\ndata: x\nid: i\nretry: 1\n\n"),
        (Event(), b""),
    ],
)
def test_written_and_read(event: Event, block: bytes) -> None:
    assert serialise(event) == block
    assert parse(block) == event


@pytest.mark.parametrize(
    ("block", "event"),
    [
        (b"data: a", Event("a")),
        (b"\n\r\ndata: a\n\ndata: b\n\n", Event("a")),
        (b"data:a\rid:1\r\nretry:2\n\r", Event("a", id="1", retry=2)),
        (b"id: 1\nid: 2\0\n\n", Event(id="1")),
        (b"retry: 9999999999999999\n\n", Event()),
        (b"event: a\nevent\ndata\n\n", Event("")),
        (b"\xef\xbb\xbfdata: a\n\n", Event()),
        (b"", Event()),
        (b"\n", Event()),
    ],
)
def test_read(block: bytes, event: Event) -> None:
    assert parse(block) == event


@pytest.mark.parametrize(
    "event",
    [
        Event("a", "two\nlines"),
        Event("a", "two\rlines"),
        Event("a", id="1\n"),
        Event("a", id="1\r2"),
        Event("a", id="1\0"),
        Event("a", retry=-1),
    ],
)
def test_what_cannot_be_said_is_refused(event: Event) -> None:
    with pytest.raises(ValueError, match="cannot"):
        serialise(event)


def test_other_line_ends_become_lf() -> None:
    assert parse(serialise(Event("a\rb\r\nc", comments=("x\ry",)))) == Event(
        "a\nb\nc", comments=("x", "y")
    )


def test_half_a_surrogate_pair_cannot_break_the_stream() -> None:
    assert serialise(Event("a\ud800b")) == b"data: a?b\n\n"


line = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))
events = st.builds(
    Event,
    data=st.lists(line, min_size=1).map("\n".join) | st.none(),
    event=line,
    id=line.filter(lambda text: "\0" not in text) | st.none(),
    retry=st.integers(0, 10**15 - 1) | st.none(),
    comments=st.lists(line, max_size=2).map(tuple),
)


@settings(deadline=None)
@given(st.lists(events, max_size=4))
def test_any_events_come_back(given_events: list[Event]) -> None:
    stream = b"".join(map(serialise, given_events))
    parser = EventParser(silent=True)
    assert parser.feed(stream) == [event for event in given_events if event != Event()]
    ids = [event.id for event in given_events if event.id is not None]
    assert parser.last_event_id == (ids[-1] if ids else "") == interpret(stream).last_event_id
    assert [d.data for d in interpret(stream).events] == [
        event.data for event in given_events if event.data is not None
    ]


def test_held_counts_the_unfinished_block() -> None:
    parser = EventParser()
    assert parser.feed(b"data: a\n\ndata: b\n") == [Event("a")]
    assert parser.held == 8
    assert parser.feed(b"x") == []
    assert parser.held == 9
    assert parser.feed(b": y\n\n") == [Event("b")]
    assert parser.held == 0


def test_after_the_end_nothing_of_the_tail_is_left() -> None:
    parser = EventParser()
    parser.feed(b"id: 1\ndata: a\nretry: 20\nretry: 3")
    parser.eof()
    assert (parser.last_event_id, parser.retry, parser.held) == ("", 20, 0)
