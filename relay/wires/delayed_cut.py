"""The time that a reader gets between the last word and a cut.

    all is written ─► the other end's kernel has acknowledged it ─► a moment ─► the cut
                    └─ hung up, or `write_within` is over: at once

Why. A browser drops what its page has not read yet when the body breaks, and so does a terminator in front of it that
resets an HTTP/2 stream: an event that goes out right before the cut, the one that says why, is lost. The figures are in
docs/technical-notes/cuts.md.
"""

from __future__ import annotations

import socket
import struct
from enum import Enum
from math import inf
from typing import Final

import outcome
import trio

from relay.wires.alarms import LEAST, Alarms, Entry
from relay.wires.socket_wire import SocketWire
from relay.wires.stream_wire import StreamWire
from relay.wires.wire import Expired, Gone

MOMENT: Final = 0.3  # seconds from the acknowledgement to the cut: a page that is busy for as long still reads (measured)
# Seconds, also where `write` is off: nobody is served any more; the default of `write`
LONGEST: Final = 30.0
_EIGHTH: Final = 8  # a look every millisecond at first, later whenever an eighth more has passed


_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s: close sends a reset


class Cut(Enum):
    """How a connection ends whose last body is not whole."""

    UNFINISHED = "unfinished"  # less than was promised, or no last chunk
    RESET = "reset"  # the end alone would look like that of a whole body (RFC 9112 §8)


def reset(wire: SocketWire | StreamWire) -> None:
    """Close with a reset, where the wire can say one."""
    if isinstance(wire, SocketWire):
        try:
            wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        except OSError:
            pass  # it is gone already
    wire.close()


async def linger(
    wire: SocketWire | StreamWire, alarms: Alarms, cut: Cut | None, within: float, most: int
) -> None:
    """Read on for a moment before the connection is closed, so that a reset for unread bytes cannot destroy the answer on
    its way (RFC 9112 §9.6). A stream in memory has no reset.

    Args:
        cut: the last body is not whole: its reader gets its time first.
        within: seconds.
        most: bytes.
    """
    if not isinstance(wire, SocketWire) or wire.closed or wire.hung_up:
        return
    if cut is not None:
        await DelayedCut(wire, alarms).wait()
        if cut is Cut.RESET:
            reset(wire)
            return
    wire.half_close()
    wire.read_by = trio.current_time() + within
    try:
        while most > 0:
            data = await wire.receive()
            if not data:
                return
            most -= len(data)
    except (Gone, Expired):
        return


class DelayedCut:
    """One wait, on a wire that nobody reads or writes any more. An Alarm."""

    __slots__ = ("_alarms", "_cut_at", "_since", "_task", "_until", "_wire", "entry")

    def __init__(self, wire: SocketWire, alarms: Alarms) -> None:
        self._wire = wire
        self._alarms = alarms
        self._since = self._until = 0.0
        self._cut_at = inf
        self._task: trio.lowlevel.Task | None = None
        self.entry: Entry | None = None

    async def wait(self) -> None:
        """Until the other end has had the time to read, or has left; as long as a write may wait, and LONGEST, at most.

        Cancellation: the wire stays as it is.
        """
        wire = self._wire
        await trio.lowlevel.checkpoint_if_cancelled()
        self._since = trio.current_time()
        self._until = self._since + min(wire.write_within, LONGEST)
        due = self.ring(self._since)
        if due == inf:
            return
        wire.on_gone = self._wake
        self._task = trio.lowlevel.current_task()
        self._alarms.arm(self, due)
        try:
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        finally:
            wire.on_gone = None
            self._alarms.forget(self)

    def ring(self, now: float) -> float:
        wire = self._wire
        left = wire.closed or (wire.hung_up and not wire.half_close_kept)
        if left or now >= min(self._cut_at, self._until):
            self._wake()
            return inf
        if self._cut_at == inf:
            if wire.unacknowledged():
                return now + max(LEAST, (now - self._since) / _EIGHTH)
            self._cut_at = now + MOMENT
        return min(self._cut_at, self._until)

    def _wake(self) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task, outcome.Value(None))

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED
