"""An event stream from one upstream to one client: both halves, welded.

    wire bytes ─► Intake ─► whole events ─► Outlet ─► wire bytes

Rules
  * A read that is whole chunks ending on a boundary goes out as it came.
  * `inject` happens between events only; while an event longer than `max_event` is passing unframed there is no such
    place, and it answers so.

Why one object and not two: what a stream that is read event by event costs is what happens here for each of them.
"""

from __future__ import annotations

from typing import Final

from relay.flows.intake import Intake
from relay.flows.outlet import Outlet
from relay.http.bodies import PLAIN_SIZES, ChunkReader
from relay.http.framing import CHUNKED, UNTIL_CLOSE
from relay.http.names import LATE, Barred
from relay.observing.ending import COMPLETE
from relay.sse.completion import Completion
from relay.sse.translate import Translator

_LF: Final = 10


class EventFlow(Intake):
    """An Intake whose events are given to its one client. `feed` and `eof` return bytes for the client's wire."""

    __slots__ = ("_chunks", "_clear", "outlet")

    def __init__(
        self,
        framing_in: int,
        framing_out: int,
        max_event: int,
        completion: Completion | None = None,
        translator: Translator | None = None,
        *,
        exact: bool = False,
        coding: bytes = b"",
        late: Barred = LATE,
    ) -> None:
        super().__init__(
            framing_in, max_event, completion, translator, exact=exact, coding=coding, late=late
        )
        self.outlet = Outlet(framing_out)
        self._clear = False  # nothing is held or half read anywhere: see `feed`
        welds = framing_in == CHUNKED and self._steps is None
        welds = welds and (framing_out == CHUNKED) != self._exact
        self._chunks = self.reader if welds and isinstance(self.reader, ChunkReader) else None

    def feed(self, data: bytes) -> bytes:
        """What the client gets for `data`.

        The common read is told apart first, see `passes`.
        """
        return data if self.passes(data) else self._feed(data)

    def passes(self, data: bytes) -> bool:
        """Whether a read goes out as it is: one plain chunk that is one event with LF line ends, and nothing is held. It is
        counted then, and neither the reader nor the scanner needs to hear of it."""
        if not self._clear or not (begin := _one_event(data)):
            return False
        size = len(data) - begin - 2
        self.events += 1
        self.payload_bytes += size
        if self.completion is not None and size <= self._max_event:
            self.completion.see(data[begin:-2])
        return True

    def _feed(self, data: bytes) -> bytes:
        """Any read."""
        out = Intake.feed(self, data)
        outlet = self.outlet
        if out:
            passes = self.as_it_came and outlet.begun and outlet.chunked
            out = data if passes else outlet.pass_on(out)
        if self.done:
            self._clear = False
            return out + outlet.last(self.reader.trailers) if self.ending is COMPLETE else out
        chunks = self._chunks
        self._clear = (
            chunks is not None
            and self._tail is None
            and outlet.begun
            and chunks.between
            and self._scanner.between
        )
        return out

    def eof(self) -> bytes | None:
        out = Intake.eof(self)
        if out:
            out = self.outlet.pass_on(out)
        if out is not None and self.ending is COMPLETE:
            out += self.outlet.last(self.reader.trailers)
        return out

    # -- words of relay's own --------------------------------------------------------------------------------

    def inject(self, events: bytes) -> bytes | None:
        """`events` of ours on the wire, now; None while there is no place between events."""
        return None if self.open else self.outlet.say(events)

    def cut_off(self, event: bytes) -> bytes | None:
        """Drop the unfinished event and say `event` instead; None where half an event is already out."""
        self.drop()
        return self.inject(event) if event else b""

    def close(self) -> bytes:
        """The clean end after words of ours."""
        return self.outlet.last([])


def _one_event(data: bytes) -> int:
    """Where the payload of a read begins that is one plain chunk, which is one event with LF line ends; 0 for any other."""
    line = data.find(b"\r")
    last = len(data) - 4
    if (
        PLAIN_SIZES.get(data[:line]) == last - line
        and data.endswith(b"\n\n\r\n")
        and data.find(b"\n\n") == last
        and data.count(b"\r") == 2
        and data[line + 1] == _LF
        and (data.startswith(b"data:", line + 2) or b"\ndata:" in data)
    ):
        return line + 2
    return 0


class KeptFlow(EventFlow):
    """An event stream that is kept: nothing but whole events comes out, and relay says nothing in between. Whoever reads
    what was kept is told by a word of its own how it ended."""

    __slots__ = ()

    def __init__(
        self,
        framing_in: int,
        max_event: int,
        completion: Completion | None = None,
        translator: Translator | None = None,
        *,
        coding: bytes = b"",
    ) -> None:
        super().__init__(
            framing_in, UNTIL_CLOSE, max_event, completion, translator, exact=True, coding=coding
        )

    def feed(self, data: bytes) -> bytes:
        if self._clear and (begin := _one_event(data)):
            payload = data[begin:-2]
            if len(payload) <= self._max_event:
                self.events += 1
                self.payload_bytes += len(payload)
                if self.completion is not None:
                    self.completion.see(payload)
                return payload
        return self._feed(data)

    def inject(self, events: bytes) -> bytes | None:
        return b""

    def cut_off(self, event: bytes) -> bytes | None:
        self.drop()
        return b""
