"""A body that relay writes itself, as a wire: its producer runs beside the pump, one send ahead at most."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import inf

import trio

from relay.observing.ending import Side
from relay.wires.wire import Expired, Gone

Send = Callable[[bytes], Awaitable[None]]


class ChannelWire:
    """The reading end of a producer. Its end of the stream is the producer's return."""

    __slots__ = ("_receive", "closed", "on_gone", "read_by", "side", "write_within")

    def __init__(self, receive: trio.MemoryReceiveChannel[bytes]) -> None:
        self._receive = receive
        self.side = Side.RELAY
        self.closed = False
        self.on_gone: Callable[[], None] | None = None
        self.read_by = inf
        self.write_within = inf

    @classmethod
    def produced_by(
        cls, produce: Callable[[Send], Awaitable[None]], nursery: trio.Nursery
    ) -> ChannelWire:
        """Start `produce` in `nursery`; the exchange that owns it cancels it."""
        send, receive = trio.open_memory_channel[bytes](0)

        async def run() -> None:
            async with send:
                try:
                    await produce(send.send)
                except trio.BrokenResourceError:
                    pass  # the pump has ended and reads no more

        nursery.start_soon(run)
        return cls(receive)

    async def receive(self) -> bytes:
        with trio.CancelScope(deadline=self.read_by) as scope:
            try:
                return await self._receive.receive()
            except trio.EndOfChannel:
                return b""
            except trio.ClosedResourceError:
                raise Gone from None
        assert scope.cancelled_caught
        raise Expired(self.side)

    async def send(self, data: bytes) -> None:
        raise AssertionError("a produced body has no other direction")

    def close(self) -> None:
        self.closed = True
        self._receive.close()
