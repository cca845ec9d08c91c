"""The connection between relay and the ASGI server, in memory: a Trio stream on relay's side.

    receive() ─► Request ─► receive_some ─► relay ─► send_all ─► one place ─► outgoing() ─► send()

Rules
  * Request bytes are fetched from the server when relay reads: the backpressure is the server's.
  * Response bytes wait in one place until the task that calls `send` takes them: relay is at most
    one write ahead of the server (64 KiB, or one event).
  * That task is not relay's: Hypercorn shields a write to a client that stopped reading without a
    deadline, and an upstream must not wait behind that.
  * `leave` (the request's task ends) and `close` (relay is done) act at once and never wait.
"""

from __future__ import annotations

import trio

from relay.asgi.request import Message, Receive, Request


class RequestStream(trio.abc.Stream):
    """One request and its response. Relay's side is the Stream, the rest the request's task's."""

    def __init__(self, request: Request, receive: Receive) -> None:
        self._request = request
        self._receive = receive
        self._head_read = False
        self._unread = b""  # framed bytes that relay has not taken yet
        self._reading: trio.CancelScope | None = None
        self._ended = False  # relay gets no more of the request
        self._complete = False  # the server has given all of the request
        self.left = False  # the client has gone
        self._place_in, self._place_out = trio.open_memory_channel[bytes](0)

    # -- relay's side ------------------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Bytes of the request; b"" once the client has left. Raises: Fault (an unusable head)."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._unread and not self._ended:
            self._unread = await self._next()
        size = len(self._unread) if max_bytes is None else max_bytes
        out, self._unread = self._unread[:size], self._unread[size:]
        return out

    async def _next(self) -> bytes:
        """Wait for the server's next message; b"" where it brought nothing to read."""
        request = self._request
        if not self._head_read:
            self._head_read = True
            if request.framing is not None:
                return request.head()
            message = await self._message()
            if message is None:
                return b""
            return request.head(message) + self._framed(message)
        message = await self._message()
        return self._framed(message) if message is not None else b""

    async def _message(self) -> Message | None:
        """The next `http.request`; None: there will be none."""
        with trio.CancelScope() as self._reading:
            message = await self._taken()
            if not self.left:
                return message
        self._ended = True
        return None

    async def _taken(self) -> Message:
        """The server's next message, whoever asks for it."""
        message = await self._receive()
        self.left = message["type"] == "http.disconnect"
        self._complete = not message.get("more_body", False)
        return message

    def _framed(self, message: Message) -> bytes:
        data = self._request.body(message)
        if data is None:  # not the length that was said: what came is not the whole request
            self._ended = True
            return b""
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._place_in.send(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Relay is done with the connection, whole response or not."""
        self._end_reading()
        self._place_in.close()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    # -- the side of the request's task ------------------------------------------------------------

    async def outgoing(self) -> bytes:
        """What relay wrote next; b"" once it has closed."""
        try:
            return await self._place_out.receive()
        except trio.EndOfChannel:
            return b""

    def leave(self) -> None:
        """Nobody takes the response any more; relay sees that its client is gone."""
        self._end_reading()
        self._place_out.close()

    async def skip(self) -> int:
        """Throw away the next part of the request, after relay has closed. Returns: its size."""
        message = await self._taken()
        return len(message.get("body", b""))

    @property
    def request_unread(self) -> bool:
        """Whether the request body has not come to its end."""
        return not self._complete and not self.left

    def _end_reading(self) -> None:
        self._ended = True
        if self._reading is not None:
            self._reading.cancel()
