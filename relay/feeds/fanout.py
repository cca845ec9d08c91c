"""One event to all who have everything before it: the same bytes, one `send` each, nothing else per reader.

    append ─► deliver ─► slice ─► slice ─► slice         (the first in this step, the others next in line)
                           └─ a reader that takes less goes its own way, at its own cursor, and comes back at the tail

Rules
  * Readers at the tail stand in slices of at most SLICE, and a slice has one cursor for all of them. A step serves one
    slice, so a thousand readers of one run do not hold up the other streams.
  * While slices are still to be served nothing is sent ahead of them: what comes meanwhile goes out together.
  * A reader that is asleep (not on the engine) is woken, and reads for itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from relay.flows.event_log import EventLog, View, bare
from relay.http.bodies import chunk
from relay.wires.engine import Engine

SLICE: Final = 256  # readers served in one step: about a millisecond

Send = Callable[[bytes], int]


class Reader(Protocol):
    """A reader on a plain socket that has all there is."""

    view: View
    sent: int  # bytes
    place: Slice | None  # kept by Fanout

    def fell_behind(self, sent: int) -> None:
        """It stands at its view's cursor again, and of what is next its socket took so many bytes."""


class Slice:
    """Readers that stand at one cursor, and whose bodies are framed alike. `sent`: bytes that each who was there all along
    was sent."""

    __slots__ = ("chunked", "cursor", "members", "sent")

    def __init__(self, cursor: int, chunked: bool) -> None:
        self.cursor = cursor
        self.chunked = chunked
        self.members: dict[Reader, tuple[Send, int]] = {}  # and `sent` when it joined
        self.sent = 0


class Fanout:
    """The readers of one run who wait for its next event."""

    __slots__ = ("_asked", "_engine", "_log", "_slices", "crash", "sleepers")
    closed = False  # for the engine: it takes turns as long as it lives

    def __init__(self, log: EventLog, engine: Engine, crash: Callable[[Exception], None]) -> None:
        """crash: whom a bug of ours in a turn ends."""
        self.crash = crash
        self._log = log
        self._engine = engine
        self._slices: list[Slice] = []
        self._asked = False  # a turn for the slices that are behind is to come
        self.sleepers: dict[Callable[[], None], None] = {}

    def __len__(self) -> int:
        """How many stand at the tail."""
        return sum(len(place.members) for place in self._slices)

    def join(self, reader: Reader, send: Send) -> None:
        """`reader` has all there is, whole."""
        last, chunked = self._log.last, reader.view.chunked
        for place in self._slices:
            fits = place.chunked == chunked and len(place.members) < SLICE
            if fits and place.cursor == last:
                break
        else:
            place = Slice(last, chunked)
            self._slices.append(place)
        place.members[reader] = (send, place.sent)
        reader.place = place

    def leave(self, reader: Reader) -> None:
        """`reader` goes its own way, from its view's cursor on. Nothing happens if it does so already."""
        place = reader.place
        if place is None:
            return
        reader.place = None
        _, before = place.members.pop(reader)
        reader.view.cursor = place.cursor
        if not place.members:
            self._slices.remove(place)
        reader.sent += place.sent - before

    def deliver(self) -> None:
        """Events were appended, or the run has ended."""
        if self.sleepers:
            for wake in tuple(self.sleepers):
                wake()
        if self._asked or not self._slices:
            return
        if len(self._slices) > 1:
            self._turn()
            return
        [place] = self._slices
        self._serve(place)
        if place.members and place.cursor < self._log.last:
            self._ask_turn()

    def catch_up(self) -> None:
        """Let everybody who stands still for an event have all there is, in this step: the log is about to trim it, and who
        reads as fast as it comes is not to be overtaken."""
        last = self._log.last
        for place in tuple(self._slices):
            while place.members and place.cursor < last:
                self._serve(place)

    def say(self, words: bytes) -> None:
        """`words` to everybody who stands at the tail; they are not part of the log."""
        for place in tuple(self._slices):
            word = chunk(words) if place.chunked else words
            for reader, (send, _) in tuple(place.members.items()):
                size = _sent(send, word)
                if size < len(word):
                    self.leave(reader)
                    reader.view.pending = memoryview(word)
                    reader.fell_behind(size)
            place.sent += len(word)

    def _turn(self) -> None:
        """Serve the slice that is furthest behind; ask for another turn while there is one."""
        self._asked = False
        last = self._log.last
        ended = self._log.end is not None
        behind = [place for place in self._slices if ended or place.cursor < last]
        if not behind:
            return
        self._serve(min(behind, key=lambda place: place.cursor))
        if len(behind) > 1 or any(place.cursor < last for place in self._slices):
            self._ask_turn()

    def _ask_turn(self) -> None:
        self._asked = True
        self._engine.again(self, self._turn)

    def _serve(self, place: Slice) -> None:
        log, cursor = self._log, place.cursor
        if cursor >= log.last or cursor < log.first - 1:
            for reader in tuple(place.members):  # the run's end, or a hole: each says it for itself
                self.leave(reader)
                reader.fell_behind(0)
            return
        if cursor == log.last - 1:  # the usual event
            data, count = log.wire(log.last), 1
        else:
            events = log.some(cursor)
            data, count = b"".join(events), len(events)
        if not place.chunked:
            data = b"".join(map(bare, log.some(cursor)))
        size = len(data)
        slow: list[tuple[Reader, int]] = []
        for reader, (send, _) in place.members.items():
            try:
                sent = send(data)
            except OSError:
                sent = 0  # full, or gone: found out when it is tried again
            if sent != size:
                slow.append((reader, sent))
        for reader, sent in slow:
            self.leave(reader)
            reader.fell_behind(sent)
        place.cursor = cursor + count
        place.sent += size


def _sent(send: Send, data: bytes) -> int:
    try:
        return send(data)
    except OSError:
        return 0
