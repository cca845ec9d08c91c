"""A body that relay writes itself, as the source of a pump: its producer runs beside it, one send ahead at most."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from relay.wires.wire import Gone

Send = Callable[[bytes], Awaitable[None]]


class ChannelWire:
    """The reading end of a producer. Its end of the stream is the producer's return."""

    __slots__ = ("_receive",)

    def __init__(self, receive: trio.MemoryReceiveChannel[bytes]) -> None:
        self._receive = receive

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
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            return b""
        except trio.ClosedResourceError:
            raise Gone from None

    def close(self) -> None:
        self._receive.close()
