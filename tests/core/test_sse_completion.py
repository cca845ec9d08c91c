"""Truncated is never complete: markers are seen where they are events, and nowhere else."""

from __future__ import annotations

import sys
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.sse import Completion, EventParser

BOTH = b"event:response.completed | event:response.incomplete"


@pytest.mark.parametrize(
    ("when", "events", "seen"),
    [
        pytest.param(b"eof", b"", True, id="eof asks for nothing"),
        pytest.param(b"[DONE]", b"data: [DONE]\n\n", True, id="openai chat"),
        pytest.param(b"[DONE]", b"data:[DONE]\r\n\r\n", True, id="no space, CRLF"),
        pytest.param(b"[DONE]", b"data: a\r\rdata: [DONE] \r\r", True, id="CR, a space behind"),
        pytest.param(b"[DONE]", b"data: a\n\nid: 1\ndata: [DONE]\n\ndata: b\n\n", True, id="amid"),
        pytest.param(b"[DONE]", b"\ndata: [DONE]\n\n", True, id="behind a late LF"),
        pytest.param(b"[DONE]", b'data: {"t":"[DONE]"}\n\n', False, id="inside a string"),
        pytest.param(b"[DONE]", b"data: say [DONE]\n\n", False, id="inside a text"),
        pytest.param(b"[DONE]", b"data: [DONE]\ndata: b\n\n", False, id="one line of two"),
        pytest.param(b"[DONE]", b": [DONE]\n\n", False, id="in a comment"),
        pytest.param(b"[DONE]", b"event: [DONE]\ndata: a\n\n", False, id="as a type"),
        pytest.param(b"[DONE]", b"id: [DONE]\n\n", False, id="as an id"),
        pytest.param(b"[DONE]", b"data: [done]\n\n", False, id="another case"),
        pytest.param(b"event:message_stop", b"event: message_stop\ndata: {}\n\n", True, id="anth"),
        pytest.param(b"event:message_stop", b"data: {}\nevent:message_stop\n\n", True, id="behind"),
        pytest.param(b"event:message_stop", b"event: message_stop\n\n", True, id="no data"),
        pytest.param(b"event:message_stop", b"event: message_stop2\n\n", False, id="longer"),
        pytest.param(
            b"event:message_stop", b'data: {"type":"message_stop"}\n\n', False, id="in the data"
        ),
        pytest.param(b"event:message_stop", b"data: message_stop\n\n", False, id="as the data"),
        pytest.param(
            b"event:message_stop",
            b"event: message_stop\nevent: x\ndata: 1\n\n",
            False,
            id="another type in the end",
        ),
        pytest.param(BOTH, b"event: response.completed\ndata: {}\n\n", True, id="one of two"),
        pytest.param(BOTH, b"event: response.incomplete\ndata: {}\n\n", True, id="the other"),
        pytest.param(BOTH, b"event: response.failed\ndata: {}\n\n", False, id="neither"),
        pytest.param(b"[DONE]|eof", b"", True, id="or nothing"),
        pytest.param("event:fertig-ä".encode(), "event: fertig-ä\n\n".encode(), True, id="utf-8"),
    ],
)  # fmt: skip
def test_marker(when: bytes, events: bytes, seen: bool) -> None:
    completion = Completion(when)
    completion.see(events)
    assert completion.seen is seen


@pytest.mark.parametrize(
    ("when", "tail", "seen"),
    [
        pytest.param(b"[DONE]", b"data: [DONE]", True, id="no line end"),
        pytest.param(b"[DONE]", b"data: [DONE]\n", True, id="one line end"),
        pytest.param(b"[DONE]", b"data: [DONE]\r\n", True, id="CRLF"),
        pytest.param(b"[DONE]", b"id: 7\ndata: [DONE]\nretry: 5", True, id="amid"),
        pytest.param(b"[DONE]", b"data: [DONE", False, id="cut"),
        pytest.param(b"[DONE]", b"data: a\ndata: [DONE]\n", False, id="one line of two"),
        pytest.param(b"[DONE]", b"data: [DONE]\nda", False, id="half a field"),
        pytest.param(b"event:end", b"event: end\n", True, id="the type alone"),
        pytest.param(b"event:end", b"event: end\ndata: {}", True, id="the type's line has ended"),
        pytest.param(b"event:end", b"event: end", False, id="perhaps of a longer name"),
        pytest.param(b"event:end", b"event: end\nevent: mo", False, id="another type, half"),
        pytest.param(b"event:end", b"event: end\nev", False, id="perhaps another type"),
    ],
)
def test_the_last_block_before_a_clean_end(when: bytes, tail: bytes, seen: bool) -> None:
    completion = Completion(when)
    completion.see_last(tail)
    assert completion.seen is seen


def test_once_seen_is_seen() -> None:
    completion = Completion(b"[DONE]")
    for events in (b"data: [DO\n\n", b"data: NE]\n\n"):
        completion.see(events)
        assert not completion.seen
    completion.see(b"data: [DONE]\n\n")
    completion.see(b"data: more\n\n")
    assert completion.seen


@pytest.mark.parametrize("when", [b"", b"event:", b"[DONE]|", b" | eof"])
def test_an_empty_marker_is_refused(when: bytes) -> None:
    with pytest.raises(ValueError, match="empty"):
        Completion(when)


TOKENS = [
    *(b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n", b" ", b"\xc2\xa0", b"x", b":"),
    *(b"data: [DONE]", b"data:[DONE]", b"data", b"data:", b"event: end", b"event:end", b"event"),
    *(b"id: 1", b"[DONE]", b"end", b"data: [DONE]\n\n", b"event: end\n\n", b"data: x\n\n"),
]


@settings(deadline=None, max_examples=1000)
@given(st.lists(st.sampled_from(TOKENS), max_size=24).map(b"".join))
def test_what_a_reader_is_given_decides(stream: bytes) -> None:
    """As the specification reads it: a type, with or without data, or the whole data of an event."""
    parser = EventParser(silent=True)
    events = parser.feed(stream)
    whole = stream[: len(stream) - parser.held]
    for when, expected in (
        (b"[DONE]", any((event.data or "").strip() == "[DONE]" for event in events)),
        (b"event:end", any(event.event == "end" for event in events)),
    ):
        completion = Completion(when)
        completion.see(whole)
        assert completion.seen is expected


@pytest.mark.parametrize(
    "unit", [b"x\n\n", b"x\r\r", b"data: say [DONE]\n\n", b"event: [DONE]\n\n"]
)
def test_what_is_no_marker_costs_no_steps(unit: bytes) -> None:
    """1. A read is full of blocks that are not the marker, and says it somewhere. 2. None is read."""
    completion = Completion(b"[DONE]")
    read = unit * (65536 // len(unit)) + b": [DONE]\n\n"
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        completion.see(read)
    finally:
        sys.setprofile(None)
    assert not completion.seen
    assert calls < 10
