"""Content codings: which one a response names, and gzip and deflate undone, whatever the bytes."""

from __future__ import annotations

import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.http.coding import MEMBERS, READABLE, Inflater, content_coding
from relay.http.fault import Fault
from tests.core.coded import FLUSHES, NAMES, WBITS, Coder, coded, in_turn

kinds = pytest.mark.parametrize("kind", WBITS)
TEXT = b"".join(b"data: %d\n\n" % (number * number) for number in range(2000))
BEHIND = "there are bytes behind the {} data"
CORRUPT = "the body is not {} data, or it is corrupt"
CUT = "the upstream ended in the middle of its {} data"


def through(kind: str, data: bytes, size: int = 1 << 20, at_once: int = 65536) -> tuple[bytes, str]:
    """What comes out in pieces of `size`, and what is wrong."""
    inflater = Inflater(NAMES[kind], at_once)
    out = b""
    try:
        for at in range(0, len(data), size):
            out += inflater.feed(data[at : at + size])
            while inflater.pending:
                step = inflater.feed(b"")
                assert len(step) <= at_once
                out += step
    except Fault as fault:
        return out + fault.passed, fault.message
    return out, inflater.unfinished()


def wrong(kind: str, what: str) -> str:
    return what.format(NAMES[kind].decode())


@pytest.mark.parametrize(
    ("values", "coding"),
    [
        ([], b""),
        ([b"gzip"], b"gzip"),
        ([b" GZip "], b"gzip"),
        ([b"x-gzip"], b"gzip"),
        ([b"deflate"], b"deflate"),
        ([b"identity"], b""),
        ([b"identity, gzip"], b"gzip"),
        ([b", gzip,"], b"gzip"),
        ([b"br"], b"br"),
        ([b"gzip, br"], b"gzip, br"),
        ([b"gzip", b"gzip"], b"gzip, gzip"),
        ([b"x-gzip", b"gzip"], b"x-gzip, gzip"),
        ([b"gzip;q=1"], b"gzip;q=1"),
    ],
)
def test_names(values: list[bytes], coding: bytes) -> None:
    assert content_coding(values) == coding
    assert (coding in READABLE) is (coding in (b"", b"gzip", b"deflate"))


@kinds
@pytest.mark.parametrize("size", [1, 2, 3, 1000, 1 << 20])
@pytest.mark.parametrize("at_once", [1, 100, 65536])
def test_any_size_of_read_and_of_step(kind: str, size: int, at_once: int) -> None:
    data = TEXT[:3000] if at_once == 1 else TEXT
    assert through(kind, coded(data, kind), size, at_once) == (data, "")


@kinds
@pytest.mark.parametrize("flush", [flush for flush in FLUSHES if flush not in ("none", "block")])
def test_what_was_flushed_comes_out_at_once(kind: str, flush: str) -> None:
    """In the step that brings its last byte; nothing waits for more."""
    if flush == "end" and kind != "gzip":
        pytest.skip("only gzip has members")
    coder = Coder(kind)
    inflater = Inflater(coder.name, 65536)
    for number in range(50):
        event = b"data: event %d\n\n" % number
        bytewise = [inflater.feed(bytes([byte])) for byte in coder.write(event, flush)]
        assert b"".join(bytewise) == event
        assert not inflater.pending
        assert inflater.held == 0 or number == 0  # one byte is not enough to know zlib from raw
    inflater.feed(coder.end())
    assert inflater.unfinished() == ""


@kinds
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_bytes_behind_the_end(kind: str, size: int) -> None:
    """All before them arrives. Only gzip may go on, with another member."""
    data = coded(TEXT, kind)
    for behind in (b"x", b"\0\0\0\0", b"data: 1\n\n"):
        assert through(kind, data + behind, size) == (TEXT, wrong(kind, BEHIND))
    twice = through(kind, data + data + coded(b"", kind) + data, size)
    assert twice == ((TEXT * 3, "") if kind == "gzip" else (TEXT, wrong(kind, BEHIND)))


@kinds
@pytest.mark.parametrize("size", [7, 1 << 20])
def test_an_end_at_every_byte(kind: str, size: int) -> None:
    """Whatever is missing, be it all or the last byte of the checksum, the data is cut."""
    data = coded(TEXT[:300], kind)
    for cut in range(len(data)):
        out, what = through(kind, data[:cut], size)
        assert TEXT.startswith(out)
        assert what == wrong(kind, CUT)


def test_an_end_inside_a_later_member() -> None:
    data = coded(b"data: 1\n\n")
    for cut in range(1, len(data)):
        out, what = through("gzip", data + data[:cut])
        assert out.startswith(b"data: 1\n\n")
        assert what == wrong("gzip", CUT)


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("gzip", TEXT),
        ("gzip", coded(TEXT, "zlib")),
        ("gzip", coded(TEXT, "raw")),
        ("zlib", TEXT),
        ("zlib", coded(TEXT)),
        ("zlib", zlib.compressobj(zdict=b"data: ").flush()),  # a dictionary that nobody sent
        ("gzip", coded(TEXT)[:-8] + b"\0" * 8),  # the checksum
    ],
)
@pytest.mark.parametrize("size", [1, 5, 1 << 20])
def test_bytes_of_another_coding(kind: str, sent: bytes, size: int) -> None:
    out, what = through(kind, sent, size)
    assert what == wrong(kind, CORRUPT)
    assert out == (TEXT if sent.endswith(b"\0" * 8) else b"")


texts = st.lists(st.sampled_from([b"data: a\n\n", b"x" * 300, b"\r\n", b"", b"\xff", TEXT[:999]]))


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(list(WBITS)),
    st.lists(st.tuples(texts.map(b"".join), st.sampled_from(list(FLUSHES))), max_size=8),
    st.lists(st.integers(0, 3000), max_size=8),
    st.sampled_from([1, 10, 4096, 65536]),
)
def test_any_flushes_in_any_pieces(
    kind: str, pieces: list[tuple[bytes, str]], cuts: list[int], at_once: int
) -> None:
    if kind != "gzip":
        pieces = [(data, "sync" if flush == "end" else flush) for data, flush in pieces]
    sent = in_turn(kind, pieces)
    inflater = Inflater(NAMES[kind], at_once)
    cuts = sorted(cut for cut in cuts if cut < len(sent))
    out = b""
    for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True):
        out += inflater.feed(sent[a:b])
        while inflater.pending:
            out += inflater.feed(b"")
    assert out == b"".join(data for data, _ in pieces)
    assert (inflater.unfinished(), inflater.held) == ("", 0)


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(list(WBITS)),
    st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), min_size=1, max_size=4),
    st.binary(max_size=8),
    st.integers(1, 600),
    st.sampled_from([7, 65536]),
)
def test_any_bytes(
    kind: str, changes: list[tuple[int, int]], behind: bytes, size: int, at_once: int
) -> None:
    """No exception but a Fault, and whatever the pieces, the same bytes and the same end."""
    sent = bytearray(coded(TEXT[:2000], kind) + behind)
    for at, byte in changes:
        sent[at % len(sent)] = byte
    whole = through(kind, bytes(sent), 1 << 20)
    assert through(kind, bytes(sent), size, at_once) == whole


# -- what an attacker may have of it ---------------------------------------------------------------


def test_a_bomb_is_given_out_in_steps() -> None:
    """1. 256 KiB of gzip are 256 MiB of zeros. 2. Each step gives 64 KiB, and nothing else is held
    but the coded bytes and the window.
    """
    coder = Coder(level=9)
    bomb = b"".join(coder.write(bytes(1 << 20), "none") for _ in range(256)) + coder.end()
    inflater = Inflater(b"gzip", 65536)
    tracemalloc.start()
    try:
        size = len(inflater.feed(bomb[:65536]))
        steps = 1
        for _ in range(200):
            assert inflater.pending
            assert inflater.held <= 65536
            size += len(inflater.feed(b""))
            steps += 1
        assert tracemalloc.get_traced_memory()[1] < 6 * 65536
    finally:
        tracemalloc.stop()
    assert size == steps * 65536


def test_a_flood_of_empty_members_is_taken_in_steps() -> None:
    member = coded(b"")
    inflater = Inflater(b"gzip", 65536)
    count = 3000
    assert inflater.feed(member * count) == b""
    steps = 1
    while inflater.pending:
        assert inflater.held == len(member) * (count - steps * MEMBERS)
        inflater.feed(b"")
        steps += 1
    assert steps == -(-count // MEMBERS)
