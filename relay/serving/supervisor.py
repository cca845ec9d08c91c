"""workers = N: a process that keeps N workers alive, and does nothing else.

    SIGTERM, SIGINT ─► all workers drain, a second one ─► end at once · SIGHUP ─► reload
    a worker dies ─► the log says how, another takes its place

Rules
  * It knows no Trio, no HTTP and no connection: what it does not do cannot fail. (And a fork is
    safe in a process without threads and event loops.)
  * Each worker has sockets of its own for every TCP address (SO_REUSEPORT: the kernel spreads the
    connections by hash, nobody is woken in vain). The supervisor holds them too: what waits in the
    queue of a worker that died waits for its successor, which is there in milliseconds. Bound in
    the worker alone they would be reset with it.
  * A worker that dies again and again is started ever later; meanwhile its sockets are closed, so
    that the kernel gives its share to the others and nobody waits where nobody comes.
  * unix sockets and those passed in are shared: whichever worker is free accepts.
"""

from __future__ import annotations

import gc
import logging
import os
import selectors
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import inf
from socket import socketpair
from typing import Any

from relay.config.values import Config
from relay.serving import reload
from relay.serving.activation import Passed
from relay.serving.children import Child, Restarts, Slot, describe_end, fork
from relay.serving.control import tell
from relay.serving.listeners import BindError, Listener
from relay.serving.notify import Notifier
from relay.serving.reload import Refused
from relay.serving.sharing import Sharing
from relay.serving.single import announce, tell_refused, tell_reloaded
from relay.serving.worker_process import LEAVING, READY, Seat, admin_main, worker_main

logger = logging.getLogger("relay")

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
_GRACE = 9.0  # seconds a worker may take longer than its drain (errands, spans) before it is killed
_QUIT = 3.0  # seconds it has after a second signal
_TELL_AGAIN = 1.0  # seconds between two words of the drain to the same slot
_BEAT = 5.0  # seconds between two looks at whether the workers live
_STUCK = 30.0  # seconds without a word after which a worker is killed: a loop that long is a fault
FAULT = 1


class Supervisor:
    """Keeps the workers. `run` returns the exit code."""

    def __init__(
        self,
        config: Config,
        listeners: list[Listener],
        admin: Listener | None,
        passed: Passed,
        notifier: Notifier,
    ) -> None:
        self._config = config
        self._names = [each.name for each in listeners]
        self._slots = [Slot(number) for number in range(config.server.workers)]
        self._sharing = Sharing(listeners, self._slots[0])
        self._admin = admin
        self._admin_restarts = Restarts()
        self._passed = passed
        self._notifier = notifier
        self._children: dict[int, Child] = {}
        self._selector = selectors.DefaultSelector()
        self._lifeline, self._life = os.pipe()  # the children's end and ours; nobody writes
        self._woken, self._wake = socketpair()
        self._announced = False
        self._draining = False
        self._kill_at = inf
        self._tell_at = inf
        self._beat = min(_BEAT, notifier.watchdog)
        self._beat_at = time.monotonic()
        self._code = 0

    def run(self) -> int:
        """Keep the workers until a signal, and until the last of them has ended."""
        self._watch_signals()
        gc.freeze()  # what is here now is shared with the children as long as nobody touches it
        try:
            for slot in self._slots:
                if slot.number:
                    self._sharing.open(slot)
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
        slot.restarts.due = inf
        seat = Seat(
            slot.number,
            self._config,
            [*slot.listeners, *self._sharing.shared],
            slot.worker_end,
            self._lifeline,
            generation=self._sharing.generation,
            beat=self._beat / 2,
        )

        def keep() -> None:
            self._put_down()
            for other in self._slots:
                other.asker.close()
                if other is not slot:
                    other.worker_end.close()
                    other.close()
            if self._admin is not None:
                self._admin.close()

        def run(report: int) -> int:
            seat.report = report
            return worker_main(seat)

        forked = self._fork(run, keep, slot.restarts)
        if forked is not None:
            slot.child = self._adopt(forked, f"worker {slot.number}", slot)

    def _start_admin(self) -> None:
        self._admin_restarts.due = inf
        admin, config = self._admin, self._config
        if admin is None:
            return

        def keep() -> None:
            self._put_down()
            for slot in self._slots:
                slot.worker_end.close()
                slot.close()
            for listener in self._sharing.shared:
                listener.close()

        def run(report: int) -> int:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it shows how the workers drain
            askers = [slot.asker for slot in self._slots]
            return admin_main(admin.sock, config, askers, self._lifeline)

        forked = self._fork(run, keep, self._admin_restarts)
        if forked is not None:
            self._adopt(forked, "admin", None)

    def _fork(
        self, run: Callable[[int], int], keep: Callable[[], None], restarts: Restarts
    ) -> tuple[int, int] | None:
        """Fork; None where the machine has no room just now: it is due again later."""
        try:
            return fork(run, keep)
        except OSError as error:
            if not self._announced:
                raise
            pause = restarts.died(0.0, time.monotonic())
            logger.error("no process can be started: %s; again in %g s", error.strerror, pause)
            return None

    def _put_down(self) -> None:
        """In a child: close what only the supervisor needs."""
        self._selector.close()
        self._woken.close()
        self._wake.close()
        os.close(self._life)
        for child in self._children.values():
            os.close(child.report)
        self._passed.close()

    def _adopt(self, forked: tuple[int, int], name: str, slot: Slot | None) -> Child:
        pid, report = forked
        child = Child(pid, name, report, slot, time.monotonic())
        self._children[pid] = child
        self._selector.register(report, selectors.EVENT_READ, lambda: self._hear(child))
        return child

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
        slot = child.slot
        if LEAVING in words and slot is not None and not self._draining:
            logger.info("%s (pid %d) drains; another takes its place", child.name, child.pid)
            child.slot = None
            os.kill(child.pid, signal.SIGUSR1)
            self._start_worker(slot)

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
        if pause and slot is not None:
            slot.close()

    def _restart(self, slot: Slot, now: float) -> None:
        if not slot.listeners:
            try:
                self._sharing.open(slot)
            except BindError as error:
                slot.close()
                pause = slot.restarts.died(0.0, now)
                logger.error("worker %d: %s; again in %g s", slot.number, error, pause)
                return
        self._start_worker(slot)

    # -- time ------------------------------------------------------------------------------------

    def _wait(self) -> float | None:
        """Seconds until something is due; None: nothing is."""
        due = min(self._kill_at, self._tell_at, self._beat_at, self._admin_restarts.due)
        due = min(due, *(slot.restarts.due for slot in self._slots))
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
        if self._draining:
            return
        for slot in self._slots:
            if now >= slot.restarts.due:
                self._restart(slot, now)
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
        for number in self._woken.recv(256):
            if number == signal.SIGHUP:
                self._reload()
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
        self._kill_at = time.monotonic() + self._config.timeouts.drain + _GRACE
        self._passed.close()
        self._sharing.close()
        self._admin_restarts.due = inf
        for slot in self._slots:
            slot.restarts.due = inf
            slot.close()
        self._tell_drain(time.monotonic())

    def _tell_drain(self, now: float) -> None:
        """Again after a while: a worker that leaves on its own may have taken its successor's word."""
        self._tell_at = now + _TELL_AGAIN
        for slot in self._slots:
            if slot.child is not None:
                self._tell(slot, {"do": "drain"})

    def _quit(self) -> None:
        self._kill_at = time.monotonic() + _QUIT
        for slot in self._slots:
            self._tell(slot, {"do": "quit"})
        for child in self._workers():
            if child.slot is None:
                os.kill(child.pid, signal.SIGKILL)

    def _tell(self, slot: Slot, request: Mapping[str, Any]) -> None:
        with self._listened(slot):
            tell(slot.asker, request)

    @contextmanager
    def _listened(self, slot: Slot) -> Iterator[None]:
        """Something is told to a worker in the block; one that does not listen is killed."""
        try:
            yield
        except OSError as error:  # its queue is full of requests that it does not take
            logger.error("worker %d does not listen (%s): killed", slot.number, error.strerror)
            if slot.child is not None:
                os.kill(slot.child.pid, signal.SIGKILL)

    # -- reload ----------------------------------------------------------------------------------

    def _reload(self) -> None:
        """Check the file as it is now, then have every worker take it."""
        if self._draining:
            return
        self._notifier.reloading()
        try:
            change = reload.plan(self._config, self._sharing.bound, self._passed, os.environ)
        except Refused as refused:
            tell_refused(refused)
        else:
            self._take(change)
            tell_reloaded(change)
        self._notifier.ready()

    def _take(self, change: reload.Change) -> None:
        if change.log_fd is not None and change.log_fd > 2:
            os.close(change.log_fd)  # it was a trial: each worker opens its own
        self._config = change.config
        self._sharing.take(change)
        for slot in self._slots:
            if slot.child is not None:
                with self._listened(slot):
                    self._sharing.hand_over(slot, change)
