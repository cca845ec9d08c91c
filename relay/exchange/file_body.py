"""A file on its way to the client, from its descriptor: nothing of it is held for a client that does not read.

    plain socket ─► sendfile, a piece at a time      any other wire ─► read a piece in a thread, send it

Rules
  * The loop never waits for a disk: what is not in the page cache is read by a thread first.
  * One piece, then the others have their turn.
  * The head has promised the size. A file that became shorter ends the connection, so that the client can tell; what
    was added to it since is not sent.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Final

import trio

from relay.observing.ending import Cause, Ending, Phase, Side
from relay.observing.record import Record
from relay.sources.reply import OpenFile
from relay.wires.client_wire import ClientWire
from relay.wires.socket_wire import SocketWire
from relay.wires.splice import TAKE
from relay.wires.wire import READ_SIZE

_CUT: Final = Ending(
    Side.RELAY, Phase.BODY, Cause.BROKE, "the file could not be read to the size that it had"
)


async def send_file(
    wire: ClientWire, file: OpenFile, record: Record, limiter: trio.CapacityLimiter
) -> Ending | None:
    """Send the body; the head is out.

    Args:
        record: where its bytes are counted.
        limiter: of the threads that read.
    Returns: the Ending of a body that is not whole; None for a whole one.
    Raises: Gone, Expired, both of the client.
    """
    direct = wire if type(wire) is SocketWire else None
    at = 0
    while at < file.size:
        left = file.size - at
        try:
            if direct is not None:
                sent = await _pass(direct, file, at, min(left, TAKE), limiter)
            else:
                data = await _read(file, at, min(left, READ_SIZE), limiter)
                await wire.send(data)
                sent = len(data)
        except OSError:
            if direct is None:
                return _CUT
            direct = None  # its file system does not know sendfile; a broken disk says so again
            continue
        if not sent:
            return _CUT
        at += sent
        record.bytes_out += sent
    return None


async def _pass(
    wire: SocketWire, file: OpenFile, at: int, limit: int, limiter: trio.CapacityLimiter
) -> int:
    """A piece from the page cache to the socket. Its ends are looked at: what lies between was read with them."""
    if not (is_cached(file.fd, at) and is_cached(file.fd, at + limit - 1)):
        await _read(file, at, limit, limiter)
    return await wire.send_file(file.fd, at, limit)


def is_cached(fd: int, at: int) -> bool:
    try:
        os.preadv(fd, [bytearray(1)], at, os.RWF_NOWAIT)
    except OSError:
        return False  # not there yet, or nobody can tell
    return True


async def _read(file: OpenFile, at: int, limit: int, limiter: trio.CapacityLimiter) -> bytes:
    """A piece, by a thread. Raises: OSError. Cancellation: at once."""
    work = partial(file.read, at, limit)
    return await trio.to_thread.run_sync(work, limiter=limiter, abandon_on_cancel=True)
