"""A socket on its way to being connected, on the engine: a dial must not wait behind the streams that run.

connect ─► EINPROGRESS ─► `connected` ─► (the kernel says writable) ─► SO_ERROR is the outcome
"""

from __future__ import annotations

import socket

import outcome
import trio

from relay.wires.engine import Engine


class _Connecting:
    """One task that waits for one socket."""

    __slots__ = ("task",)

    def __init__(self) -> None:
        self.task: trio.lowlevel.Task | None = trio.lowlevel.current_task()

    def ready(self, mask: int) -> None:
        if self.task is not None:
            task, self.task = self.task, None
            trio.lowlevel.reschedule(task, outcome.Value(None))

    def crash(self, error: Exception) -> None:
        raise error

    def abort(self, _: object) -> trio.lowlevel.Abort:
        self.task = None
        return trio.lowlevel.Abort.SUCCEEDED


async def connected(sock: socket.socket, engine: Engine) -> int:
    """Wait for a non-blocking connect to end. Returns: its error number, 0 for a connection.

    Cancellation: the socket stays open, and is the caller's as before.
    """
    await trio.lowlevel.checkpoint_if_cancelled()  # the engine may have ended already
    fd = sock.fileno()
    waiting = _Connecting()
    engine.add(waiting, fd, writing=True)
    try:
        await trio.lowlevel.wait_task_rescheduled(waiting.abort)
    finally:
        engine.discard(fd)
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
