"""A reply that is read from a log: the place of one client in a run, on its way out.

Viewing ─► head, then a viewer (feeds.viewer): on the engine where the client is a plain socket
words   ─► head, one block, the end
"""

from __future__ import annotations

from dataclasses import dataclass

from relay.feeds.run import Run
from relay.feeds.socket_viewer import SocketViewer
from relay.feeds.stream_viewer import StreamViewer
from relay.flows.event_log import NAMED, View
from relay.http.bodies import chunk, last_chunk
from relay.http.framing import CHUNKED
from relay.observing.counters import RouteCounters
from relay.observing.record import Record
from relay.sources.reply import Reply
from relay.sse.dialects import gap_event
from relay.wires.alarms import Alarms
from relay.wires.client_wire import ClientWire, on_engine
from relay.wires.engine import Engine


@dataclass(slots=True)
class Viewing:
    """One client among the viewers of a run.

    Attributes:
        after: the cursor it begins behind.
        hole: a gap comes first.
        requested: the id that the client named; "": none.

    Resource handling: whoever holds it calls `release`, once.
    """

    run: Run
    after: int
    hole: bool
    requested: str

    def view(self, framing: int) -> View:
        """Its place in the log."""
        run, after, hole, requested = self.run, self.after, self.hole, self.requested

        def gap(cursor: int, first: int) -> tuple[bytes, bool]:
            """Who was overtaken later is behind what it has read, not behind what it once named."""
            begins = cursor == NAMED or (cursor == after and not hole)
            named = requested if begins else f"{run.id}-{cursor}"
            return gap_event(run.route.dialect, named, f"{run.id}-{first}")

        return View(run.log, after, gap, chunked=framing == CHUNKED, hole=hole)

    def release(self) -> None:
        """The client reads no more."""
        self.run.leave()


@dataclass(slots=True)
class Shown(Reply):
    """A reply on a resumable route that comes from no source.

    Attributes:
        viewing: what is read; None: `words` are all.
        words: whole blocks, said at once.
        abort: the body is left unfinished behind them.
    """

    viewing: Viewing | None = None
    words: bytes = b""
    abort: bool = False

    def framed(self, framing: int) -> bytes:
        """The body that says `words`."""
        if framing != CHUNKED:
            return self.words
        return (chunk(self.words) if self.words else b"") + (b"" if self.abort else last_chunk([]))


def viewer_of(
    viewing: Viewing,
    framing: int,
    wire: ClientWire,
    record: Record,
    counters: RouteCounters,
    engine: Engine,
    alarms: Alarms,
) -> SocketViewer | StreamViewer:
    """The viewer that sends the view to this client: on the engine where its wire is there."""
    view, run = viewing.view(framing), viewing.run
    if on_engine(wire):
        return SocketViewer(run, view, record, counters, wire, engine, alarms)
    return StreamViewer(run, view, record, counters, wire)
