"""A socket on its way to being connected, on the engine: a dial must not wait behind the streams that run.

connect ─► EINPROGRESS ─► Connecting ─► (the kernel says writable) ─► SO_ERROR is the outcome
"""

from __future__ import annotations

import socket
from collections.abc import Callable

import outcome
import trio

from relay.wires.engine import Engine

Address = tuple[socket.AddressFamily, str | tuple[object, ...]]  # as `connect` takes it


class Connecting:
    """A connect that is under way, and the one who waits for its end: a step (`then`), or a task (`wait`).

    Attributes:
        error: its error number, once it is known; 0: a connection.

    Resource handling: owns the socket until there is a connection, which is the caller's; `close` otherwise.
    """

    __slots__ = ("_engine", "_settled", "_task", "address", "error", "owner", "sock", "then")

    def __init__(self, sock: socket.socket, address: Address, engine: Engine) -> None:
        self.sock = sock
        self.address = address
        self.error: int | None = None
        self.then: Callable[[], None] | None = None
        self.owner: Callable[[Exception], None] | None = None  # whom a crashing step ends
        self._engine = engine
        self._task: trio.lowlevel.Task | None = None
        self._settled = False
        engine.add(self, sock.fileno(), writing=True)

    async def wait(self) -> None:
        """Wait for the end. Cancellation: the socket is to be closed."""
        await trio.lowlevel.checkpoint_if_cancelled()  # the engine may have ended already
        if not self._settled:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)

    def end(self) -> int:
        """The end has come. Returns: its error number."""
        self._engine.discard(self.sock.fileno())
        return self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def close(self) -> None:
        self._engine.discard(self.sock.fileno())
        self.sock.close()

    def ready(self, mask: int) -> None:
        """Called by the engine."""
        self._settled = True
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task, outcome.Value(None))
        elif self.then is not None:
            then, self.then = self.then, None
            then()

    def crash(self, error: Exception) -> None:
        """A step raised."""
        if self.owner is None:
            raise error
        self.owner(error)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED
