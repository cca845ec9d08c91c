"""The portable pump: any two wires, one task, plain awaits.

Awaiting the send before the next receive is the backpressure. Who watches the client for a hang-up is the exchange's
affair: it cancels this task.
"""

from __future__ import annotations

from math import inf

import trio

from relay.exchange.transfer import Transfer, nobody
from relay.feeds.log_wire import LogWire
from relay.wires.wire import Expired, Gone, Wire


class TrioPump:
    """One transfer between two wires of any kind."""

    __slots__ = ("_client", "_receiving", "_transfer", "_upstream")

    def __init__(self, transfer: Transfer, upstream: Wire, client: Wire | LogWire) -> None:
        self._transfer = transfer
        self._upstream = upstream
        self._client = client
        self._receiving: trio.CancelScope | None = None

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

    async def _next(self) -> bytes:
        """Wait for the upstream, a clock, or somebody's wish."""
        transfer = self._transfer
        if transfer.flow.pending:
            await trio.lowlevel.checkpoint()
            return transfer.more(trio.current_time())
        self._upstream.read_by = transfer.due()
        try:
            with trio.CancelScope() as self._receiving:
                data = await self._upstream.receive()
                return transfer.data(data, trio.current_time()) if data else transfer.end()
        except Expired:
            pass
        except Gone:
            return transfer.broke()
        finally:
            self._receiving = None
            self._upstream.read_by = inf
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

    def _asked(self) -> None:
        if self._receiving is not None:
            self._receiving.cancel()
