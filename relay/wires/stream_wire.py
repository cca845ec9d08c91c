"""Any Trio stream as a wire: in-memory streams (the ASGI form, tests) and platforms without epoll.

A Trio stream cannot tell "hung up" without reading, so somebody has to read: `watch` reads ahead up to a bound and
keeps the bytes for the next `receive`.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import trio

from relay.wires.wire import READ_SIZE, Expired, Gone

READ_AHEAD = 64 * 1024  # bytes of pipelined requests kept while a response is under way


class StreamWire:
    """A `trio.abc.Stream`. Resource handling: owns the stream."""

    __slots__ = ("_ahead", "_eof", "closed", "on_gone", "read_by", "stream", "write_within")

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.closed = False
        self.on_gone: Callable[[], None] | None = None
        self.read_by = inf
        self.write_within = inf
        self._ahead: list[bytes] = []
        self._eof = False

    async def receive(self) -> bytes:
        if self._ahead:
            await trio.lowlevel.checkpoint()
            return self._ahead.pop(0)
        if self._eof:
            await trio.lowlevel.checkpoint()
            return b""
        with trio.CancelScope(deadline=self.read_by) as scope:
            return await self._receive()
        assert scope.cancelled_caught
        raise Expired

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
        raise Expired

    async def watch(self) -> None:
        """Read ahead until the other end hangs up, then call `on_gone`. Runs beside whoever writes."""
        held = sum(map(len, self._ahead))
        while held < READ_AHEAD:
            try:
                data = await self._receive()
            except Gone:
                data = b""
            if not data:
                self._eof = True
                if self.on_gone is not None:
                    self.on_gone()
                return
            self._ahead.append(data)
            held += len(data)

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
