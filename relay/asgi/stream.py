"""The connection between relay and the ASGI server, in memory: a Trio stream on relay's side.

    receive() ─► read ─► one place ─► receive_some ─► relay ─► send_all ─► one place ─► outgoing()

Rules
  * Each direction holds one message at most: 64 KiB, or one event. Awaiting the place is the
    backpressure.
  * Whoever calls `send` is not relay: Hypercorn shields a write to a client that stopped reading
    without a deadline, and an upstream must not wait behind that.
  * What the server says is read for as long as the request's task lives, so that a client's leaving
    is noticed in every phase.
  * `leave` (the request's task ends) and `close` (relay is done) act at once and never wait.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from relay.asgi.request import Message, Receive, Request


class RequestStream(trio.abc.Stream):
    """One request and its response. Relay's side is the Stream, the rest the request's task's."""

    def __init__(self, request: Request, receive: Receive) -> None:
        self.taken: Callable[[], object] = _untold  # set by who answers; see wires.stream_wire
        self._request = request
        self._receive = receive
        self._head_read = False
        self._unread = b""  # framed bytes that relay has not taken yet
        self._last = b""  # what is still to go out when relay has closed
        self.left = False  # the client has gone, or its server has given it up
        self.complete = trio.Event()  # the server has given all of the request, or left
        self.closed = trio.Event()  # relay is done
        self._up_in, self._up_out = trio.open_memory_channel[Message](0)
        self._down_in, self._down_out = trio.open_memory_channel[bytes](0)

    # -- relay's side ------------------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Bytes of the request; b"" once the client has left. Raises: Fault (an unusable head)."""
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            while not self._unread:
                self._unread = await self._next()
        except trio.EndOfChannel:
            return b""
        size = len(self._unread) if max_bytes is None else max_bytes
        out, self._unread = self._unread[:size], self._unread[size:]
        return out

    async def _next(self) -> bytes:
        """Wait for the next message; b"" where it brought nothing to read."""
        request = self._request
        if self._head_read:
            return self._framed(await self._up_out.receive())
        self._head_read = True
        if request.framing is not None:
            return request.head()
        message = await self._up_out.receive()
        return request.head(message) + self._framed(message)

    def _framed(self, message: Message) -> bytes:
        data = self._request.body(message)
        if data is None:  # not the length that was said: what came is not the whole request
            self._up_in.close()
            raise trio.EndOfChannel
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._down_in.send(bytes(data))

    def send_last(self, data: bytes) -> None:
        """What goes out when relay has closed, and cannot wait any more."""
        self._last = data

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Relay is done with the connection, whole response or not."""
        self.closed.set()
        self._up_out.close()
        self._down_in.close()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    # -- the side of the request's task ------------------------------------------------------------

    async def read(self) -> None:
        """Take what the server says about the client until it says that it has left; what relay
        does not want any more is thrown away.
        """
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return
            if not message.get("more_body", False):
                self.complete.set()
            try:
                await self._up_in.send(message)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # relay has closed, or was told the end

    async def outgoing(self) -> bytes:
        """What relay wrote next; b"" once it has closed."""
        try:
            return await self._down_out.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            last, self._last = self._last, b""
            return last

    def leave(self) -> None:
        """Nobody takes the response any more; relay sees that its client is gone."""
        self.left = True
        self.complete.set()
        self._up_in.close()
        self._down_out.close()


def _untold() -> None:
    """The value of `taken` until somebody answers."""
