"""The data plane: one epoll inside Trio's, and synchronous steps.

    sockets ─► nested epoll ─► (one Trio task) ─► wire.ready(mask) ─► step, or a waiting task is woken

Rules
  * Sockets are registered once, edge-triggered, and leave when they are closed; interest in writing is added only
    while something waits to be written.
  * A step never waits and is bounded: one recv, at most one send. What has more to do asks for another turn
    (`again`), so a flood cannot starve the others.
  * A step that raises ends its own stream (`wire.crash`), never the engine.
  * While steps follow each other closely the engine stays in its own loop for up to STAY seconds, waiting up to a
    millisecond for the next bytes: a round through Trio costs as much as relaying an event. It never does so while
    any task is scheduled: a new stream must not wait behind the running ones.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from typing import Protocol

import trio

from relay.wires.splice import Pipe

if not hasattr(select, "epoll"):
    raise ImportError("relay needs Linux: this system has no epoll")

READ_EVENTS = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
WRITE_EVENTS = READ_EVENTS | select.EPOLLOUT
REST_EVENTS = select.EPOLLRDHUP | select.EPOLLET
# Events taken from the kernel at a time. Each may wake a task with a request to serve, and all of them have their turn
# before the next look: 5 ms where thousands of idle clients ask in the same moment.
BATCH = 64
STAY = 0.005  # seconds in the inner loop before Trio gets a turn, even without a woken task
LINGER = 0.001  # seconds; epoll's own resolution
REST = 0.001  # seconds


class Turning(Protocol):
    """What may have another turn: a wire, or whatever goes on for several."""

    @property
    def closed(self) -> bool: ...
    def crash(self, error: Exception) -> None: ...


class Resting(Protocol):
    """A socket whose bytes may gather in the kernel for a moment."""

    @property
    def fd(self) -> int: ...
    @property
    def closed(self) -> bool: ...
    @property
    def wants_write(self) -> bool: ...


class Registered(Protocol):
    def ready(self, mask: int) -> None: ...
    def crash(self, error: Exception) -> None: ...


class Engine(trio.abc.Instrument):
    """The nested epoll of one worker. `run` is its one task.

    It is an instrument because that is how Trio tells which tasks are scheduled.
    """

    __slots__ = (
        "_again",
        "_asleep",
        "_bell",
        "_epoll",
        "_handlers",
        "_others",
        "_others_before",
        "_rest_until",
        "_resting",
        "_task",
        "now",
        "on_lack",
        "pipe",
    )

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Registered] = {}
        self._again: list[tuple[Turning, Callable[[], None]]] = []
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        # Never read: each write is an edge
        self._epoll.register(self._bell, select.EPOLLIN | select.EPOLLET)
        self._resting: list[Resting] = []
        self._rest_until = 0.0
        self._asleep = False  # waits in Trio for the kernel's next news
        self._task: trio.lowlevel.Task | None = None  # the one that runs this
        self._others = True  # some other task was scheduled since the last turn
        self._others_before = False  # and so it was between the two turns before
        self.now = 0.0  # trio.current_time() of this round
        self.pipe = Pipe()
        # Called where a descriptor is lacking, before a second try: closes what is only kept for later.
        self.on_lack: Callable[[], None] = _nothing

    def __len__(self) -> int:
        """How many sockets are registered."""
        return len(self._handlers)

    @property
    def turns_asked(self) -> int:
        """How many steps wait for another turn."""
        return len(self._again)

    def add(self, wire: Registered, fd: int, *, writing: bool = False) -> None:
        if self._epoll.closed:
            return  # cancelled together with whoever connected this just now, and who closes it
        self._epoll.register(fd, WRITE_EVENTS if writing else READ_EVENTS)
        self._handlers[fd] = wire

    def hand_over(self, fd: int, handler: Registered) -> None:
        """Let `handler` hear of this socket from now on (a pump in place of its wire, and back)."""
        self._handlers[fd] = handler

    def discard(self, fd: int) -> None:
        """Forget a socket that is about to be closed."""
        if self._handlers.pop(fd, None) is not None and not self._epoll.closed:
            self._epoll.unregister(fd)

    def want_write(self, fd: int, wanted: bool) -> None:
        if not self._epoll.closed:  # cancelled together with those who still wait
            self._epoll.modify(fd, WRITE_EVENTS if wanted else READ_EVENTS)

    def again(self, wire: Turning, step: Callable[[], None]) -> None:
        """Give `step` another turn after the others had theirs. May be called by a task too."""
        self._again.append((wire, step))
        self._ring()

    def rest(self, wire: Resting) -> None:
        """Mask EPOLLIN of this socket for REST seconds, so that bytes gather in the kernel; hang-ups are still reported.

        For a step that runs again and again for a few bytes: together they cost one.
        """
        if not self._resting:
            self._rest_until = self.now + REST
        self._resting.append(wire)
        self._epoll.modify(wire.fd, REST_EVENTS)
        self._ring()

    def looks(self) -> int:
        """How many calls of `look` see all that lies in the kernel now: epoll reports ready sockets in turn."""
        return len(self._handlers) // BATCH + 1

    def look(self) -> bool:
        """Take the kernel's news once, outside of `run`. Returns: whether that was all of it."""
        if self._epoll.closed:
            return True
        self.now = trio.current_time()
        events = self._epoll.poll(0, BATCH)
        self._dispatch(events)
        if self._again or self._resting:
            os.eventfd_write(self._bell, 1)  # the poll may have taken the ring that was for `run`
        return len(events) < BATCH

    def _ring(self) -> None:
        """Wake `run`, if it is asleep."""
        if self._asleep:
            self._asleep = False
            os.eventfd_write(self._bell, 1)

    def _rouse(self) -> None:
        """Let the resting wires hear again, of what has come meanwhile too."""
        for wire in self._resting:
            if not wire.closed:
                self.want_write(wire.fd, wire.wants_write)
        self._resting.clear()

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        """Called by Trio."""
        if task is not self._task:
            self._others = True

    async def run(self) -> None:
        """Dispatch readiness, for ever. Cancellation: closes the epoll, not the sockets."""
        fd = self._epoll.fileno()
        self._task = trio.lowlevel.current_task()
        trio.lowlevel.add_instrument(self)
        try:
            while True:
                if self._rounds():
                    await trio.lowlevel.checkpoint()
                else:
                    self._asleep = True
                    await trio.lowlevel.wait_readable(fd)
                    self._asleep = False
        finally:
            self._asleep = False
            trio.lowlevel.remove_instrument(self)
            trio.lowlevel.notify_closing(fd)
            self._epoll.close()
            os.close(self._bell)
            self.pipe.close()

    def _rounds(self) -> bool:
        """Steps, as long as they follow each other. Returns: whether some want another turn at once.

        Trio runs tasks in batches: what was scheduled before the last turn may be in the same batch as this one, and
        still to come. So only two turns without any tell that nobody waits for Trio.
        """
        poll = self._epoll.poll
        clock = trio.lowlevel.current_clock().current_time
        before, self.now = self.now, clock()
        leave = self.now + STAY if self.now < before + LINGER else 0.0
        others = self._others or self._others_before
        self._others_before, self._others = self._others, False
        events = poll(0, BATCH)
        while True:
            self._dispatch(events)
            if self._resting and self.now >= self._rest_until:
                self._rouse()
            if self._again:
                self._run_again()
            elif not events and not self._resting:
                return False
            if others or self._others or self.now >= leave:
                return bool(self._again or self._resting)
            wait = 0.0 if self._again else LINGER
            events = poll(wait, BATCH)
            self.now = clock()
            if wait and not events:
                self._rest_until = 0.0  # the wait was a rest

    def _dispatch(self, events: list[tuple[int, int]]) -> None:
        handlers = self._handlers
        for fd, mask in events:
            handler = handlers.get(fd)
            if handler is None:
                continue  # closed by an earlier step of this round
            try:
                handler.ready(mask)
            except Exception as error:
                handler.crash(error)

    def _run_again(self) -> None:
        turn, self._again = self._again, []
        for wire, step in turn:
            if wire.closed:
                continue
            try:
                step()
            except Exception as error:
                wire.crash(error)


def _nothing() -> None:
    """The default of what is called where a descriptor is lacking: there is nothing to close."""
