"""An event stream on its way: whole events go out at once, an unfinished one is held, and relay may speak in between.

    wire bytes ─► BodyReader ─► payload ─► BoundaryScanner ─► whole events ─► (translation) ─► chunks
                                               └─► tail (unfinished event, held)

Rules
  * Nothing complete is held back, and a read that is whole chunks ending on a boundary goes out as it came.
  * `inject` happens between events only; while an event longer than `max_event` is passing unframed there is no
    such place, and it answers so.
  * The tail is dropped when the upstream broke (facts §1, fusion) and passed on at a clean end: an EventSource
    discards it, a hand-written reader may want it. There a marker of completion counts in it too: some servers leave
    the blank line behind `data: [DONE]` out.
  * A BOM behind bytes of ours would be text, so it is dropped (WHATWG HTML §9.2: one leading BOM).
"""

from __future__ import annotations

from relay.http.bodies import (
    PLAIN_SIZES,
    BodyReader,
    ChunkReader,
    body_reader,
    chunk,
    last_chunk,
)
from relay.http.fault import Fault
from relay.http.framing import CHUNKED
from relay.http.names import LATE, Barred
from relay.sse.completion import Completion
from relay.sse.event import EventParser, says_its_type, serialise
from relay.sse.scanner import BoundaryScanner
from relay.sse.translate import TranslationError, Translator

_BOM = b"\xef\xbb\xbf"
_LF = 10


class EventFlow:
    """One event stream, sans-IO. Attributes as in BytesFlow, and

    events: events relayed (blocks with data; comments do not count).
    held: bytes of the unfinished event.
    """

    __slots__ = (
        "_chunked",
        "_clear",
        "_completion",
        "_fast",
        "_injected",
        "_max_event",
        "_open",
        "_tail",
        "events",
        "held",
        "payload_bytes",
        "reader",
        "scanner",
    )

    def __init__(
        self,
        framing_in: int,
        framing_out: int,
        max_event: int,
        completion: Completion | None = None,
        late: Barred = LATE,
    ) -> None:
        self.reader: BodyReader = body_reader(framing_in, "upstream", late)
        self.scanner = BoundaryScanner()
        self.payload_bytes = 0
        self.events = 0
        self.held = 0
        self._clear = False  # nothing is held or half read anywhere: see `feed`
        self._chunked = framing_out == CHUNKED
        self._completion = completion
        self._max_event = max_event
        self._tail: list[bytes] | None = None
        self._open = False  # an event longer than max_event is passing
        self._fast = False  # payload has passed, so reads may go out as they came
        self._injected = False  # bytes of ours went out before any payload

    @property
    def done(self) -> bool:
        return self.reader.done

    @property
    def rest(self) -> bytes:
        return self.reader.rest

    @property
    def truncated(self) -> bool:
        """At the end of the body: whether the route's completion marker is missing."""
        return self._completion is not None and not self._completion.seen

    def feed(self, data: bytes) -> bytes:
        """What the client gets for `data`. Raises: Fault.

        The common read is told apart first: one plain chunk that is one event with LF line ends. It goes out as it is,
        and neither the reader nor the scanner needs to hear of it.
        """
        if self._clear:
            line = data.find(b"\r")
            size = PLAIN_SIZES.get(data[:line])
            last = len(data) - 4
            if (
                size == last - line
                and data.endswith(b"\n\n\r\n")
                and data.find(b"\n\n") == last
                and data.count(b"\r") == 2
                and data[line + 1] == _LF
                and (data.startswith(b"data:", line + 2) or b"\ndata:" in data)
            ):
                self.events += 1
                self.payload_bytes += size
                if self._completion is not None:
                    self._completion.see(data[line + 2 : -2])
                return data
        return self._feed(data)

    def _feed(self, data: bytes) -> bytes:
        """Any read: by the reader of the framing and the scanner of boundaries."""
        reader, scanner = self.reader, self.scanner
        payload = self._payload(data)
        size = len(payload)
        self.payload_bytes += size
        before = scanner.events
        cut = scanner.feed(payload)
        self.events += scanner.events - before
        if cut == size and self._tail is None and self._fast and reader.whole:
            if self._completion is not None:
                self._completion.see(payload)
            out = data if self._chunked else payload
            self._open = False
        else:
            out = self._cut(payload, cut) if size else b""
        if reader.done:
            return out + self._last()
        self._clear = (
            self._chunked
            and self._fast
            and self._tail is None
            and isinstance(reader, ChunkReader)
            and reader.between
            and scanner.between
        )
        return out

    def _payload(self, data: bytes) -> bytes:
        """`data` without its framing. A Fault takes the whole events before it along."""
        try:
            return self.reader.feed(data)
        except Fault as fault:
            payload = fault.passed
            if payload:
                before = self.scanner.events
                fault.passed = self._cut(payload, self.scanner.feed(payload))
                self.events += self.scanner.events - before
            raise

    def _cut(self, payload: bytes, cut: int) -> bytes:
        """Pass what is whole, hold the rest."""
        whole = payload[:cut]
        rest = payload[cut:]
        if cut and self._tail is not None:
            self._tail.append(whole)
            whole = b"".join(self._tail)
            self._tail = None
            self.held = 0
        if cut:
            self._open = False
        if self._open:
            whole, rest = whole + rest, b""
        elif rest:
            if self._tail is None:
                self._tail = []
            self._tail.append(rest)
            self.held += len(rest)
            if self.held > self._max_event:
                whole += b"".join(self._tail)
                self._tail = None
                self.held = 0
                self._open = True
        return self._encode(whole) if whole else b""

    def _encode(self, whole: bytes) -> bytes:
        if not self._fast:
            self._fast = True
            if self._injected:
                whole = whole.removeprefix(_BOM)
        if self._completion is not None:
            self._completion.see(whole)
        return self._wrap(whole)

    def _wrap(self, payload: bytes) -> bytes:
        return chunk(payload) if self._chunked and payload else payload

    def _last(self) -> bytes:
        """The proper end: the tail, and the last chunk. With the marker missing the end is not proper: see `cut_off`."""
        tail = b"".join(self._tail) if self._tail is not None else b""
        if self._completion is not None and tail:
            self._completion.see_last(tail)
        if self.truncated:
            return b""
        out = b""
        if tail:
            out = self._encode(tail)
            self._tail = None
            self.held = 0
        return out + (last_chunk(self.reader.trailers) if self._chunked else b"")

    def eof(self) -> bytes | None:
        """The upstream closed: what the client gets for a proper end, None where the body was cut."""
        return self._last() if self.reader.eof() else None

    def inject(self, events: bytes) -> bytes | None:
        """`events` of ours on the wire, now; None while there is no place between events."""
        if self._open:
            return None
        self._injected = True
        return self._wrap(events)

    def cut_off(self, event: bytes) -> bytes | None:
        """Drop the unfinished event and say `event` instead; None where half an event is already out."""
        self._tail = None
        self.held = 0
        return self.inject(event) if event else b""

    def close(self) -> bytes:
        """The clean end after words of ours."""
        return last_chunk([]) if self._chunked else b""


class TranslatedFlow(EventFlow):
    """An event stream whose events become others before they go out. A `last` rule completes it."""

    __slots__ = ("_parser", "_translator")

    def __init__(
        self,
        framing_in: int,
        framing_out: int,
        max_event: int,
        translator: Translator,
        late: Barred = LATE,
    ) -> None:
        super().__init__(framing_in, framing_out, max_event, late=late)
        self._parser = EventParser(silent=True)
        self._translator = translator

    @property
    def done(self) -> bool:
        return self.reader.done or self._translator.complete

    @property
    def truncated(self) -> bool:
        return self._translator.has_last and not self._translator.complete

    def feed(self, data: bytes) -> bytes:
        payload = self._payload(data)
        self.payload_bytes += len(payload)
        cut = self.scanner.feed(payload)
        self.events = self.scanner.events
        out = self._cut(payload, cut) if payload else b""
        return out + self._last() if self.done else out

    def _last(self) -> bytes:
        """The proper end. A `last` rule may match the last block although its blank line is missing."""
        tail = b"".join(self._tail) if self._tail is not None else b""
        if not self.truncated or not tail or not says_its_type(tail):
            return super()._last()
        try:
            out = self._encode(tail + b"\n\n")
        except Fault:
            return b""  # what cannot be translated is no end
        self._tail = None
        self.held = 0
        return b"" if self.truncated else out + super()._last()

    def _encode(self, whole: bytes) -> bytes:
        out: list[bytes] = []
        try:
            for event in self._parser.feed(whole):
                out += map(serialise, self._translator.feed([event]))
        except TranslationError as error:
            fault = Fault("upstream", 502, "translation_failed", str(error))
            fault.passed = self._wrap(b"".join(out))
            raise fault from error
        return self._wrap(b"".join(out))
