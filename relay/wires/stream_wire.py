"""Any Trio stream as a wire: in-memory streams (the ASGI form, tests) and platforms without epoll.

A Trio stream cannot tell "hung up" without reading, so somebody has to read: `watch`, for as long as an exchange lasts.
It is the only reader then: it reads ahead up to a bound, and `receive` takes from it.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import trio

from relay.observing.ending import Side
from relay.wires.wire import READ_SIZE, Expired, Gone

READ_AHEAD = 64 * 1024  # bytes of a body, or of pipelined requests, that nobody has asked for yet


class StreamWire:
    """A `trio.abc.Stream`. Resource handling: owns the stream."""

    __slots__ = (
        "_ahead",
        "_ended",
        "_news",
        "_room",
        "_watched",
        "closed",
        "on_gone",
        "read_by",
        "side",
        "stream",
        "write_within",
    )

    def __init__(self, stream: trio.abc.Stream, side: Side = Side.CLIENT) -> None:
        self.stream = stream
        self.side = side
        self.closed = False
        self.on_gone: Callable[[], None] | None = None
        self.read_by = inf
        self.write_within = inf
        self._ahead = bytearray()
        self._ended: bytes | Gone | None = None  # how the other end's stream ended
        self._watched = False  # `watch` reads
        self._news = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.CancelScope(deadline=self.read_by) as scope:
            while not self._ahead and self._ended is None and self._watched:
                await self._news.park()
            if not self._ahead and self._ended is None:
                return await self._receive()
        if scope.cancelled_caught:
            raise Expired(self.side)
        if self._ahead:
            data = bytes(self._ahead[:READ_SIZE])
            del self._ahead[:READ_SIZE]
            self._room.unpark_all()
            return data
        if isinstance(self._ended, Gone):
            raise self._ended
        return b""

    async def _receive(self) -> bytes:
        try:
            return bytes(await self.stream.receive_some(READ_SIZE))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise Gone from None

    async def send(self, data: bytes) -> None:
        within = self.write_within
        deadline = trio.current_time() + within if within != inf else inf
        with trio.CancelScope(deadline=deadline) as scope:
            try:
                await self.stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise Gone from None
            return
        assert scope.cancelled_caught
        raise Expired(self.side)

    def watch(self, nursery: trio.Nursery) -> None:
        """Read ahead in `nursery` until the other end hangs up, then call `on_gone`. Nobody is reading when this is
        called; cancelling the nursery loses no bytes."""
        self._watched = True
        nursery.start_soon(self._read_ahead)

    async def _read_ahead(self) -> None:
        try:
            while self._ended is None:
                while len(self._ahead) >= READ_AHEAD:
                    await self._room.park()
                try:
                    data = await self._receive()
                    if not data:
                        self._ended = data
                except Gone as gone:
                    data, self._ended = b"", gone
                self._ahead += data
                self._news.unpark_all()
        finally:
            self._watched = False
            self._news.unpark_all()
        if self.on_gone is not None:
            self.on_gone()

    def half_close(self) -> None:
        """Tell the other end that nothing more will be written; a stream that cannot say so is closed."""
        if isinstance(self.stream, trio.StapledStream):
            close_now(self.stream.send_stream)
        elif isinstance(self.stream, trio.SocketStream):
            try:
                self.stream.socket.shutdown(trio.socket.SHUT_WR)
            except OSError:
                pass  # already gone: whoever reads will see it
        else:
            self.close()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            close_now(self.stream)


def close_now(stream: trio.abc.AsyncResource) -> None:
    """Close by force without waiting, whatever the stream is made of."""
    if isinstance(stream, trio.StapledStream):
        close_now(stream.send_stream)
        close_now(stream.receive_stream)
    elif isinstance(stream, trio.SSLStream):
        close_now(stream.transport_stream)
    elif isinstance(stream, trio.SocketStream):
        stream.socket.close()
    else:
        close = getattr(stream, "close", None)
        if close is None:
            raise TypeError(f"{type(stream).__name__} cannot be closed without waiting")
        close()
