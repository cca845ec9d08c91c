"""Those who read a run: what both kinds of viewers are, the books of one view and how it ends.

    socket_viewer   a plain socket on the engine: parked, moved by Fanout and by the socket's own readiness
    stream_viewer   any other wire: one task, plain awaits

One contract for both: `run` returns when the client has all it will get, or has left; then `ending`, `abort` and `told` say
how. A client that hangs up ends its viewer in the step that notices it, never the run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import inf
from random import uniform
from typing import Final

import trio

from relay.config.values import Route
from relay.feeds.run import Run
from relay.flows.event_log import View
from relay.observing.counters import RouteCounters
from relay.observing.ending import Cause, Ending, Phase, Side
from relay.observing.record import Record
from relay.sources.own_events import retry_in
from relay.sse.dialects import farewell

# Sends of flows.event_log.READ bytes in a row, before the others have their turn
AT_ONCE: Final = 4

LEFT: Final = Ending(Side.CLIENT, Phase.BODY, Cause.LEFT)
STALLED: Final = Ending(Side.CLIENT, Phase.BODY, Cause.STALLED, "the client stopped reading")
_COMPLETE: Final = Ending(Side.UPSTREAM, Phase.BODY, Cause.COMPLETE)
_SENT_AWAY: Final = {
    Cause.STOPPED: "the viewer was ended by an operator",
    Cause.DRAINED: "the relay is shutting down",
    Cause.MAX_AGE: "the stream reached its age limit",
}
# Their readers come back by themselves and obey `retry:`; elsewhere every block is taken for an event.
_KNOW_RETRY: Final = ("plain", "named")


class Viewer(ABC):
    """What both kinds are: the books, and how it ends.

    Attributes:
        view: the place in the log.
        ending: how it ended; None while it goes on.
        abort: the client's body is to be left unfinished.
        told: the client was told of a bad end by a terminal event.
        sent, unsent: bytes of the body for the client, and of these what its socket did not take.
        last_in, last_event: when the run brought something last; paused: the client is slower.
    """

    __slots__ = (
        "_max_age_at",
        "abort",
        "counters",
        "ending",
        "paused",
        "record",
        "run_of",
        "sent",
        "told",
        "view",
    )
    held = 0  # a view holds nothing but its place

    def __init__(self, run: Run, view: View, record: Record, counters: RouteCounters) -> None:
        self.run_of = run
        self.view = view
        self.record = record
        self.counters = counters
        self.ending: Ending | None = None
        self.abort = False
        self.told = False
        self.sent = 0
        self.paused = False
        age = run.route.max_age
        self._max_age_at = trio.current_time() + age * uniform(0.8, 1.0) if age != inf else inf

    @property
    def route(self) -> Route:
        return self.run_of.route

    @property
    def flow(self) -> Viewer:
        """For those who look at bodies under way: `events` and `held` are here."""
        return self

    @property
    def events(self) -> int:
        return self.view.events

    @property
    def unsent(self) -> int:
        return len(self.view.pending) if self.view.pending is not None else 0

    @property
    def last_in(self) -> float:
        return self.run_of.last_out

    @property
    def last_event(self) -> float:
        return self.run_of.last_out

    def count(self) -> None:
        """It is over: a stream less, and the holes that its reader was told of."""
        self.counters.active -= 1
        self.counters.gaps += self.view.gaps

    @abstractmethod
    def ask(self, cause: Cause) -> None:
        """End soon: STOPPED by an operator, DRAINED by a shutdown. At the next end of an event."""

    def _leave(self, cause: Cause) -> None:
        """Send the reader away before its run's end: it is aborted, in every dialect, because a clean end on half an answer
        would be taken for the whole one."""
        route = self.route
        words = b""
        if route.dialect in _KNOW_RETRY and self.record.method == "GET":
            words = farewell(retry_in(route), route.dialect)
        self.view.leave(words, abort=True)
        self._end(Ending(Side.RELAY, Phase.BODY, cause, _SENT_AWAY[cause]))

    def _end(self, ending: Ending) -> None:
        if self.ending is None:
            self.ending = ending

    def _finished(self) -> None:
        """All is said: how the run ended is how the viewer did."""
        run, view = self.run_of, self.view
        self.abort = view.aborted
        end = run.log.end
        if self.ending is None:
            gap_was_its_end = end is None or view.cursor < run.log.last
            self.ending = (_COMPLETE if gap_was_its_end else run.ending) or _COMPLETE
        self.told = end is not None and bool(end.last_words)
