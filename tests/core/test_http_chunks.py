"""The chunked coding: what is a size line, what a body may carry beside its payload, in any split."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.flows.bytes_flow import BytesFlow
from relay.http import bodies
from relay.http.bodies import MAX_CHUNK_LINE, MAX_EXTENSIONS, MAX_TRAILER_FIELDS, ChunkReader
from relay.http.fault import Fault
from relay.http.framing import CHUNKED

LAST = b"0\r\n\r\n"
Outcome = tuple[str, bytes]


def read(data: bytes, cuts: list[int] | None = None) -> Outcome:
    """What becomes of a body that comes in these pieces, and the payload that arrived."""
    reader = ChunkReader("upstream")
    got = b""
    ends = [*(cuts or []), len(data)]
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        if start == end or reader.done:
            continue
        try:
            got += reader.feed(data[start:end])
        except Fault as fault:
            return fault.code, got + fault.passed
    return "whole" if reader.done else "more", got


def every_way(data: bytes) -> Outcome:
    """The same however it is split."""
    whole = read(data)
    assert read(data, list(range(1, len(data)))) == whole, "byte by byte"
    for cut in range(1, len(data)):
        assert read(data, [cut]) == whole, f"cut at {cut}"
    return whole


RIGHT = [
    b"5", b"05", b"A;a".replace(b"A", b"5"), b"5;a=b", b"5;a;b=c;d", b'5;a="b"', b'5;a="b;c=d"', b'5;a=""',
    # RFC 9112 §7.1.1: BWS around `;` and `=`.
    b"5; a=b", b"5 ;a", b"5 ; a = b", b"5\t;\ta\t=\tb", b"5;a ;b", b"5;a = \"b\" ; c", b"5   ;a",
    # RFC 9110 §5.6.4: pairs and obs-text in a quoted string.
    b'5;a="\\""', b'5;a="\\\\"', b'5;a="b\\;c"', b'5;a="\xe4\xf6"', b'5;a="\t b"',
]  # fmt: skip
WRONG = [
    b"5 ", b"5\t", b"5;", b"5; ", b"5;a ", b"5;a= ", b"5;a=b ", b'5;a="b" ', b"5 a", b"5 6", b" 5", b"5;;a", b"5;=b",
    b"5;a=", b"5;a==b", b"5;a=b=c", b"5;a b", b'5;a="b', b'5;a="b"c', b'5;a="\\', b"5;a=\xe4", b"5;\xe4", b"5;a\x0b",
    b"5\x0b;a", b"5\x00;a",
    b"5;a\x00", b'5;a="\x00"', b'5;a="\x7f"', b"5;a\r;b", b"5;(", b"+5", b"0x5", b"5_0", b"-5", b"5,a",
    b"", b";a", b"g", b"5\xa0", b"1234567890abcdef0",
]  # fmt: skip


@pytest.mark.parametrize("line", RIGHT)
def test_right(line: bytes) -> None:
    assert every_way(line + b"\r\nhello\r\n" + line.replace(b"5", b"0", 1) + b"\r\n\r\n") == (
        "whole",
        b"hello",
    )


@pytest.mark.parametrize("line", WRONG)
def test_wrong(line: bytes) -> None:
    assert every_way(b"2\r\nok\r\n" + line + b"\r\nhello\r\n" + LAST) == ("bad_chunk", b"ok")
    assert every_way(line.replace(b"5", b"0", 1) + b"\r\n\r\n")[0] == "bad_chunk"


@pytest.mark.parametrize("end", [b"\n", b"\r\r\n", b"\r", b"\r \n", b"\n\r\n"])
@pytest.mark.parametrize("line", [b"5", b"5;a", b"5 ; a"])
def test_line_ends(line: bytes, end: bytes) -> None:
    assert every_way(line + end + b"hello\r\n" + LAST) == ("bad_chunk", b"")


@pytest.mark.parametrize("line", RIGHT)
def test_what_goes_on_is_written_anew(line: bytes) -> None:
    flow = BytesFlow(CHUNKED, CHUNKED, "client")
    out = flow.feed(line + b"\r\nhello\r\n" + line + b"\r\nworld\r\n" + LAST)
    if line in (b"5", b"05"):
        assert out.endswith(LAST)
    assert b";" not in out
    again = ChunkReader("upstream")
    assert again.feed(out) == b"helloworld"
    assert again.done


def test_one_line_is_bounded() -> None:
    most = b"1;" + b"a" * (MAX_CHUNK_LINE - 4)
    assert read(most + b"\r\nx\r\n" + LAST) == ("whole", b"x")
    assert read(most + b"a\r\nx\r\n" + LAST) == ("bad_chunk", b"")
    assert read(most + b"aaa") == ("bad_chunk", b"")  # nobody waits for its end


@pytest.mark.parametrize("size", [1, 1000])
def test_all_of_them_are_bounded(size: int) -> None:
    """A body with more extensions than that says nothing with them."""
    chunk = b"1;" + b"a" * size + b"\r\nx\r\n"
    allowed = MAX_EXTENSIONS // (size + 1)
    assert read(chunk * allowed + LAST)[0] == "whole"
    assert read(chunk * (allowed + 2) + LAST)[0] == "bad_chunk"
    cuts = list(range(7, len(chunk) * (allowed + 2), 1000))
    assert read(chunk * allowed + LAST, cuts[: allowed // 2])[0] == "whole"
    assert read(chunk * (allowed + 2) + LAST, cuts)[0] == "bad_chunk"


def test_extensions_that_come_with_a_payload_go_on_for_ever() -> None:
    chunk = b"40;at=123\r\n" + b"x" * 64 + b"\r\n"
    body = chunk * 100_000  # ten times what is free
    reader = ChunkReader("upstream")
    assert (
        sum(len(reader.feed(body[at : at + 65536])) for at in range(0, len(body), 65536))
        == 6_400_000
    )


def test_trailers_are_bounded_in_number() -> None:
    """16 KiB of the shortest trailers would be 4,000 fields."""
    trailers = b"".join(b"x-%d: y\r\n" % number for number in range(MAX_TRAILER_FIELDS))
    assert read(b"1\r\nx\r\n0\r\n" + trailers + b"\r\n") == ("whole", b"x")
    assert read(b"1\r\nx\r\n0\r\n" + trailers + b"a:\r\n\r\n") == ("bad_chunk", b"x")
    assert read(b"0\r\n" + b"a:\r\n" * 3000 + b"\r\n") == ("bad_chunk", b"")


def test_sizes_of_one_peer_do_not_slow_the_others_down() -> None:
    """1. A peer writes more sizes than are remembered. 2. Another stream begins. 3. Its size is learnt, and
    its reads pass as they are.
    """
    for size in range(1, 2 * bodies.MAX_SIZES):
        hostile = ChunkReader("client")
        hostile.feed(b"%015x\r\n%b\r\n" % (size, b"x" * size))
        assert len(bodies.PLAIN_SIZES) <= bodies.MAX_SIZES
    reader = ChunkReader("upstream")
    event = b"123\r\n" + b"x" * 0x123 + b"\r\n"
    reader.feed(event)
    reader.feed(event)
    assert reader.whole


def test_the_work_for_a_byte_is_bounded() -> None:
    """Counted in calls of Python and C: a line is looked at once, whatever stands in it."""

    def calls(data: bytes) -> float:
        count = 0

        def on_event(frame: object, event: str, arg: object) -> None:
            nonlocal count
            count += event in ("call", "c_call")

        reader = ChunkReader("upstream")
        sys.setprofile(on_event)
        try:
            reader.feed(data)
        except Fault:
            pass
        finally:
            sys.setprofile(None)
        return count / len(data)

    tiny = b"9;a\r\nxxxxxxxxx\r\n"
    assert calls(tiny * 4000) < 1
    assert calls(b"2\r\n\r\n\r\n" * 8000) < 1  # line ends in the payload: no run of plain chunks
    assert calls((b"1;" + b";a" * 400 + b"\r\nx\r\n") * 80) < 1


# -- any line --------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        b"5",
        b"0",
        b";",
        b"=",
        b" ",
        b"\t",
        b"a",
        b'"',
        b"\\",
        b"\r\n",
        b"\n",
        b"hello",
        b"\r\nhello\r\n",
        b"\x00",
        LAST,
    ]
)


@given(st.lists(PIECES, max_size=12), st.lists(st.integers(1, 60), max_size=4))
def test_any_bytes_in_any_split(pieces: list[bytes], cuts: list[int]) -> None:
    data = b"".join(pieces)
    within = sorted({cut for cut in cuts if cut < len(data)})
    split, whole = read(data, within), read(data)
    if "more" not in (split[0], whole[0]):
        assert split == whole
    else:
        assert split == whole or split[0] == "bad_chunk" or whole[0] == "bad_chunk"


def grammar(line: bytes) -> bool:
    """RFC 9112 §7.1.1, read by hand."""
    token = set(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    at = 0

    def skip(allowed: Callable[[int], bool]) -> int:
        nonlocal at
        start = at
        while at < len(line) and allowed(line[at]):
            at += 1
        return at - start

    if not 0 < skip(lambda c: c in b"0123456789abcdefABCDEF") < 16:
        return False
    while at < len(line):
        skip(lambda c: c in b" \t")
        if line[at : at + 1] != b";":
            return False
        at += 1
        skip(lambda c: c in b" \t")
        if not skip(lambda c: c in token):
            return False
        back = at
        skip(lambda c: c in b" \t")
        if line[at : at + 1] != b"=":
            at = back
            continue
        at += 1
        skip(lambda c: c in b" \t")
        if line[at : at + 1] != b'"':
            if not skip(lambda c: c in token):
                return False
            continue
        at += 1
        while at < len(line) and line[at] != ord('"'):
            at += 1 + (line[at] == ord("\\"))
        if at >= len(line):
            return False
        at += 1
    return True


@given(st.text('5a;= \t"\\!', max_size=10))
def test_a_line_is_what_the_grammar_says(text: str) -> None:
    line = ("5" + text).encode()
    size = int(line.partition(b";")[0].strip(b" \t") or b"x", 16) if grammar(line) else 0
    outcome = read(line + b"\r\n" + b"x" * size + b"\r\n" + LAST)[0] if size < 4096 else "whole"
    assert (outcome == "whole") == grammar(line)
