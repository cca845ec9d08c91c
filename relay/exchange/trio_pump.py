"""The portable pump: any two wires, one task, plain awaits.

Awaiting the send before the next receive is the backpressure. A client that hangs up is heard of as by every kind of
pump: the step that noticed closes the upstream, and `run` returns. A stream in memory is watched meanwhile by the exchange
(see wires.client_wire), because it has to be read for that.

What has come may be on its way here through a few tasks (see wires.stream_wire), so a silence is believed when LOOK
seconds more have passed.
"""

from __future__ import annotations

from math import inf

import trio

from relay.exchange.transfer import Transfer, nobody
from relay.feeds.log_wire import LogWire
from relay.wires.alarms import LOOK, Alarms, Entry
from relay.wires.client_wire import tell_leaving
from relay.wires.wire import Expired, Gone, Source, Wire


class TrioPump:
    """One transfer between two wires of any kind. A Clock (see wires.alarms)."""

    __slots__ = (
        "_alarms",
        "_believe_at",
        "_client",
        "_receiving",
        "_running",
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
        self._running = trio.CancelScope()
        self._believe_at = 0.0  # a silence has lasted too long and is believed then; 0: it has not
        self.entry: Entry | None = None

    async def run(self) -> None:
        """Pump until the transfer has its ending and is written out, or the client has left.

        Cancellation: stops at once; both wires stay open.
        """
        transfer = self._transfer
        transfer.wake = self._asked
        try:
            with self._running:
                tell_leaving(self._client, self._client_gone)
                while transfer.ending is None:
                    await self._out(await self._next())
        finally:
            transfer.wake = nobody
            self._client.on_gone = None
            self._alarms.forget(self)

    def _client_gone(self) -> None:
        """Nothing runs on for nobody: the upstream is closed here, in the step that noticed."""
        transfer = self._transfer
        transfer.left(unsent=transfer.paused)
        self._upstream.close()
        transfer.counters.cancel_delay.observe(0.0)
        self._running.cancel()

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
