"""One run: a request to the source, the events it brought, and everybody who reads them.

    begun ──head(fields)──► under way ──seal(end)──► ended ──keep──► forgotten
      └────not a stream──► forgotten

Rules
  * The key moves to a run when its head is there (`Book.head`), never back; a sealed run never grows.
  * Who waits for the head counts as a viewer. When the last one leaves, a clock starts: `unwatched`.
  * What is per reader is in `viewers`; here is what is per run, and one clock for all of it: heartbeats, unwatched, keep.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from math import inf
from typing import Final, Protocol

import trio

from relay.config.values import Resume, Route
from relay.feeds.endings import bad_end, ended_by_us
from relay.feeds.fanout import Fanout
from relay.flows.event_log import READ, End, EventLog
from relay.http.bodies import Fields
from relay.observing.ending import Cause, Ending
from relay.sse.blocks import Kind, blocks, kind, last_id, retry, stamp
from relay.sse.capture import Capture
from relay.sse.dialects import HEARTBEAT_LINE
from relay.stores.store import Journal, Sealed
from relay.wires.alarms import Alarms, Entry
from relay.wires.engine import Engine

OVERHEAD: Final = 4096  # bytes a run is counted for beside its events: its objects, its request's head, its entries

logger = logging.getLogger("relay")

Stop = Callable[[Cause], None]


class Keeper(Protocol):
    """Who keeps runs: it bounds them all together."""

    def grown(self, size: int) -> None:
        """A log has so many bytes more, or fewer."""

    def unwatched(self, run: Run) -> None:
        """This run has no viewer any more: its unwatched time begins."""

    def watched(self, run: Run) -> None:
        """The run has a viewer again."""

    def ended(self, run: Run) -> None:
        """The run was sealed."""

    def unread(self, run: Run) -> None:
        """The run has ended, and its last reader has left."""

    def forget(self, run: Run) -> None:
        """Its time is over."""

    def let_go(self, run: Run) -> None:
        """It is forgotten and nobody reads it: its events go now."""


class Run:
    """One run. Implements feeds.decisions.KnownRun, and a Clock.

    Attributes:
        number: in the order of beginning.
        identity, key, owner: hashes, of (route, principal, id), (where, principal, key) and the principal.
        request: what makes a repetition of it, hashed.
        whose: what its unwatched time counts against: the principal, or a client's address.
        fields: of its response head, as every viewer gets them; None while there is none.
        capture: what its events said, where the route asks for that.
        decided: set when `fields` is there, or the source brought something else, or it was stopped.
        viewers: who reads or waits for the head.
        journal: what others see of it; None: nobody does.
        elsewhere: other processes that have viewers of it.
        most_viewers, unwatched_seconds: for its line in the log.
    """

    __slots__ = (
        "_alarms",
        "_at_once",
        "_forgotten",
        "_keeper",
        "_prefix",
        "_stop",
        "begun_by_get",
        "capture",
        "decided",
        "elsewhere",
        "ending",
        "entry",
        "fanout",
        "fields",
        "id",
        "identity",
        "journal",
        "key",
        "last_out",
        "log",
        "most_viewers",
        "number",
        "owner",
        "request",
        "resume",
        "route",
        "until",
        "unwatched_seconds",
        "unwatched_since",
        "upstream_id",
        "viewers",
        "whose",
    )

    def __init__(
        self,
        route: Route,
        engine: Engine,
        alarms: Alarms,
        keeper: Keeper,
        stop: Stop | None,
        *,
        id: str,
        number: int,
        identity: bytes,
        key: str,
        owner: bytes,
        request: bytes,
        begun_by_get: bool,
        whose: bytes,
    ) -> None:
        assert route.resume is not None
        self.route = route
        self.resume: Resume = route.resume
        self.id = id
        self._prefix = b"%b-" % id.encode()
        self.number = number
        self.identity = identity
        self.key = key
        self.owner = owner
        self.request = request
        self.begun_by_get = begun_by_get
        self.log = EventLog(self.resume.log)
        # Bytes of a read that are logged before they are handed on.
        self._at_once = min(READ, self.resume.log // 2)
        self.whose = whose
        self.fanout = Fanout(self.log, engine, self._crashed)
        self.fields: Fields | None = None
        self.capture: Capture | None = None
        self.decided = trio.Event()
        self.ending: Ending | None = None
        self.journal: Journal | None = None
        self.elsewhere = 0
        self.viewers = 0
        self.most_viewers = 0
        self.upstream_id: bytes | None = None  # the last `id` that the upstream itself gave
        self.unwatched_since = trio.current_time()  # inf: somebody watches
        self.unwatched_seconds = 0.0
        self.last_out = self.unwatched_since
        self.until = inf  # when an ended run is forgotten
        self.entry: Entry | None = None
        self._alarms = alarms
        self._forgotten = False
        self._keeper = keeper
        self._stop: Stop | None = stop

    @property
    def shown(self) -> str:
        """The id for logs and pages. Of a run without a key it is what lets one read it: its first 8 characters."""
        return self.id if self.resume.key is not None else self.id[:8]

    # -- what decisions ask --------------------------------------------------------------------------------------

    @property
    def candidate(self) -> bool:
        return self.fields is None

    @property
    def first(self) -> int:
        return self.log.first

    @property
    def last(self) -> int:
        return self.log.last

    @property
    def under_way(self) -> bool:
        return self.log.end is None

    @property
    def clean(self) -> bool:
        return self.log.end is not None and self.log.end.clean

    @property
    def over(self) -> bool:
        return self.log.end is not None and self.log.end.over

    # -- its life ------------------------------------------------------------------------------------------------

    def stop(self, cause: Cause) -> None:
        """End it, if it is under way; sealed when this returns."""
        if self.under_way and self._stop is not None:
            self._stop(cause)

    def append(self, whole: bytes) -> None:
        """Whole blocks came: keep the events among them, each with its id.

        A block that only has an `id` moves the cursor for the upstream, a comment says nothing. One that only has a
        reconnection time is told to those who read just now, as a line that dispatches nothing.
        """
        log = self.log
        before, last = log.size, log.last
        due = log.total + self._at_once
        for block in blocks(whole):
            if self.resume.reconnect:
                given = last_id(block)
                self.upstream_id = given if given is not None else self.upstream_id
            what = kind(block)
            if what is Kind.EVENT:
                log.append(stamp(block, b"%b%d" % (self._prefix, log.last + 1)))
                if log.total > due:  # before the log trims what its readers were not given yet
                    if self.journal is not None:
                        self.journal.grown()
                    self.fanout.catch_up()
                    due = log.total + self._at_once
            elif what is Kind.SILENT and self.route.dialect != "openai":
                self._hint(retry(block))
        if log.last != last:
            self.last_out = trio.current_time()
            if self.journal is not None:
                self.journal.grown()
            self.fanout.deliver()
            self._keeper.grown(log.size - before)

    def _hint(self, wait: int | None) -> None:
        """A reconnection time of the upstream's. A `retry` line counts at its own end (WHATWG HTML §9.2.6), so it needs no
        blank line, which some readers take for an event."""
        if wait is not None:
            self.fanout.deliver()
            self.fanout.say(b"retry: %d\n" % wait)

    def seal(self, end: End, ending: Ending) -> bool:
        """It has ended. Returns: whether it was under way; what stands is the end that was put down first, by whoever."""
        if self.log.end is not None:
            return False
        if self.journal is not None:
            sealed = self.journal.seal(end, ending)
            end, ending = sealed.end, sealed.ending
        self._end(end, ending)
        return True

    def ended_elsewhere(self, sealed: Sealed) -> None:
        """Another process put down the end. Called by the journal."""
        if self.log.end is None:
            stop = self._stop
            self._end(sealed.end, sealed.ending)
            if stop is not None:
                stop(sealed.ending.cause)

    def _end(self, end: End, ending: Ending) -> None:
        self.log.seal(end)
        now = trio.current_time()
        self.ending = ending
        self._stop = None
        self._watch(now)
        self.until = now + self.resume.keep
        self.fanout.deliver()
        self._alarms.arm(self, self.until)
        self._keeper.ended(self)

    # -- viewers -------------------------------------------------------------------------------------------------

    def enter(self) -> None:
        """A viewer has come: it reads, or waits for the head."""
        if not self.viewers and not self.elsewhere and self.under_way:
            self._watch(trio.current_time())
            self._keeper.watched(self)
        self.viewers += 1
        self.most_viewers = max(self.most_viewers, self.viewers)

    def leave(self) -> None:
        """A viewer has left."""
        self.viewers -= 1
        if self.viewers:
            return
        if self._forgotten:
            self.stop(Cause.UNWATCHED)  # an answer that is no stream, and nobody is left to take it
            self._let_go()
            return
        if not self.under_way:
            self._keeper.unread(self)
        elif not self.elsewhere:
            self._unwatched()

    def last_words(self) -> tuple[End, Ending]:
        """The end that is put down where the store has lost events of this run."""
        ending = ended_by_us(Cause.LOST)
        return bad_end(self.route, self.id, ending), ending

    def kept_elsewhere(self) -> None:
        """The store has all of it, and does not need it from here any more. Called by the journal."""
        if not self.under_way and not self.viewers and not self._forgotten:
            self._keeper.unread(self)

    def watched_elsewhere(self, processes: int) -> None:
        """So many other processes have viewers. Called by the journal."""
        before, self.elsewhere = self.elsewhere, processes
        if self.viewers or self._forgotten or not self.under_way or bool(before) == bool(processes):
            return
        if processes:
            self._watch(trio.current_time())
            self._keeper.watched(self)
        else:
            self._unwatched()

    def _unwatched(self) -> None:
        """Nobody watches it, here or elsewhere."""
        self.unwatched_since = trio.current_time()
        if self.resume.unwatched <= 0:
            self.stop(Cause.UNWATCHED)
            return
        self._keeper.unwatched(self)
        self._alarms.arm(self, self.due())

    def _watch(self, now: float) -> None:
        if self.unwatched_since != inf:
            self.unwatched_seconds += now - self.unwatched_since
            self.unwatched_since = inf

    def _crashed(self, error: Exception) -> None:
        """A bug of ours in a step that serves its viewers: it costs this run alone."""
        _log_fault(error)
        self.stop(Cause.FAULT)

    # -- its clock -----------------------------------------------------------------------------------------------

    def watch_clock(self) -> None:
        """See that heartbeats go out: somebody stands at the tail."""
        self._alarms.arm(self, self.due())

    def due(self) -> float:
        """When `ring` has something to do."""
        if not self.under_way:
            return self.until
        if not self.viewers:
            return inf if self.elsewhere else self.unwatched_since + self.resume.unwatched
        return self.last_out + self.route.heartbeat

    def ring(self, now: float) -> float:
        if now >= self.due():
            if not self.under_way:
                self._keeper.forget(self)
                return inf
            if not self.viewers:
                self.stop(Cause.UNWATCHED)
            else:
                self.last_out = now
                self.fanout.say(HEARTBEAT_LINE)
        return self.due()

    def set_back(self, seconds: float, now: float) -> None:
        """Called by Alarms: see `Clock`. Who comes back may be waiting in the listen queue."""
        if not self.under_way:
            self.until = min(self.until + seconds, now + self.resume.keep)
        elif not self.viewers and not self.elsewhere:
            self.unwatched_since = min(self.unwatched_since + seconds, now)

    def forget(self) -> None:
        """Nobody finds it any more, and no clock rings for it; its events go with the last who reads them."""
        self._alarms.forget(self)
        self._forgotten = True
        if not self.viewers:
            self._let_go()

    def _let_go(self) -> None:
        """Nobody finds it and nobody reads it: give up the events now, and what refers back to this."""
        self._keeper.let_go(self)
        self.log.drop()
        self.fanout.crash = _log_fault


def _log_fault(error: Exception) -> None:
    logger.error("a fault of relay's own; it cost one run", exc_info=error)
