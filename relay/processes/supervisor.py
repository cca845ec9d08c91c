"""workers = N: a process that keeps N workers alive, and does nothing else.

    SIGTERM, SIGINT ─► all workers drain, a second one ─► end at once · SIGHUP ─► reload
    SIGUSR1 ─► all workers open the access log's file anew
    a worker dies ─► the log says how, another takes its place

Rules
  * It knows no Trio, no HTTP and no connection: what it does not do cannot fail. It never waits but
    in its one `select`: neither for the reader of its log (`standard_streams`) nor for a file (`reload`).
  * It forks. Its only other threads are the log's, which hold nothing that a child needs, and the
    one that reads a new configuration: nothing is forked before that has ended.
  * Each worker has sockets of its own for every TCP address (SO_REUSEPORT: the kernel spreads the
    connections by hash, nobody is woken in vain). The supervisor holds them too, from the start to
    the drain: a queue outlives its worker, and while there is none another serves it (`orphaned_queues`).
  * A worker that dies again and again is started ever later.
  * unix sockets and those passed in are shared: whichever worker is free accepts.
"""

from __future__ import annotations

import gc
import logging
import os
import selectors
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from socket import socketpair
from typing import Any

from relay.admin.control import tell
from relay.processes.children import Child, Restarts, Slot, describe_end
from relay.processes.messages import announce, tell_refused, tell_reloaded
from relay.processes.orphaned_queues import OrphanedQueues
from relay.processes.setup import Setup
from relay.processes.starting import Starter
from relay.processes.worker import ALONE, LEAVING, READY
from relay.processes.worker_sockets import WorkerSockets
from relay.serving import reload
from relay.serving.reload import Change, Planning, Refused
from relay.stores.opening import keep_store

logger = logging.getLogger("relay")

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)
_PLANNED = 0  # no signal has this number: a new configuration has been read
EXIT_GRACE = 10.0  # seconds a worker may take longer than its drain (background tasks, spans, log) before it is killed
_QUIT = 5.0  # seconds it has after a second signal: for the last lines of its log
_TELL_AGAIN = 1.0  # seconds between two words of the drain to the same slot
_FORK_LATER = 0.05  # seconds until the next look at whether the new configuration has been read
_BEAT = 5.0  # seconds between two looks at whether the workers live
_STUCK = 30.0  # seconds without a word after which a worker is killed: a loop that long is a fault
FAULT = 1


class Supervisor:
    """Keeps the workers. `run` returns the exit code."""

    def __init__(self, setup: Setup) -> None:
        """Raises: BindError, OSError: not every worker can have its sockets."""
        self._config = setup.config
        self._names = [each.name for each in setup.listeners]
        self._slots = [Slot(number) for number in range(setup.config.server.workers)]
        self._sockets = WorkerSockets(setup.listeners, self._slots)
        self._starter = Starter(
            self._slots, self._sockets, setup.admin, setup.standard, self._put_down
        )
        self._orphans = OrphanedQueues(self._slots, self._tell)
        self._admin_restarts = Restarts()
        self._passed = setup.passed
        self._notifier = setup.notifier
        self._children: dict[int, Child] = {}
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = socketpair()
        self._planning: Planning | None = None
        self._plan_by = inf
        self._plan_again = False  # a signal came while the file was being read
        self._announced = False
        self._draining = False
        self._kill_at = inf
        self._tell_at = inf
        self._beat = min(_BEAT, setup.notifier.watchdog)
        self._beat_at = time.monotonic()
        self._code = 0

    def run(self) -> int:
        """Keep the workers until a signal, and until the last of them has ended."""
        self._watch_signals()
        gc.freeze()  # what is here now is shared with the children as long as nobody touches it
        try:
            for slot in self._slots:
                self._start_worker(slot)
            while self._workers() or not self._draining:
                for key, _ in self._selector.select(self._wait()):
                    key.data()
                self._reap()
                self._keep_time(time.monotonic())
        finally:
            for pid in self._children:
                os.kill(pid, signal.SIGKILL)
        return self._code

    # -- children --------------------------------------------------------------------------------

    def _workers(self) -> list[Child]:
        return [child for child in self._children.values() if child.name != "admin"]

    def _start_worker(self, slot: Slot) -> None:
        start = partial(self._starter.worker, slot, self._config, self._beat / 2)
        slot.child = self._start(start, f"worker {slot.number}", slot, slot.restarts)

    def _start_admin(self) -> None:
        if self._starter.has_admin:
            start = partial(self._starter.admin, self._config)
            self._start(start, "admin", None, self._admin_restarts)

    def _start(
        self, start: Callable[[], tuple[int, int]], name: str, slot: Slot | None, restarts: Restarts
    ) -> Child | None:
        """None: it cannot be started just now, and is due again later."""
        if self._planning is not None:
            restarts.due = time.monotonic() + _FORK_LATER
            return None
        restarts.due = inf
        try:
            pid, report = start()
        except OSError as error:
            if not self._announced:
                raise
            pause = restarts.died(0.0, time.monotonic())
            logger.error("no process can be started: %s; again in %g s", error.strerror, pause)
            return None
        child = Child(pid, name, report, slot, time.monotonic())
        self._children[pid] = child
        self._selector.register(report, selectors.EVENT_READ, lambda: self._hear(child))
        return child

    def _put_down(self) -> None:
        """In a child: close what only the supervisor needs."""
        self._selector.close()
        self._woken.close()
        self._wake.close()
        for child in self._children.values():
            os.close(child.report)
        self._passed.close()

    def _hear(self, child: Child) -> None:
        """A child says something, or can no longer."""
        try:
            words = os.read(child.report, 256)
        except BlockingIOError:
            return
        if not words:
            self._selector.unregister(child.report)
            return
        child.beat = time.monotonic()
        if READY in words:
            child.ready = True
            self._announce()
            self._cover()
        if LEAVING in words:
            self._obey()  # the signal may have come to all: then it is here too
            self._let_go(child)

    def _let_go(self, child: Child) -> None:
        """A worker asks to drain alone."""
        slot = child.slot
        if slot is None or self._draining:
            return
        logger.info("%s (pid %d) drains; another takes its place", child.name, child.pid)
        child.slot = None
        os.kill(child.pid, ALONE)
        self._start_worker(slot)
        self._cover()

    def _cover(self) -> None:
        if self._announced and not self._draining:
            self._orphans.look()

    def _announce(self) -> None:
        if self._announced or not all(slot.child and slot.child.ready for slot in self._slots):
            return
        self._announced = True
        self._start_admin()
        announce(self._names)
        self._notifier.ready(f"{len(self._slots)} workers on {', '.join(self._names)}")

    def _reap(self) -> None:
        """Take note of every child that has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            child = self._children.pop(pid, None)
            if child is not None:
                self._ended(child, status)

    def _ended(self, child: Child, status: int) -> None:
        if child.report in self._selector.get_map():
            self._selector.unregister(child.report)
        os.close(child.report)
        slot, how = child.slot, describe_end(status)
        if slot is None and child.name != "admin":
            logger.info("%s (pid %d) has drained: %s", child.name, child.pid, how)
            return
        if slot is not None:
            slot.child = None
        if self._draining:
            if status:
                logger.error("%s (pid %d) %s while it drained", child.name, child.pid, how)
            return
        if not self._announced:
            logger.error("%s (pid %d) %s before it was ready", child.name, child.pid, how)
            self._code = FAULT
            self._drain()
            return
        restarts = self._admin_restarts if slot is None else slot.restarts
        now = time.monotonic()
        pause = restarts.died(now - child.started, now)
        when = f"in {pause:g} s" if pause else "now"
        logger.error("%s (pid %d) %s; another starts %s", child.name, child.pid, how, when)
        self._cover()

    # -- time ------------------------------------------------------------------------------------

    def _wait(self) -> float | None:
        """Seconds until something is due; None: nothing is."""
        due = min(self._kill_at, self._tell_at, self._beat_at, self._admin_restarts.due)
        due = min(due, self._plan_by, *(slot.restarts.due for slot in self._slots))
        return None if due == inf else max(0.0, due - time.monotonic())

    def _keep_time(self, now: float) -> None:
        """Do what is due."""
        if now >= self._kill_at:
            self._kill_at = inf
            for child in self._workers():
                logger.error("%s (pid %d) did not end in time: killed", child.name, child.pid)
                os.kill(child.pid, signal.SIGKILL)
        if now >= self._beat_at:
            self._notifier.alive()
            self._look_for_stuck(now)
            self._beat_at = now + self._beat
        if now >= self._tell_at:
            self._tell_drain(now)
        if now >= self._plan_by:
            self._finish_reload()
        if self._draining:
            return
        for slot in self._slots:
            if now >= slot.restarts.due:
                self._start_worker(slot)
        if now >= self._admin_restarts.due:
            self._start_admin()

    def _look_for_stuck(self, now: float) -> None:
        """Kill a worker whose event loop does not turn: what waits for it would wait for ever."""
        we_slept = now - self._beat_at > _BEAT  # stopped by a terminal: the workers were too
        for child in self._workers():
            if we_slept or not child.ready:
                child.beat = now
            elif now - child.beat > _STUCK:
                logger.error("%s (pid %d) is stuck: killed", child.name, child.pid)
                os.kill(child.pid, signal.SIGKILL)
                child.beat = now

    # -- signals ---------------------------------------------------------------------------------

    def _watch_signals(self) -> None:
        self._woken.setblocking(False)
        self._wake.setblocking(False)
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._woken, selectors.EVENT_READ, self._obey)

    def _obey(self) -> None:
        try:
            numbers = self._woken.recv(256)
        except BlockingIOError:
            return
        for number in numbers:
            if number == signal.SIGHUP:
                self._reload()
            elif number == signal.SIGUSR1:
                for child in self._workers():
                    os.kill(child.pid, number)
            elif number == _PLANNED:
                self._finish_reload()
            elif number in (signal.SIGTERM, signal.SIGINT):
                if self._draining:
                    self._quit()
                else:
                    logger.info("%s: draining", signal.Signals(number).name)
                    self._drain()

    def _drain(self) -> None:
        """No new connections; every worker ends when its exchanges have."""
        self._draining = True
        self._notifier.stopping()
        self._kill_at = time.monotonic() + self._config.timeouts.drain + EXIT_GRACE
        self._passed.close()
        self._sockets.close()
        self._admin_restarts.due = inf
        for slot in self._slots:
            slot.restarts.due = inf
        self._tell_drain(time.monotonic())

    def _tell_drain(self, now: float) -> None:
        """Tell all workers, every _TELL_AGAIN seconds: a worker that was leaving already shares its slot with its
        successor, and may have read the message that was meant for that one."""
        self._tell_at = now + _TELL_AGAIN
        for slot in self._slots:
            if slot.child is not None:
                self._tell(slot, {"do": "drain"})

    def _quit(self) -> None:
        """Every worker ends at once, those that drain alone too, and writes its last lines."""
        self._kill_at = min(self._kill_at, time.monotonic() + _QUIT)
        for child in self._workers():
            os.kill(child.pid, signal.SIGUSR2)

    def _tell(self, slot: Slot, request: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """Tell a slot's worker; one that does not listen is killed."""
        try:
            tell(slot.asker, request, fds)
        except OSError as error:  # its queue is full of requests that it does not take
            logger.error("worker %d does not listen (%s): killed", slot.number, error.strerror)
            if slot.child is not None:
                os.kill(slot.child.pid, signal.SIGKILL)

    # -- reload ----------------------------------------------------------------------------------

    def _reload(self) -> None:
        """Have the file read as it is now."""
        if self._draining:
            return
        if self._planning is not None:
            self._plan_again = True
            return
        self._notifier.reloading()
        self._plan_by = time.monotonic() + reload.PATIENCE
        plan = partial(
            reload.plan,
            self._config,
            self._sockets.bound,
            self._passed,
            os.environ,
            len(self._slots),
        )
        self._planning = Planning(plan, self._planned)

    def _planned(self) -> None:
        """In the thread that has read it."""
        with suppress(OSError):  # it is full of signals: then `_plan_by` is the next look
            self._wake.send(bytes((_PLANNED,)))

    def _finish_reload(self) -> None:
        """It has been read, or it is time to give up: have every worker take it."""
        planning, self._planning = self._planning, None
        self._plan_by = inf
        if planning is None:
            return
        try:
            if not self._draining:
                self._take(planning.take())
        except Refused as refused:
            tell_refused(refused)
        finally:
            planning.close()
        if not self._draining:
            self._notifier.ready()
        if self._plan_again:
            self._plan_again = False
            self._reload()

    def _take(self, change: Change) -> None:
        reload.close_log(change.log_fd)  # it was a trial: each worker opens its own
        self._config = keep_store(self._config, change.config)
        self._sockets.take(change)
        for slot in self._slots:
            if slot.child is not None:
                self._tell(slot, *self._sockets.news(slot, change))
        os.close(change.text)
        self._orphans.renew()
        tell_reloaded(change)
