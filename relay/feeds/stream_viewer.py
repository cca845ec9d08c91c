"""A viewer on any wire: one task, plain awaits. It hears of the client's hang-up itself, as every pump does."""

from __future__ import annotations

from math import inf

import trio

from relay.feeds.run import Run
from relay.feeds.viewer import LEFT, STALLED, Viewer
from relay.flows.event_log import View
from relay.observing.counters import RouteCounters
from relay.observing.ending import Cause
from relay.observing.record import Record
from relay.sse.dialects import HEARTBEAT_LINE
from relay.wires.client_wire import tell_leaving
from relay.wires.wire import Expired, Gone, Wire


class StreamViewer(Viewer):
    """A viewer on any wire."""

    __slots__ = ("_asked", "_news", "_running", "_wire")

    def __init__(
        self, run: Run, view: View, record: Record, counters: RouteCounters, wire: Wire
    ) -> None:
        super().__init__(run, view, record, counters)
        self._wire = wire
        self._asked: Cause | None = None
        self._news = trio.Event()
        self._running = trio.CancelScope()

    async def run(self) -> None:
        """Until all is said, or the client has left. Cancellation: stops at once; the wire stays open."""
        view, fanout = self.view, self.run_of.fanout
        fanout.sleepers[self._wakened] = None
        self._wire.write_within = self.route.timeouts.write
        try:
            with self._running:
                tell_leaving(self._wire, self._gone)
                while not view.done:
                    if self._asked is not None and view.pending is None and self.ending is None:
                        self._leave(self._asked)
                    out = view.take()
                    if out:
                        await self._send(bytes(out))
                    elif view.done:
                        break
                    else:
                        await self._sleep()
                    if self.ending in (LEFT, STALLED):
                        return
                self._finished()
                await trio.lowlevel.checkpoint_if_cancelled()
        finally:
            self._wire.on_gone = None
            fanout.sleepers.pop(self._wakened, None)

    def _gone(self) -> None:
        self._end(LEFT)
        self._running.cancel()

    def ask(self, cause: Cause) -> None:
        if self._asked is None and self.ending is None:
            self._asked = cause
            self._news.set()

    def _wakened(self) -> None:
        self._news.set()

    async def _send(self, out: bytes) -> None:
        self.paused = True
        try:
            await self._wire.send(out)
        except Expired:
            self._end(STALLED)
            self.abort = True
            return
        except Gone:
            self._end(LEFT)
            return
        self.paused = False
        self.view.sent(len(out))
        self.sent += len(out)

    async def _sleep(self) -> None:
        """Wait for an event, somebody's wish, or a clock."""
        news = self._news
        if news.is_set():
            self._news = trio.Event()
            await trio.lowlevel.checkpoint()
            return
        beat = trio.current_time() + self.route.heartbeat
        with trio.move_on_at(min(beat, self._max_age_at)):
            await news.wait()
            return
        if trio.current_time() >= self._max_age_at:
            self._max_age_at = inf
            self.ask(Cause.MAX_AGE)
        else:
            self.view.words(HEARTBEAT_LINE)
