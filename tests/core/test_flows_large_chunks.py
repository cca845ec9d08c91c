"""Large chunks that follow the sender's: whatever is looked at and whatever is not, the receiver gets the same body."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.flows.chunks_flow import LARGE, ChunksFlow
from relay.http.bodies import ChunkReader
from relay.http.fault import Fault

TAKE = 4 * LARGE  # of one splice here; less than the largest chunk
READ = 2 * LARGE
SIZES = st.sampled_from(
    [1, 9, 1000, LARGE - 1, LARGE, LARGE + 1, 2 * LARGE, 2 * LARGE + 7, 9 * LARGE]
)
LINES = st.sampled_from([b"%x", b"%X", b"0%x", b"%x;a=b"])


def body(chunks: list[tuple[int, bytes]], trailers: bytes = b"") -> bytes:
    lines = [line % size + b"\r\n" + payload_of(size) + b"\r\n" for size, line in chunks]
    return b"".join(lines) + b"0\r\n" + trailers + b"\r\n"


def payload_of(size: int) -> bytes:
    # It looks like what is between two chunks
    return (b"\r\n10000\r\n0\r\n\r\n" * (size // 14 + 1))[:size]


def decoded(data: bytes) -> tuple[bytes, bool, list[tuple[bytes, bytes]]]:
    """What a strict reader makes of what went out. Raises: Fault."""
    reader = ChunkReader("upstream")
    payload = reader.feed(data)
    assert not reader.surplus
    return payload, reader.done, reader.trailers


class Passing:
    """A pump without sockets: it takes what has come by now, in the ways that ChunkPump has."""

    def __init__(self, rest: bytes, dice: random.Random) -> None:
        self.flow = ChunksFlow("upstream")
        self.out = b""
        self.unseen = 0
        self._rest = rest
        self._dice = dice

    def take(self, limit: int) -> bytes:
        """Part of what comes: the end of what is there may be anywhere."""
        size = min(limit, self._dice.choice([1, 2, 7, 40, LARGE, limit, limit, limit]))
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def run(self) -> None:
        flow = self.flow
        while self._rest and not flow.done:
            if not flow.followed or self._dice.random() < 0.1:  # as where nothing could be spliced
                self.out += flow.feed(self.take(READ))
                continue
            if not flow.large:
                data = self.take(flow.between())
                self.out += flow.open()
                at = flow.follow(data)
                self.out += data[:at]
                if at < len(data):
                    self.out += flow.feed(data[at:])
                continue
            self.out += flow.open()
            data = self.take(flow.wanted(TAKE))
            flow.passed(len(data))
            self.unseen += len(data)
            self.out += data


@settings(deadline=None)
@given(
    st.lists(st.tuples(SIZES, LINES), max_size=8),
    st.sampled_from([b"", b"x-sum: 1\r\n"]),
    st.integers(0, 2**32),
)
def test_the_body_is_the_same(chunks: list[tuple[int, bytes]], trailers: bytes, seed: int) -> None:
    passing = Passing(body(chunks, trailers), random.Random(seed))
    passing.run()
    payload, whole, fields = decoded(passing.out)
    assert whole and passing.flow.done
    assert payload == b"".join(payload_of(size) for size, _ in chunks)
    assert passing.flow.payload_bytes == len(payload)
    assert fields == ([(b"x-sum", b"1")] if trailers else [])
    assert b";" not in passing.out, "an extension is for one hop alone (RFC 9112 §7.1.1)"


@settings(deadline=None)
@given(
    st.lists(st.tuples(SIZES, LINES), min_size=1, max_size=6),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 2**32),
)
def test_a_body_that_is_cut_stays_unfinished(
    chunks: list[tuple[int, bytes]], where: float, seed: int
) -> None:
    """1. The sender's connection ends anywhere, in a large chunk too. 2. What the receiver has is no whole body."""
    data = body(chunks)
    passing = Passing(data[: int(len(data) * where)], random.Random(seed))
    passing.run()
    assert passing.flow.eof() is None
    payload, whole, _ = decoded(passing.out)
    assert not whole
    assert b"".join(payload_of(size) for size, _ in chunks).startswith(payload)
    assert passing.flow.payload_bytes == len(payload)


@pytest.mark.parametrize(
    "wrong", [b"xx10000\r\n", b"\rx10000\r\n", b"\r\n-1\r\n", b"\r\n10000;\r\n", b"\r\n\r\n"]
)
@pytest.mark.parametrize("seed", range(20))
def test_what_is_wrong_between_two_large_chunks_is_not_passed(wrong: bytes, seed: int) -> None:
    """1. A large chunk. 2. No line that may stand behind it. 3. The fault; what came before it has arrived."""
    # The size is one that has been seen
    known = body([(2 * LARGE, b"%x")] * 2)[: -len(b"0\r\n\r\n")]
    passing = Passing(known[:-2] + wrong + payload_of(0x10000), random.Random(seed))
    with pytest.raises(Fault) as caught:
        passing.run()
    payload, whole, _ = decoded(passing.out + caught.value.passed)
    assert not whole
    assert payload == payload_of(2 * LARGE) * 2


def test_large_chunks_that_come_in_full_are_not_looked_at() -> None:
    class Full(random.Random):
        def choice(self, options: Any) -> Any:
            return options[-1]

        def random(self) -> float:
            return 1.0

    size = 2 * LARGE
    passing = Passing(body([(size, b"%x")] * 50), Full())
    passing.run()
    assert passing.unseen > 0.9 * 50 * size
    assert len(passing.out) - len(body([(size, b"%x")] * 50)) < 20, (
        "a chunk more, in which it began"
    )
