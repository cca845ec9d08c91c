"""Which sockets the workers have, and how a reload changes that.

TCP            ─► one socket per worker (SO_REUSEPORT), in its Slot
unix, passed   ─► one socket for all
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace

from relay.config.values import Address
from relay.serving.children import Slot
from relay.serving.control import tell
from relay.serving.listeners import BindError, Listener
from relay.serving.reload import Change

logger = logging.getLogger("relay")


class Sharing:
    """The supervisor's listeners, apart from those in the slots."""

    __slots__ = ("_tcp", "generation", "shared")

    def __init__(self, listeners: Sequence[Listener], first: Slot) -> None:
        """`first` gets the TCP sockets that are bound already."""
        self.shared = [each for each in listeners if not _per_worker(each)]
        first.listeners = [each for each in listeners if _per_worker(each)]
        # Every TCP address: as it was configured, and with the port that was really bound.
        self._tcp = {each.place: _placed(each) for each in first.listeners}
        self.generation = 0  # of the configuration

    @property
    def bound(self) -> list[Address]:
        """The addresses listened on, as they were configured."""
        shared = [each.address for each in self.shared if each.address is not None]
        return shared + [configured for configured, _ in self._tcp.values()]

    def open(self, slot: Slot) -> None:
        """Bind the sockets of a slot that has none. Raises: BindError."""
        for configured, placed in self._tcp.values():
            slot.open(placed, configured)

    def close(self) -> None:
        """Close what is shared; the workers have it still."""
        for listener in self.shared:
            listener.remove_file()
            listener.close()

    def take(self, change: Change) -> None:
        """Note what a reload opens and closes."""
        self.generation += 1
        gone = {address.text for address in change.closed}
        for name in gone:
            self._tcp.pop(name, None)
        for listener in [each for each in self.shared if each.place in gone]:
            self.shared.remove(listener)
            listener.remove_file()
            listener.close()
        for listener in change.opened:
            if _per_worker(listener):
                self._tcp[listener.place] = _placed(listener)
            else:
                self.shared.append(listener)

    def hand_over(self, slot: Slot, change: Change) -> None:
        """Give one worker the new file and its sockets; one that is not there finds them here.

        Raises: OSError: it does not empty its slot.
        """
        try:
            text = os.memfd_create("relay.toml")
        except OSError as error:
            logger.error("worker %d keeps its configuration: %s", slot.number, error.strerror)
            return
        gone = {address.text for address in change.closed}
        for listener in [each for each in slot.listeners if each.place in gone]:
            slot.listeners.remove(listener)
            listener.close()
        opened = [each for each in change.opened if not _per_worker(each)]
        for listener in [each for each in change.opened if _per_worker(each)]:
            try:
                # One socket is there already, from the trial: the first slot gets it.
                mine = listener if slot.number == 0 else listener.beside()
            except BindError as error:
                logger.error("worker %d: %s", slot.number, error)
                continue
            slot.listeners.append(mine)
            opened.append(mine)
        with open(text, "w+b") as file:
            file.write(change.text.encode())
            file.seek(0)
            request = {
                "do": "configure",
                "generation": self.generation,
                "path": change.config.path,
                "opened": [(each.place, each.passed) for each in opened],
                "closed": sorted(gone),
            }
            tell(slot.asker, request, [file.fileno(), *(each.sock.fileno() for each in opened)])


def _per_worker(listener: Listener) -> bool:
    return listener.is_tcp and not listener.passed


def _placed(listener: Listener) -> tuple[Address, Address]:
    assert listener.address is not None
    return listener.address, replace(listener.address, port=listener.sock.getsockname()[1])
