"""Room for so many connections, in a number that a reload may change."""

from __future__ import annotations

import trio


class ConnectionSlots:
    """Taken before accept, so that what cannot be served waits in the kernel."""

    __slots__ = ("_limit", "_lot", "taken")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lot = trio.lowlevel.ParkingLot()
        self.taken = 0

    @property
    def full(self) -> bool:
        return self.taken >= self._limit

    async def acquire(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        while self.taken >= self._limit:
            await self._lot.park()
        self.taken += 1

    def take(self) -> None:
        """Take one above the limit if it must be (what a closing listener has queued)."""
        self.taken += 1

    def release(self) -> None:
        self.taken -= 1
        if self.taken < self._limit:
            self._lot.unpark()

    def resize(self, limit: int) -> None:
        """More room at once; less as connections end."""
        self._limit = limit
        self._lot.unpark_all()
