"""The writing end of a run in a directory, its owner's alone.

    entered ─► head ─► grown … ─► sealed ─► forgotten
        └──── an OSError anywhere: failing ── again, in order, from the log in memory ──► stored

Rule: what could not be put down is put down in the order in which it happened, so nobody sees an end before its events.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import trio

from relay.flows.event_log import End
from relay.http.bodies import Fields
from relay.observing.ending import Ending
from relay.stores.dir_files import Alive, Files
from relay.stores.dir_segments import SegmentWriter
from relay.stores.store import Answer, Card, Known, Owner, Sealed

_ALL: Final = 1 << 62
LINGER: Final = 10.0  # seconds that the end of a candidate is kept, for those who wait elsewhere


class Journal:
    """See store.Journal.

    Attributes:
        watchers: processes that read it.
    """

    def __init__(
        self,
        files: Files,
        card: Card,
        process: str,
        wake: Callable[[Journal], None],
        failed: Callable[[str, OSError, Journal], None],
        closed: Callable[[Journal], None],
        took: Callable[[float], None],
    ) -> None:
        """took: told how many seconds an append took."""
        self.card = card
        self.owner: Owner | None = None
        self.watchers: set[str] = set()
        self.failing = False
        self._files = files
        self._process = process
        self._wake = wake
        self._failed = failed
        self._closed = closed
        self._took = took
        self._entered = False
        self._fields: Fields | None = None
        self._has_head = False
        self._segments = SegmentWriter(files, card.identity, card.limit)
        self._sealed: Sealed | None = None
        self._ended = False  # the end is there

    @property
    def stored(self) -> bool:
        return not self.failing

    @property
    def certain(self) -> bool:
        return not self.failing

    def enter(self, alive: Alive) -> Known | None:
        """Put down the candidate; a Known: another one is asking the same. Never raises."""
        try:
            repeated = self._files.enter(self.card, self._process, alive)
        except OSError as error:
            self._fail("begin", error)
            return None
        self._entered = True
        return repeated

    async def head(self, fields: Fields) -> None:
        self._fields = fields
        if not self.failing:
            try:
                self._put_head()
            except OSError as error:
                self._fail("head", error)
            self._wake(self)
        await trio.lowlevel.checkpoint()

    def grown(self) -> None:
        if self.failing or self._sealed is not None:
            return
        began = time.perf_counter()
        try:
            self._put_events()
        except OSError as error:
            self._fail("append", error)
            return
        self._took(time.perf_counter() - began)
        if self.watchers:
            self._wake(self)

    def seal(self, end: End, ending: Ending, answer: Answer | None = None) -> Sealed:
        if self._sealed is not None:
            return self._sealed
        assert self.owner is not None
        keep = self.card.keep if self._fields is not None else LINGER
        last = self.owner.log.last
        self._sealed = Sealed(end, ending, last, time.time() + keep, answer)
        if not self.failing:
            try:
                self._put_events()
                self._put_end()
            except OSError as error:
                self._fail("seal", error)
            self._wake(self)
        return self._sealed

    async def settled(self) -> None:
        await trio.lowlevel.checkpoint()

    def forget(self) -> None:
        self._segments.close()
        self._closed(self)
        try:
            self._files.forget(self.card)
        except OSError as error:
            self._failed("forget", error, self)
        self._wake(self)

    def let_go(self) -> None:
        """The process ends: give back the descriptor."""
        self._segments.close()

    # -- putting down --------------------------------------------------------------------------------------------

    def _put_head(self) -> None:
        if self._fields is not None and not self._has_head:
            self._files.head(self.card, self._fields)
            self._has_head = True

    def _put_events(self) -> None:
        if self._ended or self.owner is None:
            return
        log, segments = self.owner.log, self._segments
        after = max(segments.last, log.first - 1)
        if after < log.last:
            segments.append(after + 1, log.some(after, _ALL))

    def _put_end(self) -> None:
        if self._sealed is None or self._ended:
            return
        stands = self._files.seal(self.card.identity, self._sealed)
        if stands is not None:
            self._sealed = stands
        self._finish()

    def _finish(self) -> None:
        self._ended = True
        self._segments.close()
        if self._fields is None:
            self._files.release(self.card)
        self._closed(self)

    def _fail(self, what: str, error: OSError) -> None:
        self.failing = True
        self._failed(what, error, self)

    def again(self) -> bool:
        """Put down what is missing. Returns: whether others can see all there is. Never raises."""
        try:
            if not self._entered:
                self._files.forget(self.card)  # what there may be of it
                self._files.enter(self.card, self._process, None)
                self._entered = True
            self._put_head()
            self._put_events()
            self._put_end()
        except OSError as error:
            self._failed("again", error, self)
            return False
        self.failing = False
        self._wake(self)
        return True

    # -- others --------------------------------------------------------------------------------------------------

    def watched(self, process: str, watches: bool) -> None:
        """A process reads it, or does no longer."""
        before = len(self.watchers)
        (self.watchers.add if watches else self.watchers.discard)(process)
        if len(self.watchers) != before and self.owner is not None:
            self.owner.watched_elsewhere(len(self.watchers))

    def look_at_end(self) -> None:
        """Somebody says that it is sealed."""
        if self._sealed is not None or self.owner is None:
            return
        try:
            sealed = self._files.end(self.card.identity)
        except OSError as error:
            self._failed("read", error, self)
            return
        if sealed is not None:
            self._sealed = sealed
            self._finish()
            self._wake(self)
            self.owner.ended_elsewhere(sealed)
