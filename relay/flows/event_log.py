"""The log of one run: the events it brought, in order, and one end. And a view: one reader's place in it.

    append(event) ─► [ … first ………… last ] ─► read(behind a cursor) ─► the same bytes objects, for every reader
                      trimmed ◄┘

Rules
  * An event is kept as the chunk that HTTP/1.1 readers get (RFC 9112 §7.1), made once: a thousand readers are sent one
    object. Other readers get it without the framing.
  * Sequence numbers start at 1 and have no holes. The oldest events go first, whole, once the log is over its limit; the
    newest one always stays. So a log holds at most `limit` bytes and one event.
  * A sealed log never grows, and is sealed once.
  * A view has a cursor and no queue. What its client did not take of an event is a slice of the log's own object, so a
    thousand readers that stand still hold nothing but what they pin: one event each, shared.
  * What is missing is said: a view whose next event was trimmed says a gap first, once per hole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from relay.http.bodies import chunk, last_chunk

# Bytes a view is given at once: a send of this size costs little more than one of 100 bytes
READ: Final = 64 * 1024
# Trimmed places before the list is cut (arbitrary: a cut moves every place behind it)
_TIDY: Final = 512


class End(NamedTuple):
    """The end of a run, the same for whoever reads to it.

    Attributes:
        clean: the source ended as it should.
        over: nobody should begin this run again: it was stopped, or its completion marker was seen.
        last_words: the terminal event, with the id `<run>-end`; b"" where there is none.
        abort: the body is left without its last chunk.
    """

    clean: bool
    over: bool = False
    last_words: bytes = b""
    abort: bool = False


class EventLog:
    """Events of one run.

    Attributes:
        first: the sequence number of the oldest event kept (`last + 1`: none is).
        last: that of the newest one; 0 before the first.
        size: bytes kept, framing included.
        total: bytes appended ever, framing included.
        end: None while the run is under way.
    """

    __slots__ = ("_base", "_events", "end", "first", "last", "limit", "size", "total")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.first = 1
        self.last = 0
        self.size = 0
        self.total = 0
        self.end: End | None = None
        self._events: list[bytes] = []  # from `_base` on; b"" where trimmed
        self._base = 1

    def append(self, event: bytes) -> bytes:
        """Keep one whole event. Returns: it as a chunk, the object that is kept."""
        assert self.end is None, "a sealed log never grows"
        wire = chunk(event)
        self._events.append(wire)
        self.last += 1
        size = len(wire)
        self.total += size
        self.size += size
        if self.size > self.limit:
            self._trim(self.limit)
        return wire

    def extend(self, first: int, wires: Sequence[bytes]) -> None:
        """Keep events that another process has numbered, as chunks. What is between them and those before is missing."""
        assert self.end is None, "a sealed log never grows"
        if first != self.last + 1:
            self.drop()
            self._base = self.first = first
            self.last = first - 1
        self._events += wires
        self.last += len(wires)
        size = sum(map(len, wires))
        self.total += size
        self.size += size
        if self.size > self.limit:
            self._trim(self.limit)

    def seal(self, end: End) -> bool:
        """End the run. Returns: whether this was the one that did."""
        if self.end is not None:
            return False
        self.end = end
        return True

    def shrink(self, size: int) -> int:
        """Trim to `size` bytes, or to the newest event. Returns: the bytes that this frees."""
        before = self.size
        self._trim(size)
        return before - self.size

    def drop(self) -> int:
        """Forget every event (the run has expired, or its room is needed). Returns: the bytes that this frees."""
        freed = self.size
        self._events.clear()
        self._base = self.first = self.last + 1
        self.size = 0
        return freed

    def wire(self, seq: int) -> bytes:
        """One event that is kept, as a chunk."""
        return self._events[seq - self._base]

    def some(self, after: int, most: int = READ) -> list[bytes]:
        """Events behind `after`, which stands within the log: about `most` bytes, and one at least if there is one."""
        events = self._events
        at = after + 1 - self._base
        stop, size = at, 0
        count = len(events)
        while stop < count and (size < most):
            size += len(events[stop])
            stop += 1
        return events[at:stop]

    def _trim(self, limit: int) -> None:
        events = self._events
        at = self.first - self._base
        newest = len(events) - 1
        while self.size > limit and at < newest:
            self.size -= len(events[at])
            events[at] = b""
            at += 1
        if at > _TIDY and at * 2 > len(events):
            del events[:at]
            self._base += at
            at = 0
        self.first = self._base + at


Gap = Callable[[int, int], tuple[bytes, bool]]
"""What a view says about a hole: (the cursor, or NAMED; the first event kept) -> one block, and whether it is the reader's
end. Asked again where more was trimmed before a byte of it went out."""

NAMED: Final = -1  # instead of a cursor: what the reader named, which is no place in this log


class View:
    """One reader's place in a log: `take` what is due, say with `sent` how much of it went out.

    Attributes:
        cursor: the last event that was handed out whole, or in part (the rest is then in `pending`).
        chunked: how the body is framed for this reader.
        pending: what is to go out before anything else: the rest of an event, or words to this reader alone.
        done: nothing is to come any more; `aborted` says how the body ends.
        gaps: holes that this reader was told of.
        skipped: sequence numbers that it was never handed: those before its beginning, and in holes.
    """

    __slots__ = (
        "_batch",
        "_behind",
        "_finishing",
        "_gap",
        "_unsaid",
        "aborted",
        "chunked",
        "cursor",
        "done",
        "gaps",
        "log",
        "pending",
        "skipped",
    )

    def __init__(self, log: EventLog, cursor: int, gap: Gap, *, chunked: bool, hole: bool) -> None:
        """hole: a gap is said first, whatever the cursor (the reader's own run is gone)."""
        self.log = log
        self.cursor = cursor
        self.pending: memoryview | None = None
        self.done = False
        self.aborted = False
        self.gaps = 0
        self.skipped = cursor
        self._gap = gap
        self.chunked = chunked
        self._finishing = False
        self._batch: list[bytes] = []
        self._behind = NAMED  # the cursor before the hole that is being told of
        self._unsaid = False  # `pending` tells of a hole, and no byte of it went out
        if hole:
            self._say_gap(NAMED)

    @property
    def events(self) -> int:
        """How many events were handed out."""
        return self.cursor - self.skipped

    @property
    def at_tail(self) -> bool:
        """Whether nothing is due: this reader has all that there is, whole."""
        return self.pending is None and self.cursor >= self.log.last and not self._finishing

    def words(self, block: bytes) -> bool:
        """Say `block` to this reader alone. Returns: False while an event is half out; then it is not said."""
        if self.pending is not None or self._finishing:
            return False
        self.pending = memoryview(self._framed(block))
        return True

    def take(self, most: int = READ) -> bytes | memoryview:
        """What is to be sent now; empty at the tail of a run that is under way, or when all is said (`done`)."""
        self._batch = []
        log = self.log
        if self.pending is not None:
            if self._unsaid and self.cursor < log.first - 1:
                self._tell()  # the hole has grown: it is told of once
            return self.pending
        if self.cursor < log.first - 1 and not self._finishing:
            self._say_gap(self.cursor)
            if self.pending is not None:  # there are dialects in which nothing is said
                return self.pending
        if self.cursor < log.last and not self._finishing:
            events = log.some(self.cursor, most)
            if not self.chunked:
                events = [bare(event) for event in events]
            self._batch = events
            return events[0] if len(events) == 1 else b"".join(events)
        if log.end is not None and not self.done:
            return self._finish(log.end)
        return b""

    def sent(self, size: int) -> None:
        """So many bytes of what `take` gave went out."""
        if self.pending is not None:
            self._unsaid = self._unsaid and not size
            if size < len(self.pending):
                self.pending = self.pending[size:]
                return
            self.pending = None
            self.done = self.done or self._finishing
            return
        for event in self._batch:
            if size <= 0:
                break
            self.cursor += 1
            if size < len(event):
                self.pending = memoryview(event)[size:]
            size -= len(event)
        self._batch = []

    def leave(self, block: bytes, *, abort: bool) -> bool:
        """End this view before its run: `block` and then no more. Returns: False while an event is half out (the half is
        then all that its reader gets, and the body is aborted)."""
        whole = self.pending is None
        self._finishing = True
        self.aborted = abort or not whole
        words = self._framed(block) if block and whole else b""
        if not self.aborted and self.chunked:
            words += last_chunk([])
        self.pending = memoryview(words) if words else None
        self.done = self.pending is None
        return whole

    def _say_gap(self, behind: int) -> None:
        self.gaps += 1
        self._behind = behind
        self._tell()

    def _tell(self) -> None:
        first = self.log.first
        block, is_end = self._gap(self._behind, first)
        self.skipped += first - 1 - self.cursor
        self.cursor = first - 1
        if is_end:
            self.leave(block, abort=False)
        elif block:
            self.pending = memoryview(self._framed(block))
            self._unsaid = True

    def _finish(self, end: End) -> bytes | memoryview:
        self._finishing = True
        self.aborted = end.abort
        words = self._framed(end.last_words) if end.last_words else b""
        if not end.abort and self.chunked:
            words += last_chunk([])
        self.pending = memoryview(words) if words else None
        self.done = self.pending is None
        return self.pending if self.pending is not None else b""

    def _framed(self, block: bytes) -> bytes:
        return chunk(block) if self.chunked and block else block


def bare(wire: bytes) -> bytes:
    """The payload of one chunk."""
    return wire[wire.index(b"\n") + 1 : -2]
