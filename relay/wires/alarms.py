"""All deadlines of a worker in one heap, and what becomes of them while the process stands still.

Rules
  * An alarm is moved later for free: it is looked at when its entry comes up, and queued again then.
  * Nothing is queued further ahead than HORIZON. What has ended is forgotten at once: an entry of 100 bytes stays behind
    until its time, not what it was about; and where most of them are such, they go (thousands of connections a second
    would leave a hundred thousand behind).
  * `ring(now)` does what is due and returns when it wants to be looked at next (inf: never).
  * Nothing rings before the engine has looked at every socket: what had come by then counts. Two things may become
    ready in the same turn of Trio, a socket and a deadline, and Trio runs them in any order.
  * When this process was late, nothing rings for LOOK seconds, in which what has come meanwhile finds its way to those
    who wait for it. And the time in which it stood still (SIGSTOP, a frozen container, a paused machine, a step that
    took seconds) is nobody's silence: every clock is set back by it.
  * So every wait for somebody else is bounded here, and never by a deadline of Trio's, which knows neither rule.

Why not a cancel scope per wait: `move_on_after` costs 8 µs, moving a deadline 6 µs; an entry here costs 1 µs and
most requests queue none, because the entry of the previous request is still ahead of the new deadline.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from types import TracebackType
from typing import Any, Protocol, Self

import trio

from relay.wires.engine import Engine

# Seconds; the default heartbeat, so that a stream is looked at no oftener than it must
HORIZON = 15.0
FORGOTTEN = 1000  # entries about nobody that are always let be: 100 KB
LEAST = 0.001  # seconds until an alarm rings again: none can keep the worker to itself
TICK = 0.25  # seconds between two looks at the time while anything is armed; a stop is noticed to this exactness
LATE = 0.02  # seconds behind its time after which nothing is believed at once (arbitrary)
STOOD = 0.1  # seconds that are taken for a stop, and given back; a worker at its limit is later in no measurement
LOOK = 0.05  # seconds for what lies ready to be read, parsed and handed on through a few tasks (arbitrary)
MOST = 30.0  # seconds that one stop may set a clock back: a machine that slept for a night frees nobody for a day


# One look at an alarm to come: when (absolute seconds), a serial number, whose (None: forgotten).
Entry = list[Any]


class Alarm(Protocol):
    """Whoever waits for a time. One that measures the silence of somebody else has a `set_back` too."""

    entry: Entry | None  # its earliest look to come. Kept by Alarms; None at first.

    def ring(self, now: float) -> float: ...


class Clock(Alarm, Protocol):
    """An alarm that measures the silence of somebody else."""

    def set_back(self, seconds: float, now: float) -> None:
        """This process stood still: so many seconds of the silence were its own. They end `now` at the latest."""


class Alarms:
    """The deadlines of one worker. `run` is its one task."""

    __slots__ = ("_engine", "_forgotten", "_heap", "_lost", "_scope", "_serial")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._heap: list[Entry] = []
        self._forgotten = 0  # entries in it that are about nobody
        self._serial = count()
        self._scope = trio.CancelScope()  # around the sleep to the next look at the time
        self._lost = 0.0  # seconds in which the process stood still

    def __len__(self) -> int:
        """How many entries are kept, those included that were forgotten and not yet taken out."""
        return len(self._heap)

    def arm(self, alarm: Alarm, due: float) -> None:
        """See that `alarm` is looked at no later than `due` (absolute seconds)."""
        entry = alarm.entry
        if entry is not None and due >= entry[0]:
            return
        if due == inf:
            return
        now = trio.current_time()
        due = min(due, now + HORIZON)
        if entry is not None:
            if due >= entry[0]:
                return
            self._leave(entry)
        alarm.entry = entry = [due, next(self._serial), alarm]
        heappush(self._heap, entry)
        if due < self._scope.deadline:
            self._scope.deadline = min(due, now + TICK)

    def forget(self, alarm: Alarm) -> None:
        """Let go of an alarm that has come to its end, before its look is due."""
        if alarm.entry is not None:
            self._leave(alarm.entry)
            alarm.entry = None

    def _leave(self, entry: Entry) -> None:
        """Count an entry that no alarm wants any more; where most are such, take them out."""
        entry[2] = None
        self._forgotten += 1
        if self._forgotten > FORGOTTEN and 2 * self._forgotten > len(self._heap):
            self._heap[:] = [each for each in self._heap if each[2] is not None]
            heapify(self._heap)
            self._forgotten = 0

    def within(self, seconds: float) -> Deadline:
        """Cancels its block after so many seconds: `trio.move_on_after` by the rules of this module.

        For waits that are as long as a dial or a whole answer: it costs more than an alarm.
        """
        return Deadline(self, seconds)

    def awake(self) -> float:
        """The seconds of `trio.current_time()` in which this process did not stand still, for who measures a rate."""
        now = trio.current_time()
        late = now - self._scope.deadline  # of a stop that `run` has not noticed yet
        return now - self._lost - (late if late > STOOD else 0.0)

    async def run(self) -> None:
        """Ring what is due, for ever."""
        heap = self._heap
        pause_until = 0.0
        while True:
            due = max(min(heap[0][0], trio.current_time() + TICK), pause_until) if heap else inf
            with trio.CancelScope(deadline=due) as self._scope:
                await trio.sleep_forever()
            now = trio.current_time()
            late = now - self._scope.deadline
            if late > STOOD:
                self._stood_still(late, now)
            if late > LATE and not pause_until:  # once: who is late every time rings all the same
                pause_until = now + LOOK
                continue
            pause_until = 0.0
            if heap and heap[0][0] <= now:
                await self._look()
                self._ring_due(now)

    def _stood_still(self, late: float, now: float) -> None:
        """Set every clock back, by no more than the stop: it may have begun up to a tick earlier, but clocks must run out
        in a process that stands still again and again too."""
        self._lost += late
        seconds = min(late, MOST)
        for _, _, alarm in list(self._heap):
            set_back = getattr(alarm, "set_back", None)
            if set_back is not None:
                set_back(seconds, now)

    async def _look(self) -> None:
        """Have the engine take all that had come by now."""
        for _ in range(self._engine.looks()):
            if self._engine.look():
                return
            await trio.lowlevel.checkpoint()

    def _ring_due(self, now: float) -> None:
        heap = self._heap
        while heap and heap[0][0] <= now:
            alarm = heappop(heap)[2]
            if alarm is None:
                self._forgotten -= 1
                continue  # forgotten, or looked at earlier
            alarm.entry = None
            self.arm(alarm, max(alarm.ring(now), now + LEAST))


class Deadline:
    """The end of a block of code: a context manager, and a Clock.

    A block waits for several things one after the other, and not for sockets alone: it is cancelled when its time is
    over and LOOK seconds more, in which the task sees what has come.

    Attributes:
        seconds: how long it is.
        passed: the block was cancelled for it.
    """

    __slots__ = ("_alarms", "_believe_at", "_due", "_scope", "entry", "seconds")

    def __init__(self, alarms: Alarms, seconds: float) -> None:
        self._alarms = alarms
        self.seconds = seconds
        self._due = inf
        self._believe_at = 0.0
        self._scope = trio.CancelScope()
        self.entry: Entry | None = None

    @property
    def passed(self) -> bool:
        return self._scope.cancelled_caught

    def __enter__(self) -> Self:
        self.set(self.seconds)
        self._scope.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        self._alarms.forget(self)
        return bool(self._scope.__exit__(kind, error, trace))

    def set(self, seconds: float) -> None:
        """Give the block so many seconds from now on."""
        self.seconds = seconds
        self._due = trio.current_time() + seconds
        self._alarms.arm(self, self._due)

    def cancel(self) -> None:
        """End the block now."""
        self._scope.cancel()

    def ring(self, now: float) -> float:
        if now < self._due:
            return self._due
        self._believe_at = self._believe_at or now + LOOK
        if now < self._believe_at:
            return self._believe_at
        self._scope.cancel()
        return inf

    def set_back(self, seconds: float, now: float) -> None:
        self._due = min(self._due + seconds, now + self.seconds)
        self._believe_at = 0.0
