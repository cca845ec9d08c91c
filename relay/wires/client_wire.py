"""A client's wire, of either kind: a socket on the engine, or a Trio stream that somebody has to read.

Which kind a wire is, is asked here and nowhere above this room. The engine tells of a hang-up in the step that heard of
it; of a stream nothing is known without reading it, so a child of the exchange's nursery reads ahead (`watch`).
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, TypeGuard

import trio

from relay.wires.socket_wire import SocketWire
from relay.wires.stream_wire import StreamWire
from relay.wires.wire import Gone

ClientWire = SocketWire | StreamWire


class Watched(Protocol):
    """What may hear of a hang-up; the log of a run never does."""

    on_gone: Callable[[], None] | None


def on_engine(wire: object) -> TypeGuard[SocketWire]:
    """Whether the engine moves this wire's bytes in its steps: the kind of pump, viewer and upload goes by that."""
    return isinstance(wire, SocketWire)


def watch(
    wire: ClientWire,
    left: Callable[[], None],
    nursery: trio.Nursery | None,
    *,
    write: float,
    half_close_kept: bool,
) -> None:
    """Have `left` called when the client hangs up, now if it has already.

    Args:
        nursery: where a stream is read ahead meanwhile. None: the engine tells.
        write: the route's, by which the kernel gives up on a dead link.
        half_close_kept: a client that closes only its sending side still reads.
    """
    if isinstance(wire, SocketWire):
        wire.bound_unread(write)
        wire.half_close_kept = half_close_kept
        tell_leaving(wire, left)
    else:
        assert nursery is not None
        tell_leaving(wire, left)
        wire.watch(nursery)


def tell_leaving(wire: Watched, left: Callable[[], None]) -> None:
    """The same on a wire that is watched already: whoever moves its bytes now hears of the hang-up in place of who did."""
    if isinstance(wire, SocketWire) and wire.hung_up and not wire.half_close_kept:
        left()
    else:
        wire.on_gone = left


def look_for_end(wire: SocketWire) -> None:
    """See whether the end has come behind what was read, for who reads before the engine has told of this socket."""
    try:
        ended = not wire.sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return
    except OSError:
        ended = True
    wire.readable = True
    wire.hung_up = wire.hung_up or ended


def send_last(wire: ClientWire, data: bytes) -> None:
    """What is to go out although nothing can be awaited any more: as far as it is taken now. Nothing behind half of an
    earlier write."""
    if not isinstance(wire, SocketWire):
        wire.send_last(data)
    elif not wire.closed and not wire.torn:
        with suppress(Gone):
            wire.send_nowait(data)
