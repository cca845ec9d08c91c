"""Blocks one by one: split, told apart, stamped with an id."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.sse.blocks import Kind, blocks, kind, last_id, retry, stamp
from relay.sse.event import EventParser
from relay.sse.scanner import BoundaryScanner

END = st.sampled_from([b"\n", b"\r\n", b"\r"])
LINE = st.sampled_from(
    [
        b"data: a",
        b"data",
        b"event: x",
        b"id: 7",
        b"id",
        b": ping",
        b"retry: 5",
        b"x",
        b"data:",
        b"da",
    ]
)
BLOCK = st.lists(st.tuples(LINE, END), min_size=1, max_size=4)


def _written(stream: list[tuple[list[tuple[bytes, bytes]], bytes]]) -> list[bytes]:
    """Each block as bytes. A CR is never followed by a LF that would turn two line ends into one."""
    out: list[bytes] = []
    for lines, blank in stream:
        text = b"".join(line + end for line, end in lines)
        last = lines[-1][1]
        out.append(text + (last if last == b"\r" and blank == b"\n" else blank))
    return out


@given(st.lists(st.tuples(BLOCK, END), max_size=6))
def test_what_was_written_as_blocks_is_split_into_them(
    stream: list[tuple[list[tuple[bytes, bytes]], bytes]],
) -> None:
    written = _written(stream)
    for before, after in itertools.pairwise(written):
        assert not (before.endswith(b"\r") and after.startswith(b"\n"))
    assert blocks(b"".join(written)) == written


@pytest.mark.parametrize(
    ("whole", "found"),
    [
        (b"", []),
        (b"\n", []),
        (b"\n\ndata: a\n\n", [b"data: a\n\n"]),
        (b"data: a\n\n\n\n\ndata: b\n\n", [b"data: a\n\n", b"data: b\n\n"]),
        (b"\ndata: a\r\n\r\n", [b"data: a\r\n\r\n"]),  # the LF of a CRLF whose CR ended a block
        (b"data: a\r\r\ndata: b\n\r", [b"data: a\r\r\n", b"data: b\n\r"]),
        (b"\r\r\n\n", []),
    ],
)
def test_blank_lines_between_blocks_belong_to_none(whole: bytes, found: list[bytes]) -> None:
    assert blocks(whole) == found


@given(st.lists(st.tuples(BLOCK, END), min_size=1, max_size=6), st.data())
def test_an_id_is_all_that_a_stamp_changes(
    stream: list[tuple[list[tuple[bytes, bytes]], bytes]], data: st.DataObject
) -> None:
    for number, block in enumerate(_written(stream)):
        event_id = b"%b-%d" % (b"r" * 22, number)
        stamped = stamp(block, event_id)
        assert stamped.replace(b"id: " + event_id, b"", 1).count(b"id: ") == block.count(b"id: ")
        before, after = EventParser(), EventParser()
        cut = data.draw(st.integers(0, len(stamped)))
        events = after.feed(stamped[:cut]) + after.feed(stamped[cut:])
        assert [(e.data, e.event, e.retry) for e in before.feed(block)] == [
            (e.data, e.event, e.retry) for e in events
        ]
        assert after.last_event_id == event_id.decode()
        scanner = BoundaryScanner()
        assert scanner.feed(stamped) == len(stamped)
        assert scanner.blocks == 1
        assert last_id(stamped) == event_id


@pytest.mark.parametrize(
    ("block", "is_a"),
    [
        (b"data: a\n\n", Kind.EVENT),
        (b"data\r\r", Kind.EVENT),
        (b": c\ndata: a\n\n", Kind.EVENT),
        (b"event: x\n\n", Kind.EVENT),
        (b"id: 1\revent\r\r", Kind.EVENT),
        (b"id: 1\n\n", Kind.SILENT),
        (b"retry: 10\r\n\r\n", Kind.SILENT),
        (b"datax: 1\n\n", Kind.SILENT),
        (b": ping\n: pong\n\n", Kind.COMMENT),
        (b":\n\n", Kind.COMMENT),
        (b":data: a\n:event: b\n\n", Kind.COMMENT),
    ],
)
def test_what_a_block_is_to_a_reader(block: bytes, is_a: Kind) -> None:
    assert kind(block) is is_a


@pytest.mark.parametrize(
    ("block", "value"),
    [
        (b"data: a\n\n", None),
        (b"id: 1\nid: 2\n\n", b"2"),
        (b"id\n\n", b""),
        (b"id:  2\r\r", b" 2"),
        (b"id: 1\nid: a\0b\n\n", b"1"),
        (b"data: id: 4\n\n", None),
    ],
)
def test_the_last_id_counts(block: bytes, value: bytes | None) -> None:
    assert last_id(block) == value


@pytest.mark.parametrize(
    ("block", "value"),
    [
        (b"retry: 15\n\n", 15),
        (b"retry: 1s\n\n", None),
        (b"data: retry: 5\n\n", None),
        (b"retry:7\r\r", 7),
    ],
)
def test_a_reconnection_time_is_digits(block: bytes, value: int | None) -> None:
    assert retry(block) == value
