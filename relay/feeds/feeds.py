"""The feeds of one worker: tasks beside all clients, and the book of their runs.

A feed outlives the client that began it and ends with its run. `run` is the task they live under; cancelling it ends all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from relay.config.values import Route, Streams
from relay.feeds.book import Book
from relay.feeds.elsewhere import Elsewhere
from relay.feeds.run import Run
from relay.http.bodies import Fields
from relay.observing.ending import Cause
from relay.observing.record import Record
from relay.sources.reply import Reply
from relay.stores.store import Store
from relay.wires.alarms import Alarms
from relay.wires.engine import Engine


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
    """What is under way, by run."""

    __slots__ = ("_ended", "_nursery", "_under_way", "book", "elsewhere")

    def __init__(
        self,
        engine: Engine,
        alarms: Alarms,
        limits: Streams,
        store: Store | None,
        route: Callable[[str], Route | None],
    ) -> None:
        """
        Args:
            store: shared with other processes; None: memory is all there is.
            route: by its name, as it is configured just now.
        """
        pepper = store.pepper if store is not None else None
        self.book = Book(engine, alarms, limits, pepper)
        self.elsewhere = (
            Elsewhere(store, self.book, engine, alarms, route) if store is not None else None
        )
        self._under_way: dict[Run, Feed] = {}
        self._nursery: trio.Nursery | None = None
        self._ended = trio.Event()

    def __len__(self) -> int:
        """How many runs are under way."""
        return len(self._under_way)

    async def run(self) -> None:
        """Keep the nursery open, for ever. Cancellation: every run is sealed `lost`."""
        async with trio.open_nursery() as beside:
            # The store outlives the runs, which put down their ends on the way out; they take no time for it.
            keeping = trio.CancelScope(shield=True)
            if self.elsewhere is not None:
                beside.start_soon(_within, keeping, self.elsewhere.store.run)
            try:
                async with trio.open_nursery() as self._nursery:
                    await trio.sleep_forever()
            finally:
                keeping.cancel()

    def start(self, feed: Feed) -> None:
        """Let `feed` live beside all exchanges."""
        assert self._nursery is not None and feed.run is not None
        self._under_way[feed.run] = feed
        self._nursery.start_soon(self._live, feed)

    def of(self, run: Run) -> Feed | None:
        """Who feeds `run`; None once it has ended."""
        return self._under_way.get(run)

    def under_way(self) -> list[Feed]:
        """All that live."""
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


async def _within(scope: trio.CancelScope, job: Callable[[], Awaitable[None]]) -> None:
    with scope:
        await job()
