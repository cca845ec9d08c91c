"""The feeds of one worker: tasks beside all clients, and the book of their runs.

A feed outlives the client that began it and ends with its run. `run` is the task they live under; cancelling it ends all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import trio

from relay.config.values import Route, Streams
from relay.feeds.book import Book
from relay.feeds.run import Run
from relay.http.bodies import Fields
from relay.observing.ending import Cause
from relay.observing.record import Record
from relay.sources.reply import Reply
from relay.stores.store import Store
from relay.wires.alarms import Alarms
from relay.wires.engine import Engine

if TYPE_CHECKING:
    from relay.feeds.elsewhere import Elsewhere


class Feed(Protocol):
    """One run under way, as those see it who wait for it or look at it."""

    run: Run | None
    others: int  # who waits for the head beside the one who began
    cookies: Fields  # of the response, for the one who began

    @property
    def record(self) -> Record:
        """What is known of its request."""

    @property
    def committed(self) -> trio.Event:
        """Set when the source wants the head of the stream out, before it has one."""

    async def live(self) -> None:
        """Until its run has ended. Never raises but for cancellation."""

    def take(self) -> Reply:
        """What the source brought, where that is no stream. Raises: Failure, Fault."""


class Feeds:
    """The feeds under way in this worker, by their runs."""

    __slots__ = (
        "_alarms",
        "_beside",
        "_ended",
        "_engine",
        "_keeping",
        "_nursery",
        "_route",
        "_under_way",
        "book",
        "elsewhere",
    )

    def __init__(
        self,
        engine: Engine,
        alarms: Alarms,
        limits: Streams,
        route: Callable[[str], Route | None],
    ) -> None:
        """route: by its name, as it is configured just now."""
        self.book = Book(engine, alarms, limits)
        self.elsewhere: Elsewhere | None = None
        self._engine = engine
        self._alarms = alarms
        self._route = route
        self._beside: trio.Nursery | None = None
        self._keeping = trio.CancelScope(shield=True)
        self._under_way: dict[Run, Feed] = {}
        self._nursery: trio.Nursery | None = None
        self._ended = trio.Event()

    def __len__(self) -> int:
        """How many runs are under way."""
        return len(self._under_way)

    async def run(self) -> None:
        """Keep the nursery open, for ever. Cancellation: every run is sealed `lost`."""
        async with trio.open_nursery() as self._beside:
            if self.elsewhere is not None:
                self._beside.start_soon(self._keep, self.elsewhere.store)
            try:
                async with trio.open_nursery() as self._nursery:
                    await trio.sleep_forever()
            finally:
                self._keeping.cancel()

    def share(self, store: Store) -> None:
        """Keep runs in a store, from now on: before the first of them."""
        assert not len(self.book), "runs that the store does not know"
        from relay.feeds.elsewhere import Elsewhere  # only where there is a store

        self.book.pepper = store.pepper
        self.elsewhere = Elsewhere(store, self.book, self._engine, self._alarms, self._route)
        if self._beside is not None:
            self._beside.start_soon(self._keep, store)

    async def _keep(self, store: Store) -> None:
        # It outlives the runs, which put down their ends on the way out: `run` ends it behind them.
        with self._keeping:
            await store.run()

    def start(self, feed: Feed) -> None:
        """Let `feed` live beside all exchanges."""
        assert self._nursery is not None and feed.run is not None
        self._under_way[feed.run] = feed
        self._nursery.start_soon(self._live, feed)

    def of(self, run: Run) -> Feed | None:
        """Who feeds `run`; None once it has ended."""
        return self._under_way.get(run)

    def under_way(self) -> list[Feed]:
        """Every feed under way."""
        return list(self._under_way.values())

    def stop(self, shown: str) -> bool:
        """Stop the runs that logs and pages call so; False: there is none."""
        found = [run for run in self._under_way if run.shown == shown]
        for run in found:
            run.stop(Cause.STOPPED)
        return bool(found)

    def lose(self) -> None:
        """The process ends: what is still under way will not come to its end here."""
        for run in tuple(self._under_way):
            run.stop(Cause.LOST)

    async def end(self) -> None:
        """Lose what is still under way, and wait until every upstream of it is let go."""
        self.lose()
        while self._under_way:
            self._ended = trio.Event()
            await self._ended.wait()
        await trio.lowlevel.checkpoint()

    async def _live(self, feed: Feed) -> None:
        try:
            await feed.live()
        finally:
            assert feed.run is not None
            self._under_way.pop(feed.run, None)
            if not self._under_way:
                self._ended.set()
