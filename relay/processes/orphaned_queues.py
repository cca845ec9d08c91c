"""A queue outlives its worker.

Each worker has listening sockets of its own, and the kernel gives them their share of the clients
whether the worker lives or not. While a slot has no worker that serves (it has died and its
successor is not there yet, or not before a pause) another worker accepts from its sockets too:

    a worker dies, leaves ─► cover, to one that serves ─► its successor is READY ─► uncover

Closing the sockets meanwhile would reset whoever waits in them; leaving them to themselves would
let new clients wait where nobody comes. Where no worker serves at all, the clients wait in the
queues, which the supervisor holds, for the first that does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from relay.processes.children import Child, Slot

Tell = Callable[[Slot, Mapping[str, Any], Sequence[int]], None]


class OrphanedQueues:
    """Who accepts for whom. `tell(slot, request, descriptors)` reaches a slot's worker."""

    __slots__ = ("_by", "_slots", "_tell")

    def __init__(self, slots: Sequence[Slot], tell: Tell) -> None:
        self._slots = slots
        self._tell = tell
        self._by: dict[int, Child] = {}  # a slot's number ─► the worker that accepts for it

    def look(self) -> None:
        """Whenever a worker came, left or died: see that every queue has somebody."""
        for slot in self._slots:
            by = self._by.get(slot.number)
            if by is not None and not _serves(by):
                del self._by[slot.number]
                by = None
            if slot.child is not None and _serves(slot.child):
                if by is not None:
                    del self._by[slot.number]
                    self._say(by, slot, "uncover", [])
            elif by is None:
                self._cover(slot)

    def renew(self) -> None:
        """After a reload: what is covered may have other sockets."""
        for slot in self._slots:
            if slot.number in self._by:
                self._cover(slot)

    def _cover(self, slot: Slot) -> None:
        by = self._by.get(slot.number) or self._idlest()
        if by is not None and slot.listeners:
            self._by[slot.number] = by
            self._say(by, slot, "cover", [each.sock.fileno() for each in slot.listeners])

    def _idlest(self) -> Child | None:
        """The worker that covers least."""
        covering = list(self._by.values())
        serving = [slot.child for slot in self._slots if slot.child and _serves(slot.child)]
        return min(serving, key=covering.count, default=None)

    def _say(self, by: Child, slot: Slot, what: str, fds: Sequence[int]) -> None:
        """Send to this worker, by its process id: a successor that finds the message in the slot ignores it."""
        assert by.slot is not None
        addresses = [each.place for each in slot.listeners] if fds else []
        request = {"do": what, "to": by.pid, "slot": slot.number, "addresses": addresses}
        self._tell(by.slot, request, fds)


def _serves(child: Child) -> bool:
    return child.ready and child.slot is not None and child.slot.child is child
