"""A listening socket on the engine.

Edge-triggered like every socket there: `_ready` stays true until accept had nothing more.

Rule: a crowd at the door gets in a few at a time, with a turn for everyone else between. Each newcomer is a task, and the
streams wait until all tasks of a turn have run.
"""

from __future__ import annotations

import errno
import socket

import outcome
import trio

from relay.wires.engine import Engine

# What accept(2) on Linux reports of a connection that is lost before it was ours; the next one is another's.
_LOST = frozenset(
    (
        errno.ECONNABORTED,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENONET,
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
        errno.EPERM,  # a firewall's rule
        errno.EPROTO,
    )
)


# Accepted in a row without a turn for the others: half a millisecond, with the first steps of each.
AT_ONCE = 8


class Acceptor:
    """Accepts one connection at a time for one task.

    Resource handling: `close` closes the socket.
    """

    __slots__ = ("_engine", "_in_a_row", "_ready", "_task", "closed", "sock")

    def __init__(self, sock: socket.socket, engine: Engine) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.closed = False
        self._engine = engine
        self._ready = True
        self._in_a_row = 0
        self._task: trio.lowlevel.Task | None = None
        engine.add(self, sock.fileno())

    async def accept(self) -> tuple[socket.socket, str | None]:
        """The next connection and its peer's address (None on a unix socket).

        Raises: OSError (out of descriptors among others). Cancellation: no connection is lost.
        """
        while True:
            if self._ready:
                if self._in_a_row >= AT_ONCE:
                    self._in_a_row = 0
                    await trio.lowlevel.checkpoint()
                else:
                    await trio.lowlevel.checkpoint_if_cancelled()
                self._in_a_row += 1
                accepted = self.accept_nowait()
                if accepted is not None:
                    return accepted
                continue
            self._in_a_row = 0
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)

    def accept_nowait(self) -> tuple[socket.socket, str | None] | None:
        """The same, or None if nobody waits. Raises: OSError."""
        while True:
            try:
                sock, address = self.sock.accept()
            except BlockingIOError:
                self._ready = False
                return None
            except OSError as error:
                if error.errno not in _LOST:
                    raise
                continue
            sock.setblocking(False)
            if sock.family == socket.AF_UNIX:
                return sock, None
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock, address[0]

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def ready(self, mask: int) -> None:
        self._ready = True
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task, outcome.Value(None))

    def crash(self, error: Exception) -> None:
        raise error

    def close(self) -> None:
        """Stop listening; connections that were not accepted are refused by the kernel."""
        if not self.closed:
            self.closed = True
            self._engine.discard(self.sock.fileno())
            self.sock.close()
