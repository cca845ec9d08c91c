"""What is left to do for exchanges that are over: a cancel request to a broker.

Rules
  * A background task outlives the exchange that asked for it, but never its own deadline; a drain waits for
    it. Nothing here is shielded, so a second signal ends them with everything else.
  * It keeps the place of its client among all clients: who posts jobs and leaves, again and again,
    has no more of them under way than `limits.connections` allows.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from relay.wires.alarms import Alarms

logger = logging.getLogger("relay")


def _nobody() -> None:
    """The default of `ended`: nobody waits for the end."""


class BackgroundTasks:
    """The background tasks of one worker. `run` is the task they run under."""

    __slots__ = ("_alarms", "_done", "_nursery", "_running")

    def __init__(self, alarms: Alarms) -> None:
        self._alarms = alarms
        self._nursery: trio.Nursery | None = None
        self._running = 0
        self._done = trio.Event()

    def __len__(self) -> int:
        """How many are under way."""
        return self._running

    async def run(self) -> None:
        """Keep the nursery open, for ever."""
        try:
            async with trio.open_nursery() as self._nursery:
                await trio.sleep_forever()
        finally:
            self._nursery = None

    def start(
        self, job: Callable[[], Awaitable[None]], within: float, ended: Callable[[], None] = _nobody
    ) -> None:
        """Run `job`, for at most `within` seconds; not at all where the worker has ended with all its tasks.

        Args:
            ended: called when it has.
        """
        if self._nursery is None:
            ended()
            return
        self._running += 1
        self._nursery.start_soon(self._run, job, within, ended)

    async def done(self) -> None:
        """Wait until none is under way."""
        while self._running:
            self._done = trio.Event()
            await self._done.wait()

    async def _run(
        self, job: Callable[[], Awaitable[None]], within: float, ended: Callable[[], None]
    ) -> None:
        try:
            with self._alarms.within(within):
                await job()
        except Exception:
            logger.exception("a fault of relay's own in a background task")
        finally:
            ended()
            self._running -= 1
            if not self._running:
                self._done.set()
