"""Event streams without I/O: bytes in, values out (WHATWG HTML §9.2). Public, and of use without a
relay.

Reading a stream, from any source of bytes:

    parser = EventParser()
    async for piece in body:
        for event in parser.feed(piece):
            print(event.event or "message", event.data, parser.last_event_id)

Writing one: `serialise(Event(data="…", event="progress", id="7"))` is whole bytes to send.

Passing one on, and speaking in between: `BoundaryScanner` says where events end and keeps none of
the bytes.

    scanner = BoundaryScanner()
    end = scanner.feed(piece)  # piece[:end] may go out (behind what was held), piece[end:] is held
    if scanner.between: ...    # a HEARTBEAT may go here

What is not here: connecting, reconnecting and limits. A caller who needs a limit on the length of
an event reads `EventParser.held`.
"""

from relay.sse.chunking import cut
from relay.sse.completion import Completion
from relay.sse.dialects import HEARTBEAT, Dialect, farewell, gap_event, terminal_event
from relay.sse.event import Event, EventParser, parse, serialise
from relay.sse.scanner import BoundaryScanner
from relay.sse.translate import Rule, Translation, TranslationError, Translator

__all__ = [
    "HEARTBEAT",
    "BoundaryScanner",
    "Completion",
    "Dialect",
    "Event",
    "EventParser",
    "Rule",
    "Translation",
    "TranslationError",
    "Translator",
    "cut",
    "farewell",
    "gap_event",
    "parse",
    "serialise",
    "terminal_event",
]
