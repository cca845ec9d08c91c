"""A viewer on a plain socket: parked, and moved by synchronous steps.

    Fanout ─► fell_behind ─┐                       ┌─► the tail: Fanout sends for it
    the socket takes again ┼─► _push: view ─► send ┼─► a short write: wait until the socket takes again, or `write` is over
    its turn ──────────────┘                       └─► the end: the task wakes

The task that runs it wakes once, when all is said or the client has left.
"""

from __future__ import annotations

from math import inf
from typing import Final

import outcome
import trio

from relay.feeds.fanout import Slice
from relay.feeds.run import Run
from relay.feeds.viewer import LEFT, STALLED, Viewer
from relay.flows.event_log import View
from relay.observing.counters import RouteCounters
from relay.observing.ending import Cause
from relay.observing.record import Record
from relay.wires.alarms import Alarms, Entry
from relay.wires.engine import Engine
from relay.wires.socket_wire import SocketWire
from relay.wires.wire import Gone

# Sends of flows.event_log.READ bytes in a row, before the others have their turn
AT_ONCE: Final = 4


class SocketViewer(Viewer):
    """A viewer on a plain socket. A Clock, and a feeds.fanout.Reader."""

    __slots__ = (
        "_alarms",
        "_engine",
        "_leaving",
        "_task",
        "_turn_asked",
        "_unacknowledged",
        "_wire",
        "_write_by",
        "entry",
        "place",
    )

    def __init__(
        self,
        run: Run,
        view: View,
        record: Record,
        counters: RouteCounters,
        wire: SocketWire,
        engine: Engine,
        alarms: Alarms,
    ) -> None:
        super().__init__(run, view, record, counters)
        self._wire = wire
        self._engine = engine
        self._alarms = alarms
        self._task: trio.lowlevel.Task | None = None
        self._write_by = inf
        self._unacknowledged = 0
        self._turn_asked = False
        self._leaving: Cause | None = None  # waits for the end of an event
        self.place: Slice | None = None
        self.entry: Entry | None = None

    async def run(self) -> None:
        """Until all is said, or the client has left. Cancellation: stops at once; the wire stays open."""
        wire = self._wire
        wire.owner = self._crashed
        self._engine.now = trio.current_time()
        try:
            wire.on_writable = self._writable
            wire.on_gone = self._gone
            if wire.hung_up and not wire.half_close_kept:
                self._gone()
            elif self.ending is None or self.view.pending is not None:
                self._push()
            if not self._over:
                self._alarms.arm(self, self._due())
                self._task = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._abort)
                return
        finally:
            self._unhook()
        await trio.lowlevel.checkpoint_if_cancelled()

    @property
    def _over(self) -> bool:
        return self.view.done or self.ending in (LEFT, STALLED)

    def ask(self, cause: Cause) -> None:
        if self.ending is not None:
            return
        self._unplace()
        if self.view.pending is not None:
            self._leaving = cause
            return
        self._leave(cause)
        self._push()

    # -- steps -----------------------------------------------------------------------------------------------

    def _push(self) -> None:
        """Send what is due, until the socket takes no more or the tail is reached."""
        view, wire = self.view, self._wire
        for _ in range(AT_ONCE):
            if self._leaving is not None and view.pending is None:
                cause, self._leaving = self._leaving, None
                self._leave(cause)
            out = view.take()
            if not out:
                self._rested()
                return
            try:
                sent = wire.send_nowait(out)
            except Gone:
                self._gone()
                return
            view.sent(sent)
            self.sent += sent
            if sent < len(out):
                self._wait()
                return
        self._flows()  # it takes again, and no further edge will say so
        if not self._turn_asked:
            self._turn_asked = True
            self._engine.again(wire, self._next)

    def _next(self) -> None:
        self._turn_asked = False
        if self._task is not None and self.place is None and not self.paused:
            self._push()

    def _rested(self) -> None:
        """Nothing is due just now."""
        self._flows()
        if self.view.done:
            self._finished()
            self._wake()
        elif self.view.cursor == self.run_of.log.last:
            self.run_of.fanout.join(self, self._wire.sock.send)
            self.run_of.watch_clock()
        else:  # ahead of the log: what it has already is not sent again
            self.run_of.fanout.sleepers[self._news] = None

    def _flows(self) -> None:
        """The socket takes what it is given."""
        if self.paused:
            self.paused = False
            self._write_by = inf
            self._wire.want_write(False)

    def _news(self) -> None:
        """For a reader that was ahead of the log."""
        if self.view.cursor <= self.run_of.log.last or self.run_of.log.end is not None:
            self.run_of.fanout.sleepers.pop(self._news, None)
            self._push()

    def fell_behind(self, sent: int) -> None:
        """The socket did not take all of what was sent to those at the tail, or there is more than an event to say."""
        if self.view.pending is None:
            self.view.take()
        self.view.sent(sent)
        self.sent += sent
        self._push()

    def _wait(self) -> None:
        """The client takes no more just now."""
        now = self._engine.now
        if not self.paused:
            self.paused = True
            self._wire.want_write(True)
        self._write_by = now + self.route.timeouts.write
        self._unacknowledged = self._wire.unacknowledged()
        self._alarms.arm(self, self._write_by)

    def _writable(self) -> None:
        if self.paused:
            self._push()

    def _gone(self) -> None:
        self._end(LEFT)
        self._wake()

    def _unplace(self) -> None:
        """Go one's own way."""
        self.run_of.fanout.leave(self)
        self.run_of.fanout.sleepers.pop(self._news, None)

    # -- clocks ----------------------------------------------------------------------------------------------

    def _due(self) -> float:
        return min(self._write_by, self._max_age_at if self.ending is None else inf)

    def ring(self, now: float) -> float:
        if self._task is None:
            return inf
        self._engine.now = now
        if now >= self._max_age_at and self.ending is None:
            self._max_age_at = inf
            self.ask(Cause.MAX_AGE)
        if now >= self._write_by:
            left = self._wire.unacknowledged()
            if left < self._unacknowledged:
                self._unacknowledged = left
                self._write_by = now + self.route.timeouts.write
            else:
                self._end(STALLED)
                self.abort = True
                self._wake()
                return inf
        return self._due()

    def set_back(self, seconds: float, now: float) -> None:
        """Called by Alarms: see `Clock`."""
        if self.paused:
            self._write_by = min(self._write_by + seconds, now + self.route.timeouts.write)

    # -- the end ---------------------------------------------------------------------------------------------

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _unhook(self) -> None:
        self._unplace()
        self._alarms.forget(self)
        wire = self._wire
        wire.on_writable = wire.on_gone = wire.owner = None
        wire.want_write(False)

    def _wake(self) -> None:
        self._unplace()
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task, outcome.Value(None))

    def _crashed(self, error: Exception) -> None:
        """A bug of ours in a step: it surfaces in the task that owns this exchange, and nowhere else."""
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task, outcome.Error(error))
