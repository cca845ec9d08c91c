"""One response body under way: what every pump asks, and no I/O.

    data / end / broke (from the upstream) ─┐
    tick (a clock)                          ├─► bytes for the client, and perhaps the Ending
    ask (an operator, a shutdown)           ─┘

Rules
  * The first Ending stays. Once it is set nothing more is read from the upstream; what was returned is still to be
    written, then the pump ends.
  * `abort` says how the client connection must end: True leaves the body visibly unfinished (no last chunk).
  * Clocks are looked at when the pump's alarm rings; a step stores two numbers and nothing else.
"""

from __future__ import annotations

from bisect import bisect_left
from math import inf
from random import uniform

from relay.config.values import Route
from relay.flows.bytes_flow import BytesFlow
from relay.flows.event_flow import EventFlow
from relay.http.fault import Fault
from relay.observing.counters import GAP_BOUNDS, RouteCounters
from relay.observing.ending import COMPLETE, Cause, Ending, Phase, Side
from relay.observing.record import Record
from relay.sources.own_events import last_word, retry_in
from relay.sse.dialects import HEARTBEAT, WITH_FAILURE, farewell

_BODY = Phase.BODY
LEFT = Ending(Side.CLIENT, _BODY, Cause.LEFT)
STALLED = Ending(Side.CLIENT, _BODY, Cause.STALLED, "the client stopped reading")


class Transfer:
    """A body on its way to the client. Times are trio.current_time() seconds."""

    __slots__ = (
        "_max_age_at",
        "_paused_at",
        "_seen",
        "_too_early",
        "abort",
        "asked",
        "counters",
        "ending",
        "flow",
        "last_event",
        "last_in",
        "last_out",
        "paused",
        "record",
        "route",
        "sent",
        "told",
        "unsent",
        "wake",
    )

    def __init__(
        self,
        flow: BytesFlow | EventFlow,
        route: Route,
        record: Record,
        counters: RouteCounters,
        now: float,
    ) -> None:
        self.flow = flow
        self.route = route
        self.record = record
        self.counters = counters
        self.ending: Ending | None = None
        self.abort = False
        self.told = False  # the client was told of a bad end by a terminal event
        self.sent = 0  # bytes of the body for the client, framing included
        self.unsent = 0  # of these, bytes the client's socket did not take yet
        self.last_in = self.last_event = self.last_out = now
        self.paused = False  # the client is slower than the upstream just now
        self.wake = nobody  # set by the pump: come and look, something was asked
        self._seen = flow.events
        self.asked: Cause | None = None
        self._too_early = False  # what was asked waits for the end of an event
        self._paused_at = now
        age = route.max_age
        self._max_age_at = now + age * uniform(0.8, 1.0) if age != inf else inf

    # -- what the upstream does ------------------------------------------------------------------------------

    def data(self, data: bytes, now: float) -> bytes:
        """Bytes came: what the client gets."""
        flow = self.flow
        self.last_in = now
        try:
            out = flow.feed(data)
        except Fault as fault:
            return fault.passed + self._fail(Side.UPSTREAM, Cause.NONSENSE, fault.message)
        if flow.events != self._seen:
            self._seen = flow.events
            self.counters.event_gap.observe(now - self.last_event)
            self.last_event = now
        if out:
            self.last_out = now
        if flow.done:
            return out + self._finish()
        if self.asked is not None:
            return out + self._leave()
        return out

    def one_event(self, now: float) -> None:
        """One event came and goes out as it is (EventFlow.passes): what `data` would put down."""
        gap = now - self.last_event
        self.last_in = self.last_out = self.last_event = now
        self._seen = self.flow.events
        gaps = self.counters.event_gap
        gaps.counts[bisect_left(GAP_BOUNDS, gap)] += 1
        gaps.total += gap

    def more(self, now: float) -> bytes:
        """What is pending of the bytes that came earlier: what the client gets."""
        return self.data(b"", now)

    def passed(self, flow: BytesFlow, size: int, now: float) -> None:
        """So many bytes of a plain body went by unseen."""
        flow.passed(size)
        self.last_in = self.last_out = now
        self.sent += size
        if flow.done:
            self._end(COMPLETE, abort=False)

    def end(self) -> bytes:
        """The upstream closed."""
        out = self.flow.eof()
        if out is None:
            return self.broke("the upstream closed before the body was whole")
        return out + self._finish()

    def broke(self, detail: str = "the connection to the upstream broke") -> bytes:
        """The upstream reset, or closed too early."""
        return self._fail(Side.UPSTREAM, Cause.BROKE, detail)

    # -- what others do --------------------------------------------------------------------------------------

    def left(self, *, unsent: bool) -> None:
        """The client hung up. `unsent`: while there were bytes for it, so not even a whole body
        was delivered."""
        self._lost(LEFT, unsent)

    def stalled(self) -> None:
        """The client took no byte for the route's write deadline."""
        self._lost(STALLED, True)

    def _lost(self, ending: Ending, unsent: bool) -> None:
        if self.ending is None or (unsent and self.ending.clean):
            self.ending = ending
            self.abort = True

    def ask(self, cause: Cause) -> None:
        """End soon: STOPPED by an operator, DRAINED by a shutdown. Takes effect at the next event boundary."""
        if self.ending is None and self.asked is None:
            self.asked = cause
            self.wake()

    # -- clocks ----------------------------------------------------------------------------------------------

    def due(self) -> float:
        """When `tick` has something to do (absolute; inf: never)."""
        if self.ending is not None:
            return inf  # only its last bytes are still to be written
        age = self._max_age_at
        if self.asked is not None:
            if not self._too_early:
                return 0.0  # at once
            age = inf
        if self.paused:
            return age
        route = self.route
        due = min(self.silent_by(), age)
        if isinstance(self.flow, EventFlow):
            due = min(due, self.last_out + route.heartbeat)
        return due

    def silent_by(self) -> float:
        """When the upstream has been silent for too long."""
        due = self.last_in + self.route.timeouts.idle
        return min(due, self._event_due()) if isinstance(self.flow, EventFlow) else due

    def _event_due(self) -> float:
        wait = self.route.event_idle
        if not self._seen:
            wait = min(wait, self.route.first_event)
        return self.last_event + wait

    def tick(self, now: float) -> bytes:
        """Do what is due: what the client gets."""
        if self.ending is not None:
            return b""
        if self.asked is None and now >= self._max_age_at:
            self.asked = Cause.MAX_AGE
        if self.asked is not None:
            out = self._leave()
            if self.ending is not None:
                return out
        if self.paused:
            return b""
        route = self.route
        if now >= self.last_in + route.timeouts.idle:
            return self._silent(f"no byte for {route.timeouts.idle:g} s")
        if not isinstance(self.flow, EventFlow):
            return b""
        if now >= self._event_due():
            return self._silent(f"no event for {now - self.last_event:.1f} s")
        if now >= self.last_out + route.heartbeat:
            self.last_out = now
            return self.flow.inject(HEARTBEAT) or b""
        return b""

    def pause(self, now: float) -> None:
        """The client takes no more just now."""
        self.paused = True
        self._paused_at = now

    def resumed(self, now: float) -> None:
        """The client reads again: the time it did not is not the upstream's."""
        self.paused = False
        self.unsent = 0
        waited = now - self._paused_at
        self.last_in += waited
        self.last_event += waited

    def set_back(self, seconds: float, now: float) -> None:
        """This process stood still for so long: nor is that time the upstream's. (Of a pause it is a part.)"""
        if self.paused:
            return
        self.last_in = min(self.last_in + seconds, now)
        self.last_event = min(self.last_event + seconds, now)

    # -- endings ---------------------------------------------------------------------------------------------

    def _end(self, ending: Ending, *, abort: bool) -> None:
        if self.ending is None:
            self.ending = ending
            self.abort = abort

    def _finish(self) -> bytes:
        flow = self.flow
        if isinstance(flow, EventFlow) and flow.ending is not None and not flow.ending.clean:
            return self._fail(flow.ending.side, flow.ending.cause, flow.ending.detail)
        self._end(COMPLETE, abort=False)
        return b""

    def _silent(self, detail: str) -> bytes:
        return self._fail(Side.UPSTREAM, Cause.SILENT, detail)

    def _fail(self, side: Side, cause: Cause, detail: str) -> bytes:
        """End with a terminal event where the stream stands between two events, or can be put there."""
        if self.ending is not None:
            return b""
        flow = self.flow
        abort = True
        out: bytes | None = b""
        if isinstance(flow, EventFlow):
            route = self.route
            event = last_word(route, cause.value, detail, retryable=True)
            out = flow.cut_off(event)
            self.told = bool(out)
            if out is not None and route.after_error == "close":
                abort = False
                out += flow.close()
        self._end(Ending(side, _BODY, cause, detail), abort=abort)
        return out or b""

    def _leave(self) -> bytes:
        """End for a reason of ours: at once for bytes, between events for events."""
        cause = self.asked
        assert cause is not None
        flow = self.flow
        if not isinstance(flow, EventFlow):
            return self._fail(Side.RELAY, cause, _LEAVING[cause])
        comes_back = self.record.method == "GET" and self.route.dialect not in WITH_FAILURE
        if cause is Cause.STOPPED or not comes_back:
            return self._fail(Side.RELAY, cause, _LEAVING[cause])
        out = flow.cut_off(farewell(retry_in(self.route), self.route.dialect))
        if out is None:
            self._too_early = True
            return b""  # half an event is out: the boundary behind it will do
        self._end(Ending(Side.RELAY, _BODY, cause, _LEAVING[cause]), abort=False)
        return out + flow.close()


_LEAVING = {
    Cause.STOPPED: "the stream was stopped by an operator",
    Cause.DRAINED: "the relay is shutting down",
    Cause.MAX_AGE: "the stream reached its age limit",
}


def nobody() -> None:
    """Nobody is pumping yet, or any more."""
