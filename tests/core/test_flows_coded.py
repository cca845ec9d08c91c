"""An event stream in a content coding, sans-IO: the same events, endings and places for words as of the
same stream without one.
"""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relay.flows.event_flow import EventFlow
from relay.flows.intake import DECODED_AT_ONCE, TRANSLATED_AT_ONCE, Intake
from relay.http.framing import CHUNKED, UNTIL_CLOSE
from relay.observing.ending import Cause
from relay.sse.completion import Completion
from relay.sse.dialects import HEARTBEAT
from tests.core.coded import FLUSHES, NAMES, WBITS, Coder, coded, in_turn
from tests.core.test_flows_intake import BIG, KINDS, LAST, E, cut, payloads, through, translator
from tests.guarantees.event_setup import STREAMS, dechunked, read
from tests.harness import chunked

kinds = pytest.mark.parametrize("kind", WBITS)


def made(way: str, coding: bytes, framing: int = UNTIL_CLOSE, max_event: int = BIG) -> Intake:
    """An intake of each kind."""
    completion = Completion(b"[DONE]|event:end") if way == "marker" else None
    translated = translator() if way in ("translated", "rules") else None
    return Intake(framing, max_event, completion, translated, exact=way == "exact", coding=coding)


@settings(deadline=None, max_examples=400)
@example("raw", [(b"data: %d\n\n" % n, "sync") for n in range(9)], range(0, 999, 12), "plain", BIG)
@example("zlib", [(b"data: a\n\n", "sync")], [1], "plain", BIG)
@given(
    st.sampled_from(list(WBITS)),
    st.lists(st.tuples(payloads, st.sampled_from(list(FLUSHES))), max_size=6),
    st.lists(st.integers(0, 800), max_size=8),
    st.sampled_from(KINDS),
    st.sampled_from([8, 32, BIG]),
)
def test_any_split_of_any_flushes(
    kind: str, pieces: list[tuple[bytes, str]], cuts: list[int], way: str, max_event: int
) -> None:
    """The coding is unseen: the same events, and the same ending."""
    if kind != "gzip":
        pieces = [(data, "sync" if flush == "end" else flush) for data, flush in pieces]
    plain = b"".join(data for data, _ in pieces)
    expected = through(made(way, b"", max_event=max_event), [plain] if plain else [])
    sent = in_turn(kind, pieces)
    cuts = sorted(at for at in cuts if 0 < at < len(sent))
    parts = [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    out, cause = through(made(way, NAMES[kind], max_event=max_event), parts)
    assert cause == expected[1]
    assert out.rstrip(b"\r\n") == expected[0].rstrip(b"\r\n")
    if way in ("plain", "marker"):  # and on the client's wire, a chunk a piece
        completion = Completion(b"[DONE]|event:end") if way == "marker" else None
        flow = EventFlow(CHUNKED, CHUNKED, max_event, completion, coding=NAMES[kind])
        framed, end = through(flow, [*map(chunked, filter(None, parts)), LAST])
        assert end == cause
        assert dechunked(framed.removesuffix(LAST)).rstrip(b"\r\n") == out.rstrip(b"\r\n")


@kinds
@pytest.mark.parametrize("sent", STREAMS.values(), ids=STREAMS)
def test_words_stand_between_events(kind: str, sent: bytes) -> None:
    """1. Heartbeats are due before, between and behind all bytes. 2. None stands in an event, and none
    in the coded data.
    """
    for flush in ("none", "sync"):
        coder = Coder(kind)
        data = b"".join(coder.write(sent[at : at + 9], flush) for at in range(0, len(sent), 9))
        flow = EventFlow(CHUNKED, CHUNKED, BIG, coding=NAMES[kind])
        out = flow.inject(HEARTBEAT) or b""
        for part in cut(data + coder.end(), 1):
            out += flow.feed(chunked(part))
            out += flow.inject(HEARTBEAT) or b""
        out += flow.feed(LAST)
        assert out.endswith(LAST)
        assert read(dechunked(out.removesuffix(LAST))) == read(sent)
        assert flow.ending is not None
        assert flow.ending.clean


@kinds
@pytest.mark.parametrize("framing", [CHUNKED, UNTIL_CLOSE])
def test_an_end_before_the_codings_own_is_a_truncation(kind: str, framing: int) -> None:
    """At every byte, whatever the framing says of a proper end; whole events before it arrive."""
    coder = Coder(kind)
    body = coder.write(E * 3, "sync") + coder.write(b"data: [DONE]\n\n", "sync") + coder.end()
    for at in range(len(body)):
        flow = EventFlow(framing, UNTIL_CLOSE, BIG, Completion(b"[DONE]"), coding=coder.name)
        if framing == CHUNKED:
            out = flow.feed((chunked(body[:at]) if at else b"") + LAST)
        else:
            out = flow.feed(body[:at])
            out += flow.eof() or b""
        assert flow.ending is not None
        assert flow.ending.cause is Cause.TRUNCATED
        assert flow.ending.detail.startswith("the upstream ended in the middle of its ")
        assert out in (b"", E, E * 2, E * 3, E * 3 + b"data: [DONE]\n\n")


@kinds
def test_what_was_decoded_before_a_fault_arrives(kind: str) -> None:
    """Of the coding, and of the framing behind more than one step's worth of events."""
    many = E * (3 * DECODED_AT_ONCE // len(E))
    for broken in (chunked(coded(many, kind) + b"data"), chunked(coded(many, kind)) + b"no chunk"):
        out, cause = through(Intake(CHUNKED, BIG, coding=NAMES[kind]), [broken])
        assert cause is Cause.NONSENSE
        assert out == many


@kinds
@pytest.mark.parametrize("translated", [True, False])
def test_a_bomb_is_one_step_at_a_time(kind: str, translated: bool) -> None:
    """1. 64 KiB in a coding are an event of 64 MiB. 2. Each step brings no more than any other read;
    it passes as it comes, or ends the stream where events are translated.
    """
    bomb = coded(b"data: " + bytes(64 << 20), kind, 9)[: 64 * 1024]
    limit = 256 * 1024
    flow = EventFlow(
        UNTIL_CLOSE, UNTIL_CLOSE, limit, None, translator() if translated else None, coding=NAMES[kind]
    )  # fmt: skip
    step = TRANSLATED_AT_ONCE if translated else DECODED_AT_ONCE
    size = len(flow.feed(bomb))
    while flow.pending:
        assert flow.held <= limit + len(bomb)
        out = len(flow.feed(b""))
        assert out <= limit + step
        size += out
    if translated:
        assert flow.ending is not None
        assert (flow.ending.cause, size) == (Cause.TOO_LARGE, 0)
    else:
        assert size > 60 << 20
        assert flow.open
