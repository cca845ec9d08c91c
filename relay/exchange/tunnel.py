"""After a 101: bytes both ways, each direction with its own end (RFC 9110 §7.8).

A side that half-closes ends its direction only; the tunnel ends when both have, when one breaks, or when nothing
moved either way for the route's idle time. A side that takes no more bytes is heard out: what it said last is passed on.
"""

from __future__ import annotations

from math import inf

import trio

from relay.config.values import Timeouts
from relay.observing.ending import Cause, Ending, Phase, Side
from relay.observing.record import Record
from relay.wires.alarms import LOOK
from relay.wires.client_wire import ClientWire
from relay.wires.socket_wire import SocketWire
from relay.wires.wire import Expired, Gone

_LOST = {Side.CLIENT: Cause.LEFT, Side.UPSTREAM: Cause.BROKE}
_DEAF = "took no more bytes"
_STOPPED = {Side.CLIENT: Cause.STALLED, Side.UPSTREAM: Cause.SILENT}


class _Tunnel:
    __slots__ = ("ending", "idle", "last", "nursery", "record")

    def __init__(self, idle: float, nursery: trio.Nursery, record: Record) -> None:
        self.idle = idle
        self.record = record
        self.last = trio.current_time()
        self.nursery = nursery
        self.ending: Ending | None = None

    async def one_way(self, source: ClientWire, sink: ClientWire, side: Side, first: bytes) -> None:
        """Bytes from `side` to the other until `side` has no more, `first` before all others."""
        try:
            if first and not await self._pass(first, sink, side):
                return
            while data := await self._read(source):
                if not await self._pass(data, sink, side):
                    return
        except Gone:
            self._end(side, _LOST[side], "reset")
            return
        if data is None:
            self._end(Side.UPSTREAM, Cause.SILENT, "idle")
        else:
            sink.half_close()

    async def _pass(self, data: bytes, sink: ClientWire, side: Side) -> bool:
        """Whether the other side took it."""
        if side is Side.CLIENT:
            self.record.bytes_in += len(data)
        else:
            self.record.bytes_out += len(data)
        try:
            await sink.send(data)
        except Gone:
            # The other direction still reads what it said before it went.
            if self.ending is None:
                self.ending = Ending(sink.side, Phase.TUNNEL, _LOST[sink.side], _DEAF)
            return False
        except Expired:
            self._end(sink.side, _STOPPED[sink.side], "took no more bytes in time")
            return False
        return True

    async def _read(self, source: ClientWire) -> bytes | None:
        """The next bytes; None when both directions have been quiet for too long."""
        # Whether it is believed to be quiet: the other direction's bytes may have come in this very turn
        believed = False
        while True:  # noqa: ASYNC913 # each second turn reads
            source.read_by = trio.current_time() + LOOK if believed else self.last + self.idle
            try:
                data = await source.receive()
            except Expired:
                quiet = trio.current_time() >= self.last + self.idle
                if quiet and believed:
                    return None
                believed = quiet
                continue
            self.last = trio.current_time()
            return data

    def _end(self, side: Side, cause: Cause, detail: str) -> None:
        if self.ending is None:
            self.ending = Ending(side, Phase.TUNNEL, cause, detail)
        self.nursery.cancel_scope.cancel()


async def tunnel(
    client: ClientWire,
    upstream: SocketWire,
    first: tuple[bytes, bytes],
    timeouts: Timeouts,
    record: Record,
) -> Ending:
    """Pass bytes both ways until both directions have ended.

    Args:
        first: what came of each side already: behind the client's request, behind the upstream's 101.
        record: where the bytes are counted.
    Cancellation: both wires stay open and are the caller's to close.
    """
    client.on_gone = None
    client.write_within = upstream.write_within = timeouts.write
    of_client, of_upstream = first
    async with trio.open_nursery() as nursery:
        state = _Tunnel(timeouts.idle, nursery, record)
        nursery.start_soon(state.one_way, client, upstream, Side.CLIENT, of_client)
        await state.one_way(upstream, client, Side.UPSTREAM, of_upstream)
    client.read_by = upstream.read_by = inf
    return state.ending or Ending(Side.UPSTREAM, Phase.TUNNEL, Cause.COMPLETE)
