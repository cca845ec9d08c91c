"""Messages of one sender, one after the other (`order_by`).

Rules
  * First come, first served, for each key; different keys never wait for each other.
  * Who leaves while waiting gives its place up, and the order of the others stays.
  * A key is known only while somebody holds or awaits its turn: nothing is kept for a sender that
    is quiet.

One `Ordering` per route and worker: with several workers, what one sender sends over several
connections keeps its order only as far as the kernel gives them to the same worker.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from relay.observing.ending import Cause, Side
from relay.sources.reply import Failure
from relay.wires.alarms import Deadline


class Ordering:
    """The turns of one route."""

    __slots__ = ("_locks",)

    def __init__(self) -> None:
        self._locks: dict[str, trio.Lock] = {}  # Trio's lock is fair, and its queue is the order

    def __len__(self) -> int:
        """How many keys somebody holds or awaits."""
        return len(self._locks)

    @property
    def waiting(self) -> int:
        """How many wait for their turn, over all keys."""
        return sum(lock.statistics().tasks_waiting for lock in self._locks.values())

    @asynccontextmanager
    async def turn(self, key: str, within: Deadline) -> AsyncIterator[None]:
        """Hold the turn of `key` for the block.

        Args:
            within: how long to wait for it.

        Raises: Failure, when it did not come in time.
        """
        lock = self._locks.setdefault(key, trio.Lock())
        try:
            with within:
                await lock.acquire()
            if within.passed:
                raise _too_late(within.seconds)
            try:
                yield
            finally:
                lock.release()  # to the next in the queue, if there is one
        finally:
            if not lock.locked() and self._locks.get(key) is lock:
                del self._locks[key]


def _too_late(within: float) -> Failure:
    return Failure(
        503,
        Cause.SHED,
        f"an earlier message of this sender was not accepted within {within:g} s",
        side=Side.RELAY,
        code="order_timeout",
    )
