"""The supervisor's children: what is known of each, how it ended, and when the next may start."""

from __future__ import annotations

import os
import signal
import traceback
import warnings
from collections.abc import Callable
from math import inf
from typing import NoReturn

from relay.admin.control import open_slot
from relay.processes.standard_streams import StandardStreams
from relay.serving.listeners import Listener

STABLE = 10.0  # seconds after which a death counts as the first again
_FIRST_PAUSE = 0.1  # seconds before the start after the second death in a row, then doubled
_LONGEST_PAUSE = 5.0


class Child:
    """A process that was forked here. Times are time.monotonic() seconds."""

    __slots__ = ("beat", "name", "pid", "ready", "report", "slot", "started")

    def __init__(self, pid: int, name: str, report: int, slot: Slot | None, now: float) -> None:
        self.pid = pid
        self.name = name  # for the log
        self.report = report  # the reading end of what it says
        self.slot = slot  # None: the admin process, or a worker that drains alone
        self.started = now
        self.beat = now  # when it was last heard of
        self.ready = False


class Restarts:
    """Back-off: the first death costs nothing, the next in a row ever more."""

    __slots__ = ("_failures", "due")

    def __init__(self) -> None:
        self._failures = 0
        self.due = inf  # when to start the next; inf: nothing to start

    def died(self, lived: float, now: float) -> float:
        """Seconds to wait for the next start, which is due then."""
        self._failures = 1 if lived >= STABLE else self._failures + 1
        pause = 0.0
        if self._failures > 1:
            pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (self._failures - 2))
        self.due = now + pause
        return pause


class Slot:
    """A worker's place: its number, its control sockets, its own TCP sockets."""

    __slots__ = ("asker", "child", "listeners", "number", "restarts", "worker_end")

    def __init__(self, number: int) -> None:
        self.number = number
        self.asker, self.worker_end = open_slot()
        self.listeners: list[Listener] = []
        self.restarts = Restarts()
        self.child: Child | None = None

    def close(self) -> None:
        """Close the sockets here; a worker that has them keeps its own."""
        for listener in self.listeners:
            listener.close()
        self.listeners.clear()


def fork(
    run: Callable[[int], int], keep: Callable[[], None], standard: StandardStreams, prefix: str
) -> tuple[int, int]:
    """A child that does `run(report)` and ends with its result; `report` is a descriptor that it
    writes to. `keep` is called first, in the child, to put down what is not its own.

    The log's thread may be at work in the parent. It is not in the child; what it may have held
    there is renewed (`StandardStreams.renew`) or never used.

    Returns: its pid, and the reading end of its report. Raises: OSError: there is no room for one.
    """
    reading, report = os.pipe()
    # A signal in the child's first moments would be told to the parent, through what they share.
    signals = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of the thread, from Python 3.12
            pid = os.fork()
        if not pid:
            _child(run, keep, standard, prefix, reading, report, signals)
    except OSError:
        os.close(reading)
        os.close(report)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)
    os.close(report)
    os.set_blocking(reading, False)
    return pid, reading


def _child(
    run: Callable[[int], int],
    keep: Callable[[], None],
    standard: StandardStreams,
    prefix: str,
    reading: int,
    report: int,
    signals: set[int | signal.Signals],
) -> NoReturn:
    code = 1
    try:
        standard.renew(prefix)
        # Its own handler comes later: until then a signal that opens a log anew finds one just opened.
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        for number in (signal.SIGHUP, signal.SIGINT):  # a terminal's Ctrl-C is the supervisor's
            signal.signal(number, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)
        os.close(reading)
        keep()
        os.set_blocking(report, False)
        code = run(report)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            standard.close()
        finally:
            os._exit(code)  # not through the stack of the supervisor, whose cleaning up is not ours


def describe_end(status: int) -> str:
    """How a child ended, from its wait status."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
