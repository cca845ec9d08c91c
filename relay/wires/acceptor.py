"""A listening socket on the engine.

Edge-triggered like every socket there: `_ready` stays true until accept had nothing more.

Rules
  * Who comes is accepted in the step that hears of it: the task sleeps as long as there is room.
  * A crowd at the door gets in a few at a time, with a turn for everyone else between. Each newcomer is a task, and the
    streams wait until all tasks of a turn have run.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

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
    """Accepts connections for one task.

    Resource handling: `close` closes the socket.
    """

    __slots__ = ("_admit", "_asked_turn", "_engine", "_ready", "_task", "_unix", "closed", "sock")

    def __init__(self, sock: socket.socket, engine: Engine) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.closed = False
        self._engine = engine
        self._unix = sock.family == socket.AF_UNIX
        self._ready = True
        self._asked_turn = False
        self._admit: Callable[[socket.socket, str | None], bool] | None = None
        self._task: trio.lowlevel.Task | None = None
        engine.add(self, sock.fileno())

    async def accept(self, admit: Callable[[socket.socket, str | None], bool]) -> None:
        """Accept until there is no room.

        Args:
            admit: takes a connection and its peer's address (None on a unix socket), in a step of the engine. Returns:
                whether there is room for one more.

        Raises: OSError (out of descriptors among others). Cancellation: no connection is lost.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._admit = admit
        self._task = trio.lowlevel.current_task()
        if self._ready:
            self._ask_turn()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _ask_turn(self) -> None:
        """One step for each round of the engine, however often there is news."""
        if not self._asked_turn:
            self._asked_turn = True
            self._engine.again(self, self._step)

    def _step(self) -> None:
        self._asked_turn = False
        if self._task is None or self._admit is None:
            return
        for _ in range(AT_ONCE):
            try:
                accepted = self.accept_nowait()
            except OSError as error:
                self._wake(outcome.Error(error))
                return
            if accepted is None:
                return
            if not self._admit(*accepted):
                self._wake(outcome.Value(None))
                return
        self._ask_turn()

    def accept_nowait(self) -> tuple[socket.socket, str | None] | None:
        """A connection and its peer's address (None on a unix socket); None where nobody waits. Raises: OSError."""
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
            if self._unix:
                return sock, None
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock, address[0]

    def _wake(self, how: outcome.Outcome[None]) -> None:
        task, self._task = self._task, None
        assert task is not None
        trio.lowlevel.reschedule(task, how)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def ready(self, mask: int) -> None:
        self._ready = True
        self._ask_turn()

    def crash(self, error: Exception) -> None:
        raise error

    def close(self) -> None:
        """Stop listening; connections that were not accepted are refused by the kernel."""
        if not self.closed:
            self.closed = True
            self._engine.discard(self.sock.fileno())
            self.sock.close()
