"""The runs of other processes, and what others see of ours: the book of this process and its store as one shelf.

    question ─► looked: what the store knows, beside what is here ─► decide ─► hold a run ─► its mirror ─► viewers

Rules
  * What is here is served from here: the store is asked which runs there are and whose the key is, never for events of ours.
  * An end that the store has stands: it is told to a run of ours that has not heard of it yet.
  * A run whose owner is dead is sealed as lost by the first who looks.
  * What the store missed of ours (`Journal.stored`) is on the shelf all the same.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from relay.config.values import Route
from relay.feeds.book import Book
from relay.feeds.decisions import Question
from relay.feeds.endings import bad_end, ended_by_us
from relay.feeds.mirror import Mirror
from relay.feeds.run import OVERHEAD, Run
from relay.observing.ending import Cause
from relay.stores.store import Card, Journal, Known, Look, Sealed, Store
from relay.wires.alarms import Alarms
from relay.wires.engine import Engine

AnyRun = Run | Known


class Elsewhere:
    """What a store knows, for one process.

    Attributes:
        route: by its name, as it is configured just now.
    """

    def __init__(
        self,
        store: Store,
        book: Book,
        engine: Engine,
        alarms: Alarms,
        route: Callable[[str], Route | None],
    ) -> None:
        self.store = store
        self._book = book
        self._engine = engine
        self._alarms = alarms
        self._route = route
        self._mirrors: dict[bytes, Mirror] = {}

    def __len__(self) -> int:
        """How many runs of others are read here."""
        return len(self._mirrors)

    async def begin(self, card: Card, route: Route) -> Journal | AnyRun:
        """Enter a new run; or the one that it would repeat."""
        while True:
            found = await self.store.begin(card)
            if not isinstance(found, Known):
                return found
            if not found.lost:
                return self.here(found)
            await self._seal(found, route, Cause.LOST)

    async def looked(self, route: Route, owner: bytes, asked: Question) -> Shelf:
        """What there is, here and elsewhere, for one question."""
        book = self._book
        identity = None
        if asked.cursor is not None and asked.cursor.run:
            identity = book.hashed("run", route.name, owner, asked.cursor.run)
        look = await self._look(identity, asked.key, route)
        return Shelf(self, book, look, identity)

    async def _look(self, identity: bytes | None, key: str | None, route: Route) -> Look:
        """What the store knows, with an end for all whose owner is dead."""
        look = await self.store.look(identity, key)
        lost = [known for known in look.below if known.lost]
        if look.run is not None and look.run.lost and look.run not in lost:
            lost.append(look.run)
        if not lost:
            return look
        for known in lost:
            await self._seal(known, route, Cause.LOST)
        return await self.store.look(identity, key)

    async def _seal(self, known: Known, asked: Route, cause: Cause) -> Sealed | None:
        route = self._route(known.card.route) or asked
        ending = ended_by_us(cause)
        return await self.store.seal(known.card.identity, bad_end(route, known.id, ending), ending)

    def here(self, known: Known) -> AnyRun:
        """The run itself where it is ours, or read here already."""
        identity = known.card.identity
        run = self._book.run(identity)
        if run is not None:
            if known.sealed is not None and run.under_way:
                run.ended_elsewhere(known.sealed)
            if self._book.run(identity) is run:
                return run  # else its events went with that end: who asks now reads what others do
        mirror = self._mirrors.get(identity)
        if mirror is not None and mirror.loaded.is_set() and mirror.tail is not None:
            return mirror
        return known

    # -- reading -------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def held(self, known: Known, asked: Route) -> AsyncIterator[Mirror | None]:
        """The mirror of a run, with all that it has; it stays as long as this block or a viewer. None: it is gone."""
        identity = known.card.identity
        mirror = self._mirrors.get(identity)
        opens = mirror is None
        if mirror is None:
            route = self._route(known.card.route) or asked
            mirror = Mirror(known.card, route, self._engine, self._alarms, self._book, self._left)
            self._mirrors[identity] = mirror
            self._book.grown(OVERHEAD)
        mirror.held += 1
        try:
            if opens:
                try:
                    mirror.tail = await self.store.read(identity, mirror)
                finally:
                    mirror.loaded.set()
            else:
                await mirror.loaded.wait()
            yield mirror if mirror.tail is not None else None
        finally:
            mirror.held -= 1
            mirror.let_be()

    def _left(self, mirror: Mirror) -> None:
        """Nobody here reads it any more."""
        if self._mirrors.get(mirror.identity) is mirror:
            del self._mirrors[mirror.identity]
            self._book.grown(-OVERHEAD - mirror.put_away())

    # -- stop ----------------------------------------------------------------------------------------------------

    async def stop(self, key: str, wanted: bytes | None, asked: Route) -> tuple[int, int]:
        """Stop what is under way below a key (hashed), or one run of it. Returns: how many there were, and were stopped."""
        look = await self._look(None, key, asked)
        found: dict[bytes, AnyRun] = {known.card.identity: self.here(known) for known in look.below}
        for ours in self._book.below(key):
            found.setdefault(ours.identity, ours)
        below = [run for run in found.values() if wanted in (None, run.id.encode())]
        stopped = [run for run in below if run.under_way]
        for run in stopped:
            if isinstance(run, Known):
                await self._seal(run, asked, Cause.STOPPED)
            elif isinstance(run, Mirror):
                ending = ended_by_us(Cause.STOPPED)
                await self.store.seal(run.identity, bad_end(run.route, run.id, ending), ending)
            else:
                journal = run.journal
                run.stop(Cause.STOPPED)
                if journal is not None:
                    await journal.settled()
        return len(below), len(stopped)


class Shelf:
    """The runs that one question may be about. Implements feeds.decisions.Shelf."""

    __slots__ = ("_book", "_elsewhere", "_identity", "_look", "_one")

    def __init__(
        self, elsewhere: Elsewhere, book: Book, look: Look, identity: bytes | None
    ) -> None:
        self._elsewhere = elsewhere
        self._book = book
        self._look = look
        self._identity = identity
        self._one: dict[bytes, Known] = {}  # so that what is one run is one object

    def _found(self, known: Known) -> AnyRun:
        return self._elsewhere.here(self._one.setdefault(known.card.identity, known))

    def run(self, run_id: str) -> AnyRun | None:
        """The one of the question's cursor."""
        if self._look.run is not None:
            return self._found(self._look.run)
        run = self._book.run(self._identity) if self._identity is not None else None
        return run if run is not None and _only_here(run) else None

    def current(self, key: str) -> AnyRun | None:
        found: list[AnyRun] = []
        for known in self._look.below:
            if known.key == key:
                run = self._found(known)
                # Its head may have come since the look: then the key has moved, and nothing is a candidate any more.
                if known.current or (known.candidate and not run.candidate):
                    found.append(run)
        ours = self._book.current(key)
        if ours is not None and _only_here(ours):
            found.append(ours)
        return max(found, key=_number, default=None)

    def candidate(self, key: str, request: bytes | None) -> AnyRun | None:
        for run in self._below(key):
            if run.candidate and run.under_way and request in (None, run.request):
                return run
        return None

    def _below(self, key: str) -> Iterable[AnyRun]:
        for known in self._look.below:
            if known.key == key:
                yield self._found(known)
        for run in self._book.below(key):
            if _only_here(run):
                yield run


def _number(run: AnyRun) -> int:
    return run.card.number if isinstance(run, Known) else run.number


def _only_here(run: Run) -> bool:
    """The store could not be told of it."""
    return run.journal is not None and not run.journal.stored
