"""A translated stream, sans-IO: what was made before a translation failed still arrives."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from relay.flows.event_flow import TranslatedFlow
from relay.http.fault import Fault
from relay.http.framing import CHUNKED, UNTIL_CLOSE
from relay.sse.event import Event
from relay.sse.translate import Translation, Translator


def _refuses_three(event: Event) -> Iterable[Event]:
    if event.data == "3":
        raise ValueError("a secret")
    return [Event(f"<{event.data}>")]


@pytest.mark.parametrize("together", [True, False])
def test_what_was_translated_before_a_failure_arrives(together: bool) -> None:
    translator = Translator(Translation("t", function=_refuses_three))
    flow = TranslatedFlow(UNTIL_CLOSE, CHUNKED, 1000, translator)
    events = [b"data: %d\n\n" % number for number in range(1, 5)]
    got = b""
    first, last = ([], b"".join(events)) if together else (events[:2], events[2])
    for data in first:
        got += flow.feed(data)
    with pytest.raises(Fault) as caught:
        flow.feed(last)
    got += caught.value.passed
    assert got.count(b"data:") == 2
    assert b"data: <1>\n\n" in got
    assert b"data: <2>\n\n" in got
    assert "secret" not in caught.value.message
