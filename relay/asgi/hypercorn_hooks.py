"""What ASGI cannot say, asked of Hypercorn where the server is Hypercorn (0.18).

    reset        end an HTTP/2 or HTTP/3 stream visibly unfinished
    room         wait until an HTTP/2 client has taken what was sent
    taken        whether the client takes anything at all
    drop         end an HTTP/1.1 connection, and a send that waits for it
    release      do not wait for that any more: the client is gone
    lost         the connection was gone before the request began
    gone         an HTTP/3 client has left
    finish       end an HTTP/2 stream while the server shuts down
    terminating  the server shuts down, and gives its connections so many seconds

ASGI has no word for the first: an application that just stops in the middle of a response ends the
connection under HTTP/1.1, which a client can tell; under HTTP/2 the client waits for ever. For the
second it has `await send(...)`, which under HTTP/2 returns at once when the client's window is
closed, and keeps everything in memory; at other times it waits for a client that is gone. A request
on a connection that is lost by then never hears `http.disconnect`, and under HTTP/3 none does. The
end of the last stream of an HTTP/2 connection is overtaken by the end of the connection while the
server shuts down. And the shutdown of the lifespan protocol comes when all connections are over.

Rules
  * Hypercorn's own objects are reached through the `send` it gave us; every step is looked for,
    none is relied on. What is not there (another server, a middleware with a `send` of its own,
    another version) leaves what plain ASGI can do.
  * Nothing else in relay knows Hypercorn.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from fcntl import ioctl
from termios import TIOCOUTQ
from typing import Any, Final

import trio

from relay.asgi.request import Send
from relay.wires.delayed_cut import MOMENT

Wait = Callable[[], Awaitable[None]]

HIGH_WATER: Final = 32 * 1024  # bytes in Hypercorn's buffer of a stream; its own constant
PIECE: Final = 16 * 1024  # bytes handed over at once where the server does not tell what is taken
_ACKED: Final = slice(120, 128)  # tcpi_bytes_acked in struct tcp_info (linux/tcp.h, since 4.1)
HIGH_WATER_H3: Final = 512 * 1024  # bytes in QUIC's, those on their way included: half its window
LOOK: Final = 0.1  # seconds between looks at an HTTP/3 client, where nothing tells (arbitrary)
_H2_INTERNAL_ERROR: Final = 0x2  # RFC 9113 §7; what Go's reverse proxy sends
_H3_INTERNAL_ERROR: Final = 0x102  # RFC 9114 §8.1


class HypercornHooks:
    """The server behind one request's `send`."""

    __slots__ = ("_buffer", "_connection", "_protocol", "_quic", "_stream", "_stream_id")

    def __init__(self, send: Send) -> None:
        self._stream: Any = getattr(send, "__self__", None)
        self._stream_id: Any = getattr(self._stream, "stream_id", None)
        self._protocol: Any = getattr(getattr(self._stream, "send", None), "__self__", None)
        self._connection: Any = getattr(self._protocol, "connection", None)
        buffers = getattr(self._protocol, "stream_buffers", {})
        self._buffer: Any = buffers.get(self._stream_id)  # of HTTP/2
        self._quic: Any = getattr(self._connection, "_quic", None)

    async def lost(self) -> bool:
        """Whether the connection was over before the request began: Hypercorn goes on reading
        requests that had come, and tells nobody.
        """
        if not getattr(self._protocol, "closed", False):
            return False
        await self.release()
        return True

    async def release(self) -> None:
        """Let no send wait for the window of a client that is gone: Hypercorn would, for ever.

        Not by cancelling it: the task that finds a connection broken tells all of its streams, and
        those that it had no time to tell are never told.
        """
        close = getattr(self._buffer, "close", None)
        if close is not None:
            await close()

    @property
    def silent(self) -> bool:
        """Whether nothing tells when the client leaves, so that `gone` is to be looked at."""
        return self._quic is not None

    @property
    def gone(self) -> bool:
        """Whether an HTTP/3 client has left the stream, or the connection."""
        streams = getattr(self._quic, "_streams", None)
        if streams is None:
            return False
        if getattr(self._quic, "_close_event", None) is not None or self._stream_id not in streams:
            return True
        return getattr(self._sender(), "_reset_error_code", None) is not None

    @property
    def crowded(self) -> bool:
        """Whether more is waiting for the client than should."""
        if self._quic is not None:
            return len(getattr(self._sender(), "_buffer", ())) >= HIGH_WATER_H3
        return len(getattr(self._buffer, "buffer", ())) >= HIGH_WATER

    def taken(self) -> object:
        """A value that changes whenever the client takes something of the response: its kernel, or
        under HTTP/2 its window. None: the server does not tell.

        What other streams of an HTTP/2 connection bring forward counts only for a stream whose own
        window is open: the connection is what it waits for then.
        """
        if self._quic is not None:
            return getattr(self._sender(), "_buffer_start", None)
        if self._buffer is None:
            return self._acknowledged()
        waiting, window = len(getattr(self._buffer, "buffer", ())), None
        with suppress(Exception):  # the stream is over
            window = self._connection.local_flow_control_window(self._stream_id)
        return waiting, window, self._acknowledged() if window else None

    def _acknowledged(self) -> int | None:
        """Bytes that the kernel of the client has taken off the connection (any number that changes
        with it).
        """
        sock = self._socket()
        if sock is None:
            return None
        try:
            if sock.family == socket.AF_UNIX:
                return int.from_bytes(ioctl(sock.fileno(), TIOCOUTQ, bytes(4)), sys.byteorder)
            told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED.stop)
        except OSError:
            return None
        return int.from_bytes(told[_ACKED], sys.byteorder)

    def _socket(self) -> Any:
        stream = getattr(
            getattr(getattr(self._protocol, "send", None), "__self__", None), "stream", None
        )
        return getattr(getattr(stream, "transport_stream", stream), "socket", None)

    def drop(self) -> None:
        """End the connection by force; whoever sends on it is told. Under HTTP/1.1 nobody else is
        on it.
        """
        sock = self._socket()
        if sock is not None:
            sock.close()

    async def room(self) -> None:
        """Wait until what was sent is out, or `release`d."""
        while self._quic is not None and self.crowded and not self.gone:  # noqa: ASYNC110
            await trio.sleep(LOOK / 10)
        drain = getattr(self._buffer, "drain", None)
        if drain is not None and getattr(self._buffer, "buffer", None):
            await drain()

    async def reset(self, within: float) -> bool:
        """Reset the stream once what was sent on it is out. Returns: whether it is reset.

        Args:
            within: seconds to wait for what was sent, which the client may not be reading.
        """
        h2 = getattr(self._connection, "reset_stream", None)
        flush = getattr(self._protocol, "_flush", None)
        if h2 is not None and flush is not None:
            with trio.move_on_after(within):  # a reset overtakes what is still in the buffer
                await self.room()
            await trio.sleep(MOMENT)
            await _say(h2, self._stream_id, _H2_INTERNAL_ERROR, flush)
            forget = getattr(self._protocol, "_window_updated", None)
            if forget is not None:  # the buffer goes, as after a reset of the client's
                await forget(self._stream_id)
            return True
        h3 = getattr(self._quic, "reset_stream", None)
        flush = getattr(self._protocol, "send", None)
        if h3 is not None and flush is not None:
            await trio.sleep(MOMENT)
            await _say(h3, self._stream_id, _H3_INTERNAL_ERROR, flush)
            return True
        return False

    @property
    def finishes(self) -> bool:
        """Whether `finish` must take the place of the last message: the server is shutting down."""
        terminated = getattr(getattr(self._stream, "context", None), "terminated", None)
        shut_down = getattr(terminated, "is_set", bool)()
        able = hasattr(self._connection, "end_stream") and hasattr(self._protocol, "_flush")
        return bool(shut_down) and able

    async def finish(self) -> None:
        """End the stream behind what was sent."""
        await self.room()
        with suppress(Exception):  # as in `_say`
            self._connection.end_stream(self._stream_id)
        await self._protocol._flush()

    def _sender(self) -> Any:
        stream = getattr(self._quic, "_streams", {}).get(self._stream_id)
        return getattr(stream, "sender", None)

    def terminating(self) -> tuple[Wait, float] | None:
        """What to wait for, and the seconds that are left then; None: the server does not say."""
        context = getattr(self._stream, "context", None)
        wait = getattr(getattr(context, "terminated", None), "wait", None)
        seconds = getattr(getattr(self._stream, "config", None), "graceful_timeout", None)
        if wait is None or not isinstance(seconds, int | float):
            return None
        return wait, float(seconds)


async def _say(reset: Callable[[Any, int], None], stream_id: Any, code: int, flush: Wait) -> None:
    # Both libraries raise where the stream or the connection is over already: then it is ended.
    with suppress(Exception):
        reset(stream_id, code)
    await flush()
