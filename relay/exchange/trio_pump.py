"""The portable pump: any two wires, one task, plain awaits.

Awaiting the send before the next receive is the backpressure. Who watches the client for a hang-up is the exchange's
affair: it cancels this task.

What has come may be on its way here through a few tasks (see wires.stream_wire), so a silence is believed when LOOK
seconds more have passed.
"""

from __future__ import annotations

from math import inf

import trio

from relay.exchange.transfer import Transfer, nobody
from relay.feeds.log_wire import LogWire
from relay.wires.alarms import LOOK, Alarms, Entry
from relay.wires.wire import Expired, Gone, Source, Wire


class TrioPump:
    """One transfer between two wires of any kind. A Clock (see wires.alarms)."""

    __slots__ = (
        "_alarms",
        "_believe_at",
        "_client",
        "_receiving",
        "_transfer",
        "_upstream",
        "entry",
    )

    def __init__(
        self, transfer: Transfer, upstream: Source, client: Wire | LogWire, alarms: Alarms
    ) -> None:
        self._transfer = transfer
        self._upstream = upstream
        self._client = client
        self._alarms = alarms
        self._receiving: trio.CancelScope | None = None
        self._believe_at = 0.0  # a silence has lasted too long and is believed then; 0: it has not
        self.entry: Entry | None = None

    async def run(self) -> None:
        """Pump until the transfer has its ending and is written out.

        Cancellation: stops at once; both wires stay open.
        """
        transfer = self._transfer
        transfer.wake = self._asked
        try:
            while transfer.ending is None:
                await self._out(await self._next())
        finally:
            transfer.wake = nobody
            self._alarms.forget(self)

    async def _next(self) -> bytes:
        """Wait for the upstream, a clock, or somebody's wish."""
        transfer = self._transfer
        if transfer.flow.pending:
            await trio.lowlevel.checkpoint()
            return transfer.more(trio.current_time())
        self._believe_at = 0.0
        try:
            with trio.CancelScope() as self._receiving:
                self._alarms.arm(self, transfer.due())
                data = await self._upstream.receive()
                return transfer.data(data, trio.current_time()) if data else transfer.end()
        except Gone:
            return transfer.broke()
        finally:
            self._receiving = None
        return transfer.tick(trio.current_time())

    async def _out(self, out: bytes) -> None:
        if not out:
            return
        transfer = self._transfer
        transfer.sent += len(out)
        self._client.write_within = transfer.route.timeouts.write
        transfer.pause(trio.current_time())
        transfer.unsent = len(out)
        try:
            await self._client.send(out)
        except Expired:
            transfer.stalled()
        except Gone:
            transfer.left(unsent=True)
            self._upstream.close()
        transfer.resumed(trio.current_time())

    def ring(self, now: float) -> float:
        if self._receiving is None:
            return inf
        transfer = self._transfer
        due = transfer.due()
        if now < due:
            return due
        if now >= transfer.silent_by():
            self._believe_at = self._believe_at or now + LOOK
            if now < self._believe_at:
                return self._believe_at
        self._receiving.cancel()
        return inf

    def set_back(self, seconds: float, now: float) -> None:
        """Called by Alarms: see `Clock`."""
        self._transfer.set_back(seconds, now)

    def _asked(self) -> None:
        if self._receiving is not None:
            self._receiving.cancel()
