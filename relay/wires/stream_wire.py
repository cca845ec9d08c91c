"""Any Trio stream as a wire: in-memory streams (the ASGI form, tests).

A Trio stream cannot tell "hung up" without reading, so somebody has to read: `watch`, for as long as an exchange lasts.
It is the only reader then: it reads ahead up to a bound, and `receive` takes from it.

Rules of its clocks
  * What the process has from the kernel already may still be on its way here, through a few tasks of the ASGI server: a
    clock that has run out is believed when it has run out and LOOK seconds more.
  * `send_all` does not tell how far it is. So a stream may have `taken()`, a value that changes whenever the other end
    has taken something: as long as it does, a slow reader is not one that stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import trio

from relay.observing.ending import Side
from relay.wires.alarms import LOOK, Alarms, Entry
from relay.wires.wire import READ_SIZE, Expired, Gone

READ_AHEAD = 64 * 1024  # bytes of a body, or of pipelined requests, that nobody has asked for yet


class StreamWire:
    """A `trio.abc.Stream`. Resource handling: owns the stream. A Clock (see wires.alarms)."""

    __slots__ = (
        "_alarms",
        "_believe_at",
        "_ended",
        "_news",
        "_reading",
        "_room",
        "_taken",
        "_torn",
        "_watched",
        "_write_by",
        "_writing",
        "ahead",
        "closed",
        "entry",
        "on_gone",
        "read_by",
        "side",
        "stalled",
        "stream",
        "write_within",
    )

    def __init__(self, stream: trio.abc.Stream, alarms: Alarms, side: Side = Side.CLIENT) -> None:
        self.stream = stream
        self.side = side
        self._alarms = alarms
        self.entry: Entry | None = None
        self._reading: trio.CancelScope | None = None
        self._believe_at = 0.0  # when it is believed that the reader's clock ran out; 0: it did not
        self._writing: trio.CancelScope | None = None
        self._write_by = inf
        self.stalled = False  # a write had no progress for too long
        self._taken: object = None  # by the other end, when the writer's clock was set
        self.closed = False
        self.on_gone: Callable[[], None] | None = None
        self.read_by = inf
        self.write_within = inf
        self.ahead = bytearray()
        self._torn = False  # a send failed or was cancelled halfway: nothing may follow it
        self._ended: bytes | Gone | None = None  # how the other end's stream ended
        self._watched = False  # `watch` reads
        self._news = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint_if_cancelled()
        self._reading = scope = trio.CancelScope()
        with scope:
            self._believe_at = 0.0
            self._alarms.arm(self, self.read_by)
            try:
                while not self.ahead and self._ended is None and self._watched:
                    await self._news.park()
                if not self.ahead and self._ended is None:
                    return await self._receive()
            finally:
                self._reading = None
        if not self.ahead and self._ended is None:
            raise Expired(self.side)
        if self.ahead:
            data = bytes(self.ahead[:READ_SIZE])
            del self.ahead[:READ_SIZE]
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
        if self._torn:
            raise Gone
        self._writing = scope = trio.CancelScope()
        with scope:
            self._restart_write(trio.current_time())
            self._torn = True
            try:
                await self.stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise Gone from None
            finally:
                self._writing = None
            self._torn = False
            return
        self.stalled = True
        raise Expired(self.side)

    def send_last(self, data: bytes) -> None:
        """What is to go out although nothing can be awaited any more, where the stream can keep it until then."""
        send = getattr(self.stream, "send_last", None)
        if send is not None:
            send(data)

    def _restart_write(self, now: float) -> None:
        self._write_by = now + self.write_within
        self._taken = self._progress()
        self._alarms.arm(self, self._write_by)

    def _progress(self) -> object:
        taken = getattr(self.stream, "taken", None)
        return None if taken is None else taken()

    # -- called by the alarms ----------------------------------------------------------------------

    def ring(self, now: float) -> float:
        return min(self._ring_read(now), self._ring_write(now))

    def _ring_read(self, now: float) -> float:
        if self._reading is None:
            return inf
        if now < self.read_by:
            return self.read_by
        self._believe_at = self._believe_at or now + LOOK
        if now < self._believe_at:
            return self._believe_at
        self._reading.cancel()
        return inf

    def _ring_write(self, now: float) -> float:
        if self._writing is None:
            return inf
        if now >= self._write_by:
            if self._progress() == self._taken:
                self._writing.cancel()
                return inf
            self._restart_write(now)
        return self._write_by

    def set_back(self, seconds: float, now: float) -> None:
        """Called by Alarms: see `Clock`."""
        self.read_by += seconds
        if self._writing is not None:
            self._write_by = min(self._write_by + seconds, now + self.write_within)

    def watch(self, nursery: trio.Nursery) -> None:
        """Read ahead in `nursery` until the other end hangs up, then call `on_gone`. Nobody is reading when this is
        called; cancelling the nursery loses no bytes."""
        self._watched = True
        nursery.start_soon(self._read_ahead)

    async def _read_ahead(self) -> None:
        try:
            while self._ended is None:
                while len(self.ahead) >= READ_AHEAD:
                    await self._room.park()
                try:
                    data = await self._receive()
                    if not data:
                        self._ended = data
                except Gone as gone:
                    data, self._ended = b"", gone
                self.ahead += data
                self._news.unpark_all()
        finally:
            self._watched = False
            self._news.unpark_all()
        if self.on_gone is not None:
            self.on_gone()

    def read_until(self, due: float) -> None:
        """Set `read_by` for whoever is reading just now too."""
        self.read_by = due
        if self._reading is not None:
            self._alarms.arm(self, due)

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
            self._alarms.forget(self)
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
