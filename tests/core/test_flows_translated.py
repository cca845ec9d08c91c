"""A translated stream, sans-IO: what was made before a translation failed still arrives."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from relay.flows.event_flow import EventFlow
from relay.http.framing import CHUNKED, UNTIL_CLOSE
from relay.observing.ending import Cause
from relay.sse.event import Event
from relay.sse.translate import Rule, Translation, Translator


def _refuses_three(event: Event) -> Iterable[Event]:
    if event.data == "3":
        raise ValueError("a secret")
    return [Event(f"<{event.data}>")]


@pytest.mark.parametrize("together", [True, False])
def test_what_was_translated_before_a_failure_arrives(together: bool) -> None:
    translator = Translator(Translation("t", function=_refuses_three))
    flow = EventFlow(UNTIL_CLOSE, CHUNKED, 1000, translator=translator)
    events = [b"data: %d\n\n" % number for number in range(1, 5)]
    got = b""
    first, last = ([], b"".join(events)) if together else (events[:2], events[2])
    for data in first:
        got += flow.feed(data)
    got += flow.feed(last)
    assert flow.ending is not None
    assert flow.ending.cause is Cause.NONSENSE
    assert got.count(b"data:") == 2
    assert b"data: <1>\n\n" in got
    assert b"data: <2>\n\n" in got
    assert "secret" not in flow.ending.detail


@pytest.mark.parametrize(
    ("tail", "ended"),
    [
        (b"event: end\ndata: {}\n", True),
        (b"event: end\ndata: {}", True),
        (b"event: end", False),
        (b"event: more\ndata: {}\n", False),
        (b"event: broken\ndata: {}\n", False),
    ],
)
def test_a_last_rule_matches_a_block_whose_blank_line_is_missing(tail: bytes, ended: bool) -> None:
    """A server that leaves the last blank line out has said the end all the same."""
    broken = {"n": lambda _: object()}  # no JSON: a translation that fails
    rules = (Rule("end", last=True), Rule("more"), Rule("broken", fields=broken, last=True))
    translator = Translator(Translation("t", rules))
    flow = EventFlow(UNTIL_CLOSE, CHUNKED, 1000, translator=translator)
    flow.feed(b"event: more\ndata: {}\n\n" + tail)
    out = flow.eof()
    assert flow.ending is not None
    assert flow.ending.cause is (Cause.COMPLETE if ended else Cause.TRUNCATED)
    assert out is not None
    assert out.endswith(b"\r\n0\r\n\r\n") is ended
    assert (b"data: {}\n\n" in out) is ended
