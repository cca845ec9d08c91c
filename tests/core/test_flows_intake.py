"""The upstream's half of an event stream: whole events and one ending, whatever the bytes and the
pieces; and what it may hold on the way.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relay.flows.event_flow import EventFlow
from relay.flows.intake import TRANSLATED_AT_ONCE, Intake
from relay.http.framing import CHUNKED, UNTIL_CLOSE
from relay.observing.ending import Cause
from relay.sse.completion import Completion
from relay.sse.event import Event
from relay.sse.translate import Rule, Translation, Translator
from tests.core.sse_oracle import interpret
from tests.harness import chunked

BIG = 1024 * 1024
LAST = b"0\r\n\r\n"


def same(event: Event) -> Iterable[Event]:
    return [event]


def translator(*rules: Rule) -> Translator:
    """By `rules`, or every event as it is."""
    return Translator(Translation("t", rules, None if rules else same))


def through(intake: Intake, pieces: Iterable[bytes]) -> tuple[bytes, Cause | None]:
    """What comes out, and the ending. What is pending is asked for, as a pump does."""
    out = b""
    for piece in pieces:
        out += intake.feed(piece)
        while intake.pending:
            out += intake.feed(b"")
        if intake.done:
            break
    else:
        out += intake.eof() or b""
    return out, intake.ending.cause if intake.ending else None


def cut(stream: bytes, size: int) -> list[bytes]:
    return [stream[at : at + size] for at in range(0, len(stream), size)]


# -- endings ---------------------------------------------------------------------------------------

E = b"data: 1\n\n"


@pytest.mark.parametrize(
    ("sent", "marker", "out", "cause"),
    [
        pytest.param(chunked(E) + LAST, "", E, Cause.COMPLETE, id="whole"),
        pytest.param(chunked(E, b"data: 2") + LAST, "", E + b"data: 2", Cause.COMPLETE, id="a tail"),
        pytest.param(chunked(E), "", E, None, id="the body was cut"),
        pytest.param(chunked(E, b"data") + b"x", "", E, Cause.NONSENSE, id="no chunk"),
        pytest.param(chunked(E) + LAST, "[DONE]", E, Cause.TRUNCATED, id="no marker"),
        pytest.param(chunked(E, b"data: 2") + LAST, "[DONE]", E, Cause.TRUNCATED, id="tail dropped"),
        pytest.param(
            chunked(b"data: [DONE]\n") + LAST, "[DONE]", b"data: [DONE]\n", Cause.COMPLETE, id="tail"
        ),
        pytest.param(LAST, "", b"", Cause.COMPLETE, id="nothing at all"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [BIG, 1])
def test_endings(sent: bytes, marker: str, out: bytes, cause: Cause | None, size: int) -> None:
    completion = Completion(marker.encode()) if marker else None
    assert through(Intake(CHUNKED, BIG, completion), cut(sent, size)) == (out, cause)


def test_a_body_of_no_bytes_ends_at_once() -> None:
    intake = Intake(0, BIG)
    assert intake.done
    assert intake.ending is not None
    assert (intake.feed(b""), intake.ending.cause) == (b"", Cause.COMPLETE)
    assert EventFlow(0, CHUNKED, BIG).feed(b"") == LAST
    coded = Intake(0, BIG, coding=b"gzip")
    assert coded.ending is not None
    assert coded.ending.cause is Cause.TRUNCATED


@pytest.mark.parametrize("size", [BIG, 7, 1])
@pytest.mark.parametrize("translated", [True, False])
def test_an_event_over_the_limit_ends_an_exact_stream(translated: bool, size: int) -> None:
    """Those before it arrive, and it ends the stream in whatever pieces it comes: also in one that
    has its end.
    """
    longest = b"data: " + b"x" * 32 + b"\n\n"  # 40 bytes
    for over in (b"data: " + b"y" * 33 + b"\n\n", b"data: " + b"y" * 33, b":" + b"z" * 99):
        made = Intake(UNTIL_CLOSE, 40, None, translator() if translated else None, exact=True)
        out, cause = through(made, cut(longest + E + over + E, size))
        assert interpret(out) == interpret(longest + E)
        assert cause is Cause.TOO_LARGE
        assert made.held == 0
    made = Intake(UNTIL_CLOSE, 40, exact=True)
    assert through(made, cut(longest * 3, size)) == (longest * 3, Cause.COMPLETE)


def test_an_exact_stream_has_whole_events_only() -> None:
    """No byte order mark, no tail; but a last word without its blank line is made whole."""
    made = Intake(UNTIL_CLOSE, BIG, Completion(b"[DONE]"), exact=True)
    out = through(made, [b"\xef\xbb\xbf", E + b"data: [DONE]"])
    assert out == (E + b"data: [DONE]\n\n", Cause.COMPLETE)
    assert through(Intake(UNTIL_CLOSE, BIG, exact=True), [E + b"data: 2"]) == (E, Cause.COMPLETE)


@pytest.mark.parametrize("size", [BIG, 5, 1])
def test_a_marker_inside_an_event_that_passes_unframed_is_none(size: int) -> None:
    """Its lines do not make an event of their own, wherever the pieces are cut; what follows does."""
    long = b"data: " + b"x" * 30
    for stream, cause in (
        (long + b"\ndata: [DONE]\ndata: y\n\n", Cause.TRUNCATED),
        (long + b"\ndata: [DONE]\n\n", Cause.TRUNCATED),
        (long + b"\r\n\r\ndata: [DONE]\r\n\r\n", Cause.COMPLETE),
        (b"data:" + b" " * 20 + b"[DONE]\n\n", Cause.TRUNCATED),  # too long itself
    ):
        completion = Completion(b"[DONE]")
        assert through(Intake(UNTIL_CLOSE, 20, completion), cut(stream, size)) == (stream, cause)


# -- any bytes in any pieces -----------------------------------------------------------------------

TOKENS = [
    *(b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n", b":", b"x", b"\xef\xbb\xbf", b"\xef"),
    *(b"data", b"data: a", b"event: end", b"event: e\n", b"id: 1", b"retry: 5", b"data: [DONE]"),
    *(b"data: a\n\n", b"data: [DONE]\n\n", b":\n\n", b"x" * 30, b"data: " + b"y" * 40),
]
payloads = st.lists(st.sampled_from(TOKENS), max_size=20).map(b"".join)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[int, bytes]:
    """A framing, and a body in it that may be broken at its end."""
    payload = draw(payloads)
    if draw(st.booleans()):
        return UNTIL_CLOSE, payload
    size = draw(st.integers(1, 30))
    return CHUNKED, chunked(*cut(payload, size)) + draw(st.sampled_from([LAST, b"", b"z\r\n"]))


KINDS = ["plain", "marker", "exact", "translated", "rules"]


def intake(kind: str, framing: int, max_event: int) -> Intake:
    if kind == "translated":
        return Intake(framing, max_event, None, translator())
    if kind == "rules":
        return Intake(framing, max_event, None, translator(Rule("e"), Rule("end", last=True)))
    completion = Completion(b"[DONE]|event:end") if kind == "marker" else None
    return Intake(framing, max_event, completion, exact=kind == "exact")


@settings(deadline=None, max_examples=600)
@example((UNTIL_CLOSE, b"data: [DONE]\n\n"), [3, 12], "marker", 8)
@example((UNTIL_CLOSE, b"\xef\xbb\xbfdata: [DONE]\n\n"), [3], "marker", BIG)
@example((CHUNKED, chunked(b"\xef\xbb\xbfdata: [DONE]\n\n") + LAST), [1], "marker", BIG)
@example((UNTIL_CLOSE, b"event: end\ndata\n\n" + b"x" * 40 + b"\n\n"), [17], "rules", 32)
@example((UNTIL_CLOSE, b"data: a\r\n\r\n" + b"x" * 30 + b"\r\n\r\n"), [5, 10, 41], "exact", 32)
@given(
    bodies(),
    st.lists(st.integers(0, 400), max_size=8),
    st.sampled_from(KINDS),
    st.sampled_from([8, 32, BIG]),
)
def test_any_body_in_any_pieces(
    body: tuple[int, bytes], cuts: list[int], kind: str, max_event: int
) -> None:
    framing, sent = body
    cuts = sorted(at for at in cuts if at < len(sent))
    pieces = [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True) if sent[a:b]]
    whole = through(intake(kind, framing, max_event), [sent] if sent else [])
    split = through(intake(kind, framing, max_event), pieces)
    assert split[1] == whole[1]
    # Where it ends too early, blank lines behind the last event may have passed
    if kind == "exact":
        assert split[0].rstrip(b"\r\n") == whole[0].rstrip(b"\r\n")
    else:
        assert split[0] == whole[0]
    bytewise = intake(kind, framing, max_event)
    for at in range(len(sent)):
        if bytewise.done:
            break
        bytewise.feed(sent[at : at + 1])
        assert bytewise.held <= max_event


# -- what is held ----------------------------------------------------------------------------------


def traced(intake: Intake, pieces: Iterator[bytes]) -> int:
    """Bytes of memory that the stream took at most."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for piece in pieces:
            intake.feed(piece)
            if intake.done:
                break
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_a_tail_costs_its_length_however_small_its_pieces(size: int) -> None:
    """1. An event of 256 KiB comes two bytes at a time. It took 32 times its length."""
    flow = EventFlow(UNTIL_CLOSE, CHUNKED, BIG)
    total = 256 * 1024
    peak = traced(flow, (b"x" * size for _ in range(total // size)))
    assert flow.held == total // size * size
    assert peak < 2.5 * total  # a growing buffer is copied now and then: twice, and a little


@pytest.mark.parametrize("piece", [b"x" * 4096, b"x\n" * 1000, b"xx", b"data: x\r"], ids=len)
def test_an_event_without_end_in_a_translated_stream_is_bounded(piece: bytes) -> None:
    """1. A route translates. 2. Its upstream sends an event that never ends. It was held to the
    last byte, and nothing said so.
    """
    limit = 64 * 1024
    flow = EventFlow(UNTIL_CLOSE, CHUNKED, limit, translator=translator())
    peak = traced(flow, (piece for _ in range(2 * 1024 * 1024 // len(piece))))
    assert flow.ending is not None
    assert flow.ending.cause is Cause.TOO_LARGE
    assert peak < 4 * limit
    assert flow.cut_off(b"data: sorry\n\n") == chunked(b"data: sorry\n\n")


def test_a_step_of_a_translated_stream_is_bounded() -> None:
    """1. A read is full of the shortest events. 2. Some are translated; the others wait for the next
    turn, and are counted in `held`.
    """
    seen: list[Event] = []

    def count(event: Event) -> Iterable[Event]:
        seen.append(event)
        return [event]

    flow = EventFlow(UNTIL_CLOSE, CHUNKED, BIG, translator=Translator(Translation("t", (), count)))
    read = b"data:1\n\n" * 8192
    flow.feed(read)
    steps = 1
    while flow.pending:
        assert len(seen) <= steps * TRANSLATED_AT_ONCE // 8
        assert flow.held == len(read) - steps * TRANSLATED_AT_ONCE
        flow.feed(b"")
        steps += 1
    assert (len(seen), flow.held, flow.ending) == (8192, 0, None)


def test_what_is_pending_comes_before_the_end() -> None:
    """The last chunk came in the same read: the stream is complete when all of it was translated."""
    flow = EventFlow(CHUNKED, CHUNKED, BIG, translator=translator())
    out = flow.feed(chunked(b"data:1\n\n" * 2000) + LAST)
    assert flow.pending
    assert not flow.done
    while flow.pending:
        out += flow.feed(b"")
    assert (out.count(b"data: 1\n\n"), out.endswith(LAST), flow.done) == (2000, True, True)


@pytest.mark.parametrize(
    ("event", "cause"),
    [
        (b"data: " + b"[" + b"[]," * 300_000 + b"[]]\n\n", Cause.NONSENSE),
        (b'data: {"a": "' + b"[,:{" * 200_000 + b'"}\n\n', None),
        (b"data:\n" * 100_000 + b"\n", Cause.TOO_LARGE),
        (b":\r" * 100_000 + b"data: 1\r\r", Cause.TOO_LARGE),
    ],
    ids=["values", "text", "lines", "comments"],
)
def test_what_is_small_on_the_wire_and_large_when_built_is_not_built(
    event: bytes, cause: Cause | None
) -> None:
    """1. An event of a megabyte to translate is 300,000 lists, or 100,000 lines. 2. It ends its stream;
    nothing is built. One that is just a long text passes.
    """
    flow = EventFlow(UNTIL_CLOSE, CHUNKED, BIG, translator=translator(Rule("message")))

    def pieces() -> Iterator[bytes]:
        for piece in cut(event, 60_000):
            yield piece
            while flow.pending:
                yield b""

    peak = traced(flow, pieces())
    assert (flow.ending.cause if flow.ending else None) == cause
    assert peak < 8 * len(event)  # some copies of it; built, it would be thirty times as much
