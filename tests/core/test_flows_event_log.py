"""A log and its views: whatever is appended, trimmed, joined and resumed in whatever order, every reader gets the original
minus what gaps declare."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from relay.flows.event_log import End, EventLog, View
from relay.http.bodies import ChunkReader


def gap(cursor: int, first: int) -> tuple[bytes, bool]:
    return b"gap %d %d\n\n" % (cursor, first), False


def event(seq: int, size: int) -> bytes:
    return b"data: %d %b\n\n" % (seq, b"x" * size)


class Reader:
    """A client of one view: takes what it likes of what it is given."""

    def __init__(self, log: EventLog, cursor: int, *, chunked: bool) -> None:
        self.view = View(log, cursor, gap, chunked=chunked, hole=False)
        self.begun_behind = cursor
        self.chunked = chunked
        self.got = bytearray()

    def take(self, most: int) -> None:
        out = bytes(self.view.take())[:most]
        if out:
            self.got += out
            self.view.sent(len(out))

    def payload(self) -> bytes:
        if not self.chunked:
            return bytes(self.got)
        return ChunkReader("upstream").feed(bytes(self.got))


class Machine(RuleBasedStateMachine):
    @initialize(limit=st.integers(1, 300))
    def start(self, limit: int) -> None:
        self.log = EventLog(limit)
        self.sizes: list[int] = []
        self.readers: list[Reader] = []
        self.end: End | None = None

    @rule(size=st.integers(0, 60))
    def append(self, size: int) -> None:
        if self.end is None:
            self.sizes.append(size)
            self.log.append(event(len(self.sizes), size))

    @rule(behind=st.integers(0, 40), chunked=st.booleans())
    def join(self, behind: int, chunked: bool) -> None:
        self.readers.append(Reader(self.log, min(behind, self.log.last), chunked=chunked))

    @rule(who=st.integers(0, 10), most=st.integers(1, 200))
    def take(self, who: int, most: int) -> None:
        if self.readers:
            self.readers[who % len(self.readers)].take(most)

    @rule(abort=st.booleans(), words=st.sampled_from([b"", b"data: bad\n\n"]))
    def seal(self, abort: bool, words: bytes) -> None:
        end = End(clean=not words, last_words=words, abort=abort)
        assert self.log.seal(end) == (self.end is None)
        self.end = self.end or end

    @invariant()
    def bounded(self) -> None:
        log = self.log
        kept = [log.wire(seq) for seq in range(log.first, log.last + 1)]
        assert log.size == sum(map(len, kept))
        assert log.size <= max(log.limit, len(kept[-1]) if kept else 0)
        assert log.last == len(self.sizes)

    def teardown(self) -> None:
        if not hasattr(self, "log"):
            return
        for reader in self.readers:
            before = None
            while not reader.view.at_tail or before != len(reader.got):
                before = len(reader.got)
                reader.take(1000)
                if reader.view.done:
                    break
            self._check(reader)

    def _check(self, reader: Reader) -> None:
        """What came is every event behind the cursor, or a gap that names exactly what is missing."""
        blocks = [block + b"\n\n" for block in reader.payload().split(b"\n\n") if block]
        if self.end is not None and self.end.last_words:
            assert blocks.pop() == self.end.last_words
        at = reader.begun_behind
        for block in blocks:
            if block.startswith(b"gap"):
                cursor, first = map(int, block.split()[1:])
                assert cursor == at
                assert first > at + 1
                at = first - 1
            else:
                at += 1
                assert block == event(at, self.sizes[at - 1])
        assert at == self.log.last
        if self.end is not None and reader.chunked:
            assert bytes(reader.got).endswith(b"0\r\n\r\n") != self.end.abort


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.integers(1, 100))
def test_readers_at_the_tail_share_one_object(sizes: list[int], limit: int) -> None:
    log = EventLog(limit)
    views = [View(log, 0, gap, chunked=True, hole=False) for _ in range(3)]
    for seq, size in enumerate(sizes, 1):
        wire = log.append(event(seq, size))
        for view in views:
            assert view.take() is wire
            view.sent(len(wire))
            assert view.at_tail


def test_a_reader_ahead_of_the_log_waits() -> None:
    log = EventLog(100)
    view = View(log, 2, gap, chunked=False, hole=False)
    for seq in (1, 2):
        log.append(event(seq, 0))
        assert not view.take()
    log.append(event(3, 0))
    assert view.take() == event(3, 0)


def test_a_reader_that_stands_in_the_middle_of_an_event_gets_the_rest_of_it_after_it_was_trimmed() -> (
    None
):
    """1. Half an event is out. 2. The log moves on and forgets it. 3. The reader gets its second half, a gap, the rest."""
    log = EventLog(40)
    view = View(log, 0, gap, chunked=False, hole=False)
    log.append(event(1, 10))
    view.take()
    view.sent(5)
    for seq in (2, 3, 4):
        log.append(event(seq, 10))
    got = b""
    while out := bytes(view.take()):
        got += out
        view.sent(len(out))
    assert got == event(1, 10)[5:] + b"gap 1 4\n\n" + event(4, 10)


def test_words_wait_for_the_end_of_an_event() -> None:
    log = EventLog(100)
    view = View(log, 0, gap, chunked=False, hole=False)
    log.append(event(1, 10))
    view.take()
    view.sent(3)
    assert not view.words(b":\n\n")
    view.sent(len(view.take()))
    assert view.words(b":\n\n")
    assert bytes(view.take()) == b":\n\n"


@pytest.mark.parametrize("half", [False, True])
def test_a_view_that_leaves_in_the_middle_of_an_event_is_aborted(half: bool) -> None:
    log = EventLog(100)
    view = View(log, 0, gap, chunked=True, hole=False)
    log.append(event(1, 10))
    out = view.take()
    view.sent(3 if half else len(out))
    assert view.leave(b"data: bye\n\n", abort=False) is not half
    assert view.aborted is half
    words = bytes(view.take())
    assert words == (b"" if half else b"b\r\ndata: bye\n\n\r\n0\r\n\r\n")
    view.sent(len(words))
    assert view.done


def test_a_sealed_log_never_grows() -> None:
    log = EventLog(100)
    assert log.seal(End(clean=True))
    assert not log.seal(End(clean=False))
    with pytest.raises(AssertionError):
        log.append(b"data: 1\n\n")


def test_a_gap_may_be_the_end() -> None:
    log = EventLog(1)
    for seq in (1, 2, 3):
        log.append(event(seq, 0))
    view = View(log, 1, lambda *_: (b"data: gap\n\n", True), chunked=False, hole=False)
    assert bytes(view.take()) == b"data: gap\n\n"
    view.sent(11)
    assert view.done and not view.aborted and not view.take()


@pytest.mark.parametrize("hole", [False, True])
def test_a_hole_that_grows_before_it_was_told_of_is_told_of_once(hole: bool) -> None:
    """1. A view is behind a hole. 2. Its client takes nothing, and the log trims on. 3. The gap names the event that comes
    next. 4. Once a byte of it is out it stands, and what is trimmed then is another hole."""
    log = EventLog(40)
    for seq in range(1, 9):
        log.append(event(seq, 10))
    view = View(log, 7 if hole else 3, gap, chunked=False, hole=hole)
    view.take()
    view.sent(0)
    log.append(event(9, 10))
    told = b"gap %d 9\n\n" % (-1 if hole else 3)
    assert bytes(view.take()) == told
    view.sent(1)
    for seq in (10, 11):
        log.append(event(seq, 10))
    got = told[:1]
    while out := bytes(view.take()):
        got += out
        view.sent(len(out))
    assert got == told + b"gap 8 11\n\n" + event(11, 10)
    assert (view.gaps, view.events) == (2, 1)
