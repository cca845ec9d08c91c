"""What ASGI cannot say, asked of Hypercorn where the server is Hypercorn.

    reset        end an HTTP/2 or HTTP/3 stream visibly unfinished
    terminating  the server shuts down, and gives its connections so many seconds

ASGI has no word for either. An application that just stops in the middle of a response ends the
connection under HTTP/1.1, which a client can tell; under HTTP/2 Hypercorn 0.18 leaves the client
waiting for ever. And the shutdown of the lifespan protocol comes when all connections are over.

Rules
  * Hypercorn's own objects are reached through the `send` it gave us; every step is looked for,
    none is relied on. What is not there (another server, a middleware with a `send` of its own,
    another version) leaves what plain ASGI can do.
  * Nothing else in relay knows Hypercorn.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import trio

from relay.asgi.request import Send

Wait = Callable[[], Awaitable[None]]

_H2_INTERNAL_ERROR: Final = 0x2  # RFC 9113 §7; what Go's reverse proxy sends
_H3_INTERNAL_ERROR: Final = 0x102  # RFC 9114 §8.1


async def reset(send: Send, within: float) -> bool:
    """Reset the stream behind `send` once what was sent on it is out. Returns: whether it was.

    Args:
        within: seconds to wait for what was sent, which the client may not be reading.
    """
    stream = getattr(send, "__self__", None)
    stream_id = getattr(stream, "stream_id", None)
    protocol = _protocol(stream)
    connection: Any = getattr(protocol, "connection", None)
    flush = getattr(protocol, "_flush", None)
    if stream_id is None or connection is None:
        return False
    reset_h2 = getattr(connection, "reset_stream", None)
    if reset_h2 is not None and flush is not None:
        await _sent(protocol, stream_id, within)
        await _say(lambda: reset_h2(stream_id, _H2_INTERNAL_ERROR), flush)
        forget = getattr(protocol, "_window_updated", None)
        if forget is not None:  # its buffer goes, as after a reset of the client's
            await forget(stream_id)
        return True
    reset_h3 = getattr(getattr(connection, "_quic", None), "reset_stream", None)
    transmit = getattr(protocol, "send", None)
    if reset_h3 is not None and transmit is not None:
        await _say(lambda: reset_h3(stream_id, _H3_INTERNAL_ERROR), transmit)
        return True
    return False


def terminating(send: Send) -> tuple[Wait, float] | None:
    """What to wait for, and the seconds that are left then; None: the server does not say."""
    stream = getattr(send, "__self__", None)
    wait = getattr(getattr(getattr(stream, "context", None), "terminated", None), "wait", None)
    seconds = getattr(getattr(stream, "config", None), "graceful_timeout", None)
    if wait is None or not isinstance(seconds, int | float):
        return None
    return wait, float(seconds)


def _protocol(stream: Any) -> Any:
    return getattr(getattr(stream, "send", None), "__self__", None)


async def _sent(protocol: Any, stream_id: int, within: float) -> None:
    """Wait until the stream's buffer is empty: a reset overtakes what is still in it."""
    buffers = getattr(protocol, "stream_buffers", {})
    drain = getattr(buffers.get(stream_id), "drain", None)
    if drain is not None and getattr(buffers[stream_id], "buffer", None):
        with trio.move_on_after(within):
            await drain()


async def _say(reset: Callable[[], None], flush: Callable[[], Awaitable[None]]) -> None:
    # Both libraries raise where the stream or the connection is over already: so it is ended.
    with suppress(Exception):
        reset()
    await flush()
