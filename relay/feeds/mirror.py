"""A run of another process, as its readers here see it: its log is fed by a store, and it ends where that one does.

It lives while somebody here reads it. Everything about readers is a run's; nothing about sources is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

import trio

from relay.config.values import Route
from relay.feeds.endings import bad_end, ended_by_us
from relay.feeds.run import Keeper, Run
from relay.flows.event_log import End
from relay.http.bodies import Fields
from relay.observing.ending import Cause, Ending
from relay.sse.dialects import HEARTBEAT_LINE
from relay.stores.store import Answer, Card, Sealed, Tail
from relay.wires.alarms import Alarms
from relay.wires.engine import Engine


class Mirror(Run):
    """Implements stores.store.Reader.

    Attributes:
        held: by who is about to read; with the last of them and the last viewer it is `left`.
        answer: what its source brought instead of a stream.
        tail: where it comes from; None: not any more.
        loaded: set when all is here that there was.
    """

    __slots__ = ("_left", "answer", "held", "loaded", "tail")

    def __init__(
        self,
        card: Card,
        route: Route,
        engine: Engine,
        alarms: Alarms,
        keeper: Keeper,
        left: Callable[[Mirror], None],
    ) -> None:
        super().__init__(
            route,
            engine,
            alarms,
            keeper,
            None,
            id=card.id,
            number=card.number,
            identity=card.identity,
            key=card.key,
            owner=card.owner,
            request=card.request,
            begun_by_get=card.begun_by_get,
            whose=card.owner,
        )
        self._left = left
        self.held = 0
        self.answer: Answer | None = None
        self.tail: Tail | None = None
        self.loaded = trio.Event()

    # -- what the store says -------------------------------------------------------------------------------------

    def head(self, fields: Fields) -> None:
        self.fields = fields
        self.decided.set()

    def take(self, first: int, events: Sequence[bytes]) -> None:
        log = self.log
        if log.end is not None:
            return
        before = log.size
        at = size = 0
        for end, event in enumerate(events, 1):
            size += len(event)
            if size > self._at_once or end == len(events):
                log.extend(first + at, events[at:end])
                at, size = end, 0
                if end < len(events):
                    self.fanout.catch_up()  # before the log trims what its readers were not given yet
        self.last_out = trio.current_time()
        self.fanout.deliver()
        self._keeper.grown(log.size - before)

    def ended(self, sealed: Sealed) -> None:
        self.answer = sealed.answer
        self._finish(sealed.end, sealed.ending)

    def _finish(self, end: End, ending: Ending) -> None:
        if self.log.seal(end):
            self.ending = ending
            self.fanout.deliver()
        self.decided.set()

    def stop(self, cause: Cause) -> None:
        """For its readers here alone: a fault of ours, or a store that has ended."""
        ending = ended_by_us(cause)
        self._finish(bad_end(self.route, self.id, ending), ending)

    # -- viewers -------------------------------------------------------------------------------------------------

    def enter(self) -> None:
        self.viewers += 1
        self.most_viewers = max(self.most_viewers, self.viewers)

    def leave(self) -> None:
        self.viewers -= 1
        self.let_be()

    def let_be(self) -> None:
        """Is it left by everybody?"""
        if not self.viewers and not self.held:
            self._left(self)

    def due(self) -> float:
        """Its only clock is the heartbeat: how long the run is kept, its owner decides."""
        return self.last_out + self.route.heartbeat if self.under_way and self.viewers else inf

    def ring(self, now: float) -> float:
        if now >= self.due():
            self.last_out = now
            self.fanout.say(HEARTBEAT_LINE)
        return self.due()

    def set_back(self, seconds: float, now: float) -> None:
        """Called by Alarms: see `Clock`. Nothing here counts against anybody."""

    def put_away(self) -> int:
        """Nobody reads it here any more. Returns: the bytes that this frees."""
        self._alarms.forget(self)
        if self.tail is not None:
            self.tail.close()
            self.tail = None
        return self.log.drop()
