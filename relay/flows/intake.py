"""The upstream's half of an event stream, without I/O: bytes as they come, whole events out, one Ending.

    wire bytes ─► BodyReader ─► (Inflater) ─► payload ─► BoundaryScanner ─► whole events ─► (Translator) ─► out
                  framing       coding                        └─► tail: the unfinished event, held

Rules
  * Nothing complete is held back. The tail is one growing buffer: what it costs is its length, however small the pieces
    in which it came.
  * A tail above `max_event` passes as it comes, and the stream is `open` until its boundary. Where only whole events are of
    use (they are translated, or kept), one that is longer than `max_event` is the end of the stream instead, in whatever
    pieces it came.
  * The tail is dropped when the upstream broke: with an error event behind it, it would be read as one event. At a
    clean end it is passed on: an EventSource discards it, a hand-written reader may want it. There a marker of
    completion counts in it too: some servers leave the blank line behind `data: [DONE]` out.
  * One call does a bounded piece of work. What is still to be done of the bytes that came is `pending`: who pumps calls
    `feed(b"")` for it when the others had their turn, and reads nothing more until then.
  * Whatever the bytes, they lead to an Ending, and whatever the split, to the same one and the same bytes.
"""

from __future__ import annotations

from typing import Final

from relay.flows.steps import Slices, Steps
from relay.http.bodies import BodyReader, body_reader
from relay.http.coding import Inflater
from relay.http.fault import Fault
from relay.http.names import LATE, Barred
from relay.observing.ending import COMPLETE, Cause, Ending, Phase, Side
from relay.sse.blocks import blocks
from relay.sse.completion import Completion
from relay.sse.event import parse, says_its_type, serialise
from relay.sse.scanner import BoundaryScanner
from relay.sse.translate import TranslationError, Translator

# Bytes that one step decodes: as many as one read brings of a stream without a coding.
DECODED_AT_ONCE: Final = 64 * 1024
# Bytes of payload that are translated in one step. The shortest events have 8 bytes and cost some 10 µs each, so a read
# full of them would keep every other stream waiting for 80 ms.
TRANSLATED_AT_ONCE: Final = 4 * 1024
# Lines of an event that is translated: each is an object, so an event of 1 MiB could be 500,000 of them, and 100 ms.
# An arbitrary number; as many take 10 ms, and no reader asks for more than a few.
TRANSLATED_LINES: Final = 50_000
_BOM: Final = b"\xef\xbb\xbf"


class Intake:
    """One event stream as its upstream sends it.

    Attributes:
        reader: of the body's framing.
        ending: None while there is more to come; then how the stream ended, as far as the upstream is concerned.
        done: there is an ending.
        events: events so far (blocks with data; comments do not count).
        payload_bytes: payload so far, without framing.
        open: what was returned so far ends inside an event.
        pending: there is more to be had with `feed(b"")`.
        as_it_came: the last `feed` returned the payload of its bytes, and these were nothing but whole chunks.
    """

    __slots__ = (
        "_exact",
        "_fresh",
        "_max_event",
        "_scanner",
        "_steps",
        "_tail",
        "_then",
        "_translator",
        "as_it_came",
        "completion",
        "done",
        "ending",
        "events",
        "open",
        "payload_bytes",
        "pending",
        "reader",
    )

    def __init__(
        self,
        framing: int,
        max_event: int,
        completion: Completion | None = None,
        translator: Translator | None = None,
        *,
        exact: bool = False,
        coding: bytes = b"",
        late: Barred = LATE,
    ) -> None:
        """
        Args:
            exact: nothing but whole events comes out. A translated stream is always exact.
            coding: a READABLE content coding, to be undone.
            late: trailers that do not go on.
        """
        self.reader: BodyReader = body_reader(framing, "upstream", late)
        self.ending: Ending | None = None
        self.done = False
        self.events = 0
        self.payload_bytes = 0
        self.open = False
        self.pending = False
        self.as_it_came = False
        self.completion = completion
        self._translator = translator
        self._exact = exact or translator is not None
        self._fresh = True  # no whole event has come out
        self._max_event = max_event
        self._scanner = BoundaryScanner()
        at_once = TRANSLATED_AT_ONCE if translator is not None else DECODED_AT_ONCE
        self._steps: Steps | None = None
        if coding:
            self._steps = Inflater(coding, at_once)
        elif translator is not None:
            self._steps = Slices(at_once)
        self._tail: bytearray | None = None
        self._then: Ending | None = None  # the ending, once nothing is pending
        if self.reader.done:
            self._finish(COMPLETE)  # a body of no bytes

    @property
    def held(self) -> int:
        """Bytes of the unfinished event, and those that are still to be worked on."""
        held = len(self._tail) if self._tail is not None else 0
        return held + (self._steps.held if self._steps is not None else 0)

    @property
    def blocks(self) -> int:
        """Whole blocks so far, comments too."""
        return self._scanner.blocks

    @property
    def completed(self) -> bool:
        """Whether the stream has said itself that it is complete."""
        if self._translator is not None and self._translator.complete:
            return True
        completion = self.completion
        return completion is not None and completion.asks and completion.seen

    @property
    def in_steps(self) -> bool:
        """Whether anything may ever be `pending`."""
        return self._steps is not None

    @property
    def surplus(self) -> bytes:
        """What came behind the body."""
        return self.reader.surplus

    # -- what the upstream does ------------------------------------------------------------------------------

    def feed(self, data: bytes) -> bytes:
        """The whole events that `data` brings. Sets `ending` where it brings the end."""
        payload = b""
        if data:
            reader = self.reader
            try:
                payload = reader.feed(data)
            except Fault as fault:
                payload = fault.passed
                self._then = _nonsense(fault)
            if reader.done:
                self._then = COMPLETE
        if self._steps is not None:
            payload = self._step(self._steps, payload)
        out = self._whole(payload)
        if self._then is not None and not self.pending and self.ending is None:
            out += self._finish(self._then)
        return out

    def eof(self) -> bytes | None:
        """The upstream closed: what comes before a proper end, None where the body was cut."""
        if not self.reader.eof():
            return None
        return self._finish(COMPLETE)

    def drop(self) -> None:
        """Nothing more of what was held will go anywhere."""
        self._tail = None
        self._steps = None
        self.pending = False

    # -- from payload to whole events ------------------------------------------------------------------------

    def _step(self, steps: Steps, payload: bytes) -> bytes:
        try:
            payload = steps.feed(payload)
        except Fault as fault:
            payload = fault.passed
            self._then = _nonsense(fault)
        self.pending = steps.pending
        return payload

    def _whole(self, payload: bytes) -> bytes:
        size = len(payload)
        self.payload_bytes += size
        scanner = self._scanner
        before = scanner.events
        cut = scanner.feed(payload)
        self.events += scanner.events - before
        if cut == size and self._tail is None and not self.open and not self._exact:
            self.as_it_came = self.reader.whole and self._steps is None
            if size and self.completion is not None:
                self._see(self.completion, payload)
            return payload
        self.as_it_came = False
        return self._cut(payload, cut) if size else b""

    def _cut(self, payload: bytes, cut: int) -> bytes:
        """Pass what is whole, hold the rest."""
        out = b""
        if self.open:
            if not cut:
                return payload
            first = self._scanner.first
            out, payload = payload[:first], payload[first:]
            cut -= first
            self.open = False
        if not cut:
            rest = payload
        else:
            rest = payload[cut:]
            if self._tail is None:
                whole = payload[:cut]
            else:
                self._tail += payload[:cut]
                whole = self._release()
            out += self._passed(whole)
        if rest and self.ending is None:
            out += self._hold(rest)
        return out

    def _hold(self, rest: bytes) -> bytes:
        """Keep the beginning of an event; what is passed on all the same."""
        if self._tail is None:
            self._tail = bytearray(rest)
        else:
            self._tail += rest
        if len(self._tail) <= self._max_event:
            return b""
        if self._exact:
            self._end(self._too_large(f"is longer than {self._max_event} bytes"))
            return b""
        self.open = True
        return self._release()

    def _release(self) -> bytes:
        """The tail, which is held no longer."""
        tail = bytes(self._tail or b"")
        self._tail = None
        return tail

    def _passed(self, whole: bytes) -> bytes:
        """What becomes of whole events."""
        fits = len(whole)
        if self._exact:
            whole = self._without_bom(whole)
            fits = self._length_that_fits(whole)
        out = whole[:fits]
        if self.completion is not None:
            self._see(self.completion, out)
        if self._translator is not None:
            out = self._translated(self._translator, out)
        if fits < len(whole):
            self._end(self._too_large(f"is longer than {self._max_event} bytes"))
        return out

    def _see(self, completion: Completion, whole: bytes) -> None:
        """Look for the marker, in events that are held until they are whole: in pieces the others pass unseen."""
        whole = self._without_bom(whole)
        if len(whole) <= self._max_event:
            completion.see(whole)
        else:
            for block in filter(self._fits, blocks(whole)):
                completion.see(block)

    def _without_bom(self, whole: bytes) -> bytes:
        """Whole events without the byte order mark, which belongs to the stream and not to its first event."""
        if self._fresh:
            self._fresh = False
            return whole.removeprefix(_BOM)
        return whole

    def _fits(self, block: bytes) -> bool:
        """Whether a block is within the limit. (A LF behind the CR of its blank line may come one read later.)"""
        return len(block) - block.endswith(b"\r\n") <= self._max_event

    def _length_that_fits(self, whole: bytes) -> int:
        """The length of the whole events before one that is too long."""
        if len(whole) <= self._max_event:
            return len(whole)
        fits = 0
        for block in blocks(whole):
            if not self._fits(block):
                return fits
            fits = whole.index(block, fits) + len(block)
        return len(whole)

    def _translated(self, translator: Translator, whole: bytes) -> bytes:
        """The client's events. Where a translation fails, those before it."""
        out: list[bytes] = []
        try:
            for block in blocks(whole):
                if _lines(block) > TRANSLATED_LINES:
                    self._end(self._too_large(f"has more than {TRANSLATED_LINES} lines"))
                    break
                out += map(serialise, translator.feed((parse(block),)))
        except TranslationError as error:
            self._end(Ending(Side.UPSTREAM, Phase.BODY, Cause.NONSENSE, str(error)))
        if translator.complete:
            self._end(COMPLETE)
        return b"".join(out)

    # -- the end ---------------------------------------------------------------------------------------------

    def _finish(self, ending: Ending) -> bytes:
        """The body has ended, and nothing is pending: what is left, and how it stands."""
        out = b""
        if ending is COMPLETE:
            missing = self._steps.unfinished() if self._steps is not None else ""
            if not missing:
                out = self._last_block()
                if self._truncated:
                    out = b""
                    missing = "the upstream ended without its completion marker"
            if missing:
                ending = Ending(Side.UPSTREAM, Phase.BODY, Cause.TRUNCATED, missing)
        self._end(ending)
        return out

    def _last_block(self) -> bytes:
        """The tail at a clean end: what goes out of it."""
        tail = self._release()
        if not tail:
            return b""
        translator, completion = self._translator, self.completion
        marked = completion is not None and not completion.seen and completion.see_last(tail)
        if translator is not None:
            if not (marked or self._truncated) or not says_its_type(tail):
                return b""
            try:
                return b"".join(map(serialise, translator.feed((parse(tail),))))
            except TranslationError:
                return b""  # what cannot be translated is no end
        if self._exact:
            return tail + b"\n\n" if marked else b""
        return tail

    @property
    def _truncated(self) -> bool:
        """At the end of the body: whether the route's completion marker is missing."""
        asked = self._translator is not None and self._translator.has_last
        asked = asked or (self.completion is not None and self.completion.asks)
        return asked and not self.completed

    @staticmethod
    def _too_large(what: str) -> Ending:
        return Ending(
            Side.UPSTREAM, Phase.BODY, Cause.TOO_LARGE, f"an event of the upstream {what}"
        )

    def _end(self, ending: Ending) -> None:
        if self.ending is None:
            self.ending = ending
            self.done = True
            self.drop()


def _nonsense(fault: Fault) -> Ending:
    return Ending(Side.UPSTREAM, Phase.BODY, Cause.NONSENSE, fault.message)


def _lines(block: bytes) -> int:
    """How many lines a block has, or twice as many with CRLF."""
    return block.count(b"\n") + block.count(b"\r") if len(block) > TRANSLATED_LINES else 0
