"""Boundaries, counts and the places where relay may speak, against the oracle."""

from __future__ import annotations

import sys
from types import FrameType

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relay.sse import HEARTBEAT, BoundaryScanner, EventParser, farewell, terminal_event
from tests.core.sse_oracle import boundaries, interpret
from tests.core.test_sse_vectors import VECTORS, Vector, every_vector, read

BOM = b"\xef\xbb\xbf"
# What makes a difference to the format, and a little that does not.
TOKENS = [
    *(b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n", b":", b" ", b"x", b"\0", BOM, b"\xef"),
    *(b"data", b"data:", b"data: a", b"dat", b"event: e", b"id: 1", b"id", b"retry: 5", b"\xc3"),
    *(b"data: a\n\n", b"data: a\r\n\r\n", b":\n\n", b"event: e\ndata: a\n\n"),
]
streams = st.lists(st.sampled_from(TOKENS) | st.binary(max_size=3), max_size=14).map(b"".join)


# Many blocks in one read: most of them are counted together and not walked through.
BLOCKS = [*TOKENS[-4:], b"\n", b"\r", b"\r\n", b"data\n", b"x\n\n", b"id\r\r"]
floods = st.lists(st.sampled_from(BLOCKS), max_size=60)


@st.composite
def split_floods(draw: st.DrawFn) -> list[bytes]:
    stream = b"".join(draw(floods))
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=2)))
    return [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


@st.composite
def split_streams(draw: st.DrawFn) -> list[bytes]:
    stream = draw(streams)
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    return [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


def check_against_the_oracle(pieces: list[bytes]) -> None:
    """After each piece: the offset is the last boundary in it, the counts are those at the
    boundary.
    """
    scanner = BoundaryScanner()
    known = boundaries(b"".join(pieces))
    position = events = 0
    for piece in pieces:
        offset = scanner.feed(piece)
        here = [b for b in known if position < b.offset <= position + len(piece)]
        assert offset == (here[-1].offset - position if here else 0)
        position += len(piece)
        past = [b for b in known if b.offset <= position]
        assert (scanner.events, scanner.blocks) == (past[-1][1:] if past else (0, 0))
        assert scanner.comments == scanner.blocks - scanner.events
        assert scanner.between == (position == (past[-1].offset if past else 0))
        assert scanner.progressed == (scanner.events > events)
        events = scanner.events
    assert scanner.bom == b"".join(pieces).startswith(BOM)


@every_vector
def test_vectors_whole_bytewise_and_in_two(vector: Vector) -> None:
    stream = vector.stream
    check_against_the_oracle([stream])
    check_against_the_oracle([stream[at : at + 1] for at in range(len(stream))])
    for at in range(min(len(stream), 200)):
        check_against_the_oracle([stream[:at], stream[at:]])


@settings(deadline=None, max_examples=500)
@example([b"data: a\n\n", b"\xef\xbb\xbf", b"data: b\n\n"])  # the typical read, then no mark
@example([BOM + b"event: e\ndata: a\n\n"])  # a typical read but for the mark
@example([b"data: a\r\n\r", b"data: b\n\n", b"\n", b"data: c\n\n"])
@given(split_streams())
def test_any_stream_in_any_split(pieces: list[bytes]) -> None:
    check_against_the_oracle(pieces)
    assert read(pieces) == interpret(b"".join(pieces))


@settings(deadline=None, max_examples=500)
@given(split_floods())
def test_many_blocks_in_any_split(pieces: list[bytes]) -> None:
    check_against_the_oracle(pieces)


@settings(deadline=None, max_examples=500)
@given(split_streams(), st.sets(st.integers(0, 9)))
def test_words_between_events_change_nothing(pieces: list[bytes], places: set[int]) -> None:
    """A relay that holds the tail and speaks at offsets that `feed` reported, at any of them."""
    scanner = BoundaryScanner()
    sent = held = b""
    first = True
    for at, piece in enumerate(pieces):
        if at in places:  # nothing of an unfinished event has been sent, whatever is held
            sent += HEARTBEAT
        offset = scanner.feed(piece)
        whole = held + piece[:offset] if offset else b""
        held = piece[offset:] if offset else held + piece
        if whole and first:
            first = False
            whole = whole.removeprefix(BOM) if sent and scanner.bom else whole
        sent += whole
    stream = b"".join(pieces)
    got = interpret(sent + HEARTBEAT)
    assert got[:2] == interpret(stream)[:2]  # a `retry` in the tail was not sent
    ended = interpret(sent + terminal_event("plain", "upstream_broke", "gone\n\n", True))
    assert ended.events[:-1] == got.events
    assert ended.events[-1].data.startswith('{"type":"error"')
    assert interpret(sent + farewell(1500)).retry == 1500


@pytest.mark.parametrize("name", ["lf", "crlf", "cr", "mixed: CRLF then CR", "everything at once"])
def test_heartbeat_at_every_reported_offset(name: str) -> None:
    stream = VECTORS[name].stream
    scanner = BoundaryScanner()
    for at in range(len(stream)):
        if scanner.feed(stream[at : at + 1]):
            cut = stream[: at + 1] + HEARTBEAT + stream[at + 1 :]
            assert interpret(cut) == VECTORS[name].expected, at


@pytest.mark.parametrize(
    ("pieces", "offsets", "events", "between"),
    [
        pytest.param([b"data: a\n\n"], [9], 1, True, id="one event"),
        pytest.param([b"data: a\n\ndata: b\n\n"], [18], 2, True, id="two events"),
        pytest.param([b"data: a\n\ndata: b"], [9], 1, False, id="a tail"),
        pytest.param([b"data: a\r\n\r", b"\n"], [10, 1], 1, True, id="late LF of a boundary"),
        pytest.param([b"data: a\r", b"\n", b"\n"], [0, 0, 1], 1, True, id="late LF of a line"),
        pytest.param([b"data: a\n\n\n\n\n"], [12], 1, True, id="blank lines are boundaries"),
        pytest.param([b": c\n\n"], [5], 0, True, id="a comment is no event"),
        pytest.param([BOM, b"data: a\n\n"], [3, 9], 1, True, id="the mark goes out at once"),
        pytest.param([b"\xef", b"\xbb", b"\xbfdata: a\n\n"], [0, 0, 10], 1, True, id="not a part"),
        pytest.param([b"da", b"ta", b"\n", b"\n"], [0, 0, 0, 1], 1, True, id="data without colon"),
        pytest.param([b"dat", b"ax: a\n\n"], [0, 7], 0, True, id="another field"),
    ],
)  # fmt: skip
def test_offsets(pieces: list[bytes], offsets: list[int], events: int, between: bool) -> None:
    scanner = BoundaryScanner()
    assert [scanner.feed(piece) for piece in pieces] == offsets
    assert (scanner.events, scanner.between) == (events, between)


def steps(size: int, piece: int) -> int:
    """How many functions, Python's and C's, are called for a data line of `size` bytes in
    pieces.
    """
    pieces = [b"data: " + b"x" * piece, *[b"x" * piece] * (size // piece), b"\n\n"]
    scanner = BoundaryScanner()
    parser = EventParser()
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        for data in pieces:
            scanner.feed(data)
            parser.feed(data)
    finally:
        sys.setprofile(None)
    assert scanner.events == 1
    return calls


def test_a_long_line_costs_the_same_per_piece() -> None:
    """No step looks back: twice the pieces, twice the calls, and no call is given more than a
    piece.
    """
    once, twice, four = (steps(n * 64 * 1024, 1024) for n in (1, 2, 4))
    assert four - twice == 2 * (twice - once)


def test_nothing_of_a_long_line_is_kept() -> None:
    scanner = BoundaryScanner()
    scanner.feed(b"data: ")
    for _ in range(64):
        assert scanner.feed(b"x" * 1024) == 0
        kept = [getattr(scanner, name) for name in scanner.__slots__]
        assert sum(len(value) for value in kept if isinstance(value, bytes)) <= 5


def test_a_flood_of_blank_lines_is_one_step() -> None:
    scanner = BoundaryScanner()
    assert scanner.feed(b"\r\n" * 500_000) == 1_000_000
    assert scanner.between
    assert scanner.blocks == 0


FLOODS = {
    "comments": b":\n\n",
    "blocks without data": b"x\n\n",
    "blocks without data, CR": b"x\r\r",
    "blocks without data, mixed": b"x\r\n\nx\r\r",
    "events": b"data:\n\n",
    "events with an id in front": b"id\ndata\n\n",
    "LF": b"\n",
    "CR": b"\r",
    "lines of one event": b"a\n",
    "lines of one event, mixed": b"a\r\nb\r",
}


@pytest.mark.parametrize("unit", FLOODS.values(), ids=FLOODS)
def test_a_read_full_of_the_shortest_things_is_few_steps(unit: bytes) -> None:
    """1. A stream has begun. 2. Its upstream sends 64 KiB of comments of three bytes. The scanner
    called itself once per comment, and failed at the interpreter's limit.
    """
    scanner = BoundaryScanner()
    scanner.feed(b"data: 1\n\n")
    read = (unit * 65536)[:65536]
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        for _ in range(3):
            scanner.feed(read)
    finally:
        sys.setprofile(None)
    assert calls < 3 * 80
    check_against_the_oracle([b"data: 1\n\n", read[:4000], read[:4000]])
