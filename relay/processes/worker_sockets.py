"""Which sockets the workers have, and how a reload changes that.

TCP            ─► one socket per worker (SO_REUSEPORT), in its Slot
unix, passed   ─► one socket for all
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from relay.config.values import Address
from relay.processes.children import Slot
from relay.serving.listeners import Listener
from relay.serving.reload import Change


class WorkerSockets:
    """The supervisor's listeners: those for all here, those of one worker in its slot.

    Resource handling: both are the supervisor's until `close`; the workers have copies.
    """

    __slots__ = ("_slots", "generation", "shared")

    def __init__(self, listeners: Sequence[Listener], slots: Sequence[Slot]) -> None:
        """Binds the sockets of all slots but the first, whose are there. Raises: BindError."""
        self._slots = slots
        self.shared = [each for each in listeners if not each.is_per_worker]
        self.generation = 0  # of the configuration
        first, *others = slots
        first.listeners += [each for each in listeners if each.is_per_worker]
        for slot in others:
            for listener in first.listeners:
                slot.listeners.append(listener.beside())

    @property
    def bound(self) -> list[Address]:
        """The addresses listened on, as they were configured."""
        here = self.shared + self._slots[0].listeners
        return [each.address for each in here if each.address is not None]

    def close(self) -> None:
        """Close them all; the workers have theirs still."""
        for listener in self.shared:
            listener.remove_file()
            listener.close()
        for slot in self._slots:
            slot.close()

    def take(self, change: Change) -> None:
        """Do what a reload does to the sockets, whether a slot has a worker or not."""
        self.generation += 1
        gone = {address.text for address in change.closed}
        for sockets in (self.shared, *(slot.listeners for slot in self._slots)):
            for listener in [each for each in sockets if each.place in gone]:
                sockets.remove(listener)
                listener.remove_file()
                listener.close()
        self.shared += [each for each in change.opened if not each.is_per_worker]
        mine = [each for each in change.opened if each.is_per_worker]
        for slot, opened in zip(self._slots, (mine, *change.beside), strict=True):
            slot.listeners += opened

    def news(self, slot: Slot, change: Change) -> tuple[dict[str, Any], list[int]]:
        """What to tell a slot's worker of a change that was taken: the request, its descriptors."""
        new = {each.place for each in change.opened}
        opened = [each for each in self.shared + slot.listeners if each.place in new]
        fds = [change.text, *(each.sock.fileno() for each in opened)]
        request = {
            "do": "configure",
            "generation": self.generation,
            "path": change.config.path,
            "opened": [(each.place, each.passed) for each in opened],
            "closed": [address.text for address in change.closed],
        }
        return request, fds
