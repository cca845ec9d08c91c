"""workers = 1: one process without a supervisor.

SIGTERM, SIGINT ─► drain, a second one ─► end at once · SIGHUP ─► reload
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator

import trio

from relay.config.values import Config
from relay.exchange.worker import Worker
from relay.serving import reload
from relay.serving.activation import Passed
from relay.serving.control import Control, LocalControl
from relay.serving.listeners import Listener
from relay.serving.notify import Notifier
from relay.serving.reload import Refused
from relay.serving.server import Server

logger = logging.getLogger("relay")


class Single:
    """The one process. `run` returns the exit code."""

    def __init__(
        self,
        config: Config,
        listeners: list[Listener],
        admin: Listener | None,
        passed: Passed,
        notifier: Notifier,
    ) -> None:
        self._config = config
        self._opened = listeners
        self._admin = admin
        self._passed = passed
        self._notifier = notifier

    async def run(self) -> int:
        """Serve until a signal, then drain. Raises: Refused: there is no access log."""
        server = Server(Worker(self._config, reload.open_log(self._config)), self._opened)
        names = [listener.name for listener in self._opened]
        try:
            async with trio.open_nursery() as nursery:
                with trio.open_signal_receiver(
                    signal.SIGTERM, signal.SIGINT, signal.SIGHUP
                ) as signals:
                    nursery.start_soon(self._obey, signals, server, nursery.cancel_scope)
                    await nursery.start(_run_then_cancel, server, nursery.cancel_scope)
                    if self._admin is not None:
                        control = LocalControl(server, time.time())
                        nursery.start_soon(_admin, self._admin.sock, self._config, control)
                    nursery.start_soon(self._tell_that_it_lives)
                    announce(names)
                    self._notifier.ready(f"listening on {', '.join(names)}")
                    await trio.sleep_forever()
        finally:
            for listener in server.listeners:
                listener.remove_file()
        return 0

    async def _obey(
        self, signals: AsyncIterator[int], server: Server, scope: trio.CancelScope
    ) -> None:
        async for number in signals:
            if number == signal.SIGHUP:
                await self._reload(server)
            elif server.draining:
                scope.cancel()
            else:
                logger.info("%s: draining", signal.Signals(number).name)
                self._notifier.stopping()
                self._passed.close()
                server.stop()

    async def _reload(self, server: Server) -> None:
        """Take the file as it is now, or refuse it and change nothing."""
        if server.draining:
            return
        self._notifier.reloading()
        bound = [each.address for each in server.listeners if each.address is not None]
        try:
            change = await trio.to_thread.run_sync(
                reload.plan,
                self._config,
                bound,
                self._passed,
                os.environ,
                limiter=server.worker.threads.configuration,
            )
        except Refused as refused:
            tell_refused(refused)
        else:
            self._config = change.config
            server.configure(change.config, change.log_fd)
            for listener in change.opened:
                server.open(listener)
            for listener in server.listeners:
                if listener.address in change.closed:
                    server.shut(listener)
            tell_reloaded(change)
        self._notifier.ready()

    async def _tell_that_it_lives(self) -> None:
        while True:
            self._notifier.alive()
            await trio.sleep(self._notifier.watchdog)


async def _admin(sock: socket.socket, config: Config, control: Control) -> None:
    from relay.serving.admin import serve_admin  # not loaded where it is off

    await serve_admin(sock, config, control)


async def _run_then_cancel(
    server: Server,
    scope: trio.CancelScope,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    await server.run(task_status=task_status)
    scope.cancel()


def announce(names: list[str]) -> None:
    """Say that connections are accepted, a line for each listener."""
    print("".join(f"relay: listening on {name}\n" for name in names), end="", file=sys.stderr)
    sys.stderr.flush()


def tell_refused(refused: Refused) -> None:
    logger.error("the new configuration is refused, nothing changes: %s", refused)


def tell_reloaded(change: reload.Change) -> None:
    logger.info("reloaded")
    announce([listener.name for listener in change.opened])
    for key in change.restart:
        logger.warning("%s has changed: that takes effect at the next start", key)
